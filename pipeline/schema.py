"""graph.toml: how an application's own messages become this graph.

    Schema
      name
      events      which field holds the type, and the application's words for our types and fields, topic by topic
      time        unit of `ts`, the range that is believed, what a message without one is
      nodes       target by default; ttl
      features    name -> Numeric | Log1p | OneHot | Vector | Weekday      (a node's own channels)
      arrivals    half-lives of the decayed arrival counts                 (channels the graph adds, per relation)
      labels      words, half-lives, smoothing                             (channels the moderators add, per relation)
      relations   name -> Relation of kind group or edge

The raw input channels of a node stand in this order, and `channel_names` names them:

    own, feature by feature | arrival, relation by relation | label, relation by relation | deviation, likewise

A schema is data: it is copied into every checkpoint, and its `fingerprint` says whether two are the same.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from pipeline.durations import parse_duration
from pipeline.errors import SchemaError
from pipeline.misfit import first_misfit, join_key
from pipeline.sections import (
    EVENT_TYPES,
    Arrivals,
    Events,
    Feature,
    Labels,
    Log1p,
    Nodes,
    Numeric,
    OneHot,
    Problem,
    Relation,
    Time,
    Vector,
    Weekday,
    seconds,
    text_of,
    timestamp,
)

__all__ = ["EVENT_TYPES", "Relation", "Schema", "load_schema", "parse_schema"]

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NAME = re.compile(r"[\w-]{1,64}")  # no dot and no '=': both have a meaning in the names of channels


class Read(NamedTuple):
    """A place in the application's messages that the schema reads."""

    path: str  # dotted
    form: str  # text, name, number, scalar, flag, edges, or vector
    key: str  # of the schema that says so


class Schema(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    name: Annotated[str, Meta(min_length=1)]
    features: dict[str, Feature] = {}
    relations: dict[str, Relation] = {}
    events: Events = Events()
    time: Time = Time()
    nodes: Nodes = Nodes()
    arrivals: Arrivals = Arrivals()
    labels: Labels = Labels()

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that differ when the schema does."""
        return _digest(self)

    @cached_property
    def layout(self) -> str:
        """Twelve hex digits that differ when columns packed for one schema would mean something else in the other."""
        features = [(type(f).__name__, self.own_channels[self.own_slices[n]]) for n, f in self.features.items()]
        relations = [(name, x.kind, x.group_by) for name, x in self.relations.items()]
        return _digest([features, relations])

    @cached_property
    def relation_names(self) -> list[str]:
        return list(self.relations)

    @cached_property
    def has_edges(self) -> bool:
        """Is any relation made of edges?"""
        return any(relation.kind == "edge" for relation in self.relations.values())

    @cached_property
    def groups(self) -> list[tuple[int, Relation]]:
        """The group relations, each with its index among all relations."""
        return [(r, relation) for r, relation in enumerate(self.relations.values()) if relation.kind == "group"]

    @cached_property
    def half_lives(self) -> list[float]:
        """Each relation's half-life in seconds, infinity where it has none."""
        return [seconds(relation.half_life) for relation in self.relations.values()]

    @cached_property
    def arrival_half_lives(self) -> list[float]:
        return [parse_duration(text) for text in self.arrivals.half_lives]

    @cached_property
    def label_half_lives(self) -> list[float]:
        return [parse_duration(text) for text in self.labels.half_lives]

    @cached_property
    def ttl(self) -> float:
        return seconds(self.nodes.ttl)

    @cached_property
    def ts_range(self) -> tuple[float, float]:
        """Earliest and latest believable event time, seconds since the epoch."""
        return timestamp(self.time.earliest), timestamp(self.time.latest)

    @cached_property
    def max_ahead(self) -> float:
        return seconds(self.time.max_ahead)

    @cached_property
    def own_channels(self) -> list[str]:
        """Names of a node's own channels, feature by feature."""
        return [channel for name, feature in self.features.items() for channel in _channels(name, feature)]

    @cached_property
    def own_slices(self) -> dict[str, slice]:
        """Where each feature's channels stand among a node's own channels."""
        slices, start = {}, 0
        for name, feature in self.features.items():
            stop = start + len(_channels(name, feature))
            slices[name], start = slice(start, stop), stop
        return slices

    @cached_property
    def deviating(self) -> list[int]:
        """The own channels whose deviation from each list's mean is a channel too."""
        flagged = {n for n, f in self.features.items() if isinstance(f, Numeric | Log1p) and f.deviation}
        return [c for c, channel in enumerate(self.own_channels) if channel in flagged]

    @cached_property
    def channel_names(self) -> list[str]:
        """Names of all raw input channels, in order."""
        arrival = ["count", "since_last", *(f"arrivals_{text}" for text in self.arrivals.half_lives)]
        label = ["spam_share", "labelled", *(f"spam_share_{text}" for text in self.labels.half_lives)]
        deviation = [f"{self.own_channels[c]}_deviation" for c in self.deviating]
        graph = [f"{r}.{name}" for block in (arrival, label, deviation) for r in self.relations for name in block]
        return self.own_channels + graph

    @cached_property
    def indicators(self) -> list[bool]:
        """Which raw channels are 0 or 1 by construction, and so need no transform."""
        own = [isinstance(f, OneHot | Weekday) for n, f in self.features.items() for _ in _channels(n, f)]
        return own + [False] * (len(self.channel_names) - len(own))

    @property
    def topics(self) -> list[str]:
        """The topics that have words of their own."""
        return list(self.events.topics or {})

    def of_topic(self, name: str) -> "Schema":
        """Return the schema of the messages of one topic: this one, but for the words that the topic has of its own."""
        words = (self.events.topics or {}).get(name)
        if words is None:
            return self
        time = msgspec.structs.replace(self.time, unit=words.unit or self.time.unit)
        return msgspec.structs.replace(self, events=self.events.of_topic(words), time=time)

    @cached_property
    def reads(self) -> list[Read]:
        """All that is read from a message, and as what."""
        return list(_reads(self))

    def path(self, name: str) -> str:
        """Return the dotted path at which the application's messages hold our field `name`."""
        return self.events.fields.get(name, name)


def load_schema(path: Path) -> Schema:
    """Read graph.toml; SchemaError names the file, the key and what would be right."""
    try:
        return parse_schema(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"cannot read the schema {path}: {error}; examples are in deploy/schemas") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SchemaError(f"{path} is not valid TOML: {error}; examples are in deploy/schemas") from None


def parse_schema(tree: dict[str, Any], source: str) -> Schema:
    """Turn a TOML or JSON tree into a checked schema; `source` is named in errors."""
    try:
        schema = msgspec.convert(tree, Schema)
    except msgspec.ValidationError as error:
        raise SchemaError(f"{source}: {first_misfit(tree, Schema) or error}") from None
    for key, problem in _problems(schema):
        raise SchemaError(f"{source}: {key}: {problem}")
    return schema


def source_of(name: str, feature: Feature) -> str | None:
    """Return the dotted path that a feature is read from; None for `weekday`."""
    return None if isinstance(feature, Weekday) else feature.field or name


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]


def _channels(name: str, feature: Feature) -> list[str]:
    match feature:
        case OneHot():
            return [f"{name}={text_of(value)}" for value in feature.values] + [f"{name}=other"] * feature.other
        case Vector():
            return [f"{name}[{i}]" for i in range(feature.length)]
        case Weekday():
            return [f"{name}={day}" for day in WEEKDAYS]
    return [name]


def _reads(schema: Schema) -> Iterator[Read]:
    time = "text" if schema.time.unit == "iso8601" else "number"
    forms = {"id": "name", "ts": time, "label": "scalar", "relation": "text", "src": "name", "dst": "name"}
    forms |= {"target": "flag", "edges": "edges"}
    yield Read(schema.events.type, "text", "events.type")
    for name, form in forms.items():
        yield Read(schema.path(name), form, f"events.fields.{name}")
    for name, feature in schema.features.items():
        path, key = source_of(name, feature), f"features.{name}.field"
        if path is not None and isinstance(feature, Vector):
            yield Read(path, "vector", key)
        elif path is not None:
            yield Read(path, "scalar" if isinstance(feature, OneHot) else "number", key)
    for name, relation in schema.relations.items():
        for i, path in enumerate(relation.group_by):
            yield Read(path, "scalar", f"relations.{name}.group_by[{i}]")


def _reads_of_topic(schema: Schema, topic: str) -> list[Read]:
    """All that is read from the messages of `topic`, by the keys that say so for them."""
    words = (schema.events.topics or {})[topic]
    own = {f"events.fields.{name}" for name in words.fields} | ({"events.type"} if words.type is not None else set())
    place = join_key("events.topics", topic) + "."
    return [
        read._replace(key=place + read.key.removeprefix("events.")) if read.key in own else read
        for read in schema.of_topic(topic).reads
    ]


def _problems(schema: Schema) -> Iterator[Problem]:
    """What is wrong beyond the types, as (key, problem and remedy)."""
    if not schema.features:
        yield "features", "none given; a node needs at least one, for example [features.weekday] kind = 'weekday'"
    if not schema.relations:
        yield "relations", "none given; a graph needs at least one, for example [relations.user] group_by = ['user']"
    for table in ("features", "relations"):
        for name, section in getattr(schema, table).items():
            key = join_key(table, name)
            yield from _name_problems(key, name)
            yield from ((f"{key}.{place}", problem) for place, problem in section.problems())
    for table in ("events", "time", "nodes", "arrivals", "labels"):
        for place, problem in getattr(schema, table).problems():
            yield f"{table}.{place}", problem
    yield from _path_problems(schema.reads)
    for topic in schema.topics:
        yield from _path_problems(_reads_of_topic(schema, topic))


def _name_problems(key: str, name: str) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        hint = "; put a path into `field` or `group_by`" if "." in name else ""
        yield key, f"a name is 1 to 64 letters, digits, '_' and '-'{hint}"
    if key == "relations.self":
        yield key, "'self' is the model's own branch; choose another name"


def _path_problems(reads: list[Read]) -> Iterator[Problem]:
    """Two uses of one place must agree whether it holds a value, a list or an object."""
    first: dict[str, Read] = {}
    for read in reads:
        if not all(read.path.split(".")):
            yield read.key, f"{read.path!r} is no path; write field names with dots between, like 'user.id'"
        known = first.setdefault(read.path, read)
        shapes = {r.form if r.form in ("vector", "edges") else "value" for r in (read, known)}
        if len(shapes) > 1:
            yield read.key, f"{read.path!r} is read as {read.form} here and as {known.form} by {known.key}; rename one"
    for read in reads:
        for end in (i for i, letter in enumerate(read.path) if letter == "."):
            outer = first.get(read.path[:end])
            if outer:
                yield read.key, f"{read.path!r} lies within {outer.path!r}, which {outer.key} reads as {outer.form}"
