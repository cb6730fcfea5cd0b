"""graph.toml: how an application's own messages become this graph.

    Schema
      name
      events      which field holds the type, and the application's words for our types and fields
      time        unit of `ts`, the range that is believed
      nodes       target by default; ttl
      features    name -> Numeric | Log1p | OneHot | Vector | Weekday      (a node's own channels)
      arrivals    half-lives of the decayed arrival counts                 (channels the graph adds, per relation)
      labels      words, half-lives, smoothing                             (channels the moderators add, per relation)
      relations   name -> Relation of kind group or edge

The raw input channels of a node stand in this order, and `channel_names` names them:

    own, feature by feature | arrival, relation by relation | label, relation by relation | deviation, likewise

A schema is data: it is copied into every checkpoint, and its `fingerprint` says whether two are the same.
"""

import difflib
import hashlib
import re
import tomllib
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from pipeline.durations import parse_duration
from pipeline.errors import SchemaError

Scalar = bool | int | float | str
EVENT_TYPES = ("node", "edge", "score", "label", "retract")
EVENT_FIELDS = ("id", "ts", "label", "relation", "src", "dst", "target", "edges")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Numeric(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="numeric"):
    """One channel: the number itself."""

    field: str | None = None
    default: float | None = None
    deviation: bool = False


class Log1p(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log1p"):
    """One channel: log(1 + number), for counts and amounts; a number below 0 makes the event bad."""

    field: str | None = None
    default: float | None = None
    deviation: bool = False


class OneHot(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="one_hot"):
    """A channel for each of `values`, and one for any other if `other`; without it any other makes the event bad."""

    values: list[Scalar]
    field: str | None = None
    other: bool = False


class Vector(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="vector"):
    """`length` channels from a list of as many numbers."""

    length: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    field: str | None = None


class Weekday(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="weekday"):
    """Seven channels: the day of the week of `ts`, in UTC."""


Feature = Numeric | Log1p | OneHot | Vector | Weekday


class Relation(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of connection. `group`: nodes with equal `group_by` fields share a list. `edge`: a node's own list."""

    kind: Literal["group", "edge"] = "group"
    group_by: list[str] = []
    half_life: str | None = None
    optional: bool = False
    directed: bool = False
    max_neighbours: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    type: str = "type"
    default_type: Literal["node", "edge", "score", "label", "retract"] = "node"
    types: dict[str, Literal["node", "edge", "score", "label", "retract"]] = {}
    fields: dict[str, str] = {}


class Time(Struct, frozen=True, forbid_unknown_fields=True):
    unit: Literal["seconds", "milliseconds", "iso8601"] = "seconds"
    earliest: str = "1990-01-01"
    latest: str = "2100-01-01"
    max_ahead: str = "1d"


class Nodes(Struct, frozen=True, forbid_unknown_fields=True):
    target: bool = True
    ttl: str | None = None


class Arrivals(Struct, frozen=True, forbid_unknown_fields=True):
    half_lives: tuple[str, ...] = ("1h", "1d", "7d")


class Labels(Struct, frozen=True, forbid_unknown_fields=True):
    spam: tuple[Scalar, ...] = (1, True)
    not_spam: tuple[Scalar, ...] = (0, False)
    half_lives: tuple[str, ...] = ("10d", "70d", "300d")
    prior: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    strength: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Schema(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    name: str
    features: dict[str, Feature]
    relations: dict[str, Relation]
    events: Events = Events()
    time: Time = Time()
    nodes: Nodes = Nodes()
    arrivals: Arrivals = Arrivals()
    labels: Labels = Labels()

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that differ when the schema does."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]

    @cached_property
    def relation_names(self) -> list[str]:
        return list(self.relations)

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
        return _date(self.time.earliest), _date(self.time.latest)

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

    def path(self, name: str) -> str:
        """Return the dotted path at which the application's messages hold our field `name`."""
        return self.events.fields.get(name, name)


def seconds(duration: str | None) -> float:
    """Return a duration's seconds; no duration is infinity."""
    return float("inf") if duration is None else parse_duration(duration)


def load_schema(path: Path) -> Schema:
    """Read graph.toml; SchemaError names the file, the key and what would be right."""
    try:
        return parse_schema(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"cannot read the schema {path}: {error}; examples are in deploy/schemas") from None
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"{path} is not valid TOML: {error}") from None


def parse_schema(tree: dict[str, Any], source: str) -> Schema:
    """Turn a TOML or JSON tree into a checked schema; `source` is named in errors."""
    try:
        schema = msgspec.convert(tree, Schema)
    except msgspec.ValidationError as error:
        raise SchemaError(f"{source}: {_explain(str(error))}") from None
    for key, problem in _problems(schema):
        raise SchemaError(f"{source}: {key}: {problem}")
    return schema


def _channels(name: str, feature: Feature) -> list[str]:
    match feature:
        case OneHot():
            return [f"{name}={value}" for value in feature.values] + ([f"{name}=other"] if feature.other else [])
        case Vector():
            return [f"{name}[{i}]" for i in range(feature.length)]
        case Weekday():
            return [f"{name}={day}" for day in WEEKDAYS]
    return [name]


def _date(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _problems(schema: Schema) -> list[tuple[str, str]]:
    """What is wrong beyond the types, as (key, problem and remedy)."""
    found: list[tuple[str, str]] = []
    if not schema.features:
        found.append(("features", "none given; a node needs at least one, for example [features.day] kind = 'weekday'"))
    if not schema.relations:
        found.append(("relations", "none given; a graph needs at least one, for example [relations.user]"))
    if set(schema.relations) & {"self"}:
        found.append(("relations.self", "'self' is the model's own branch; choose another name"))
    for name in schema.events.fields:
        if name not in EVENT_FIELDS:
            found.append((f"events.fields.{name}", f"no such field; ours are {', '.join(EVENT_FIELDS)}"))
    for name, relation in schema.relations.items():
        found += _relation_problems(f"relations.{name}", relation)
    for name, feature in schema.features.items():
        if isinstance(feature, OneHot) and len({str(v) for v in feature.values}) != len(feature.values):
            found.append((f"features.{name}.values", "a value stands there twice; list each once"))
    return found + _duration_problems(schema) + _date_problems(schema)


def _relation_problems(key: str, relation: Relation) -> list[tuple[str, str]]:
    if relation.kind == "group":
        if not relation.group_by:
            return [(f"{key}.group_by", "missing; name the fields that members share, for example ['user']")]
        if relation.directed or relation.max_neighbours:
            return [(key, "directed and max_neighbours belong to kind = 'edge'; remove them or set the kind")]
    elif relation.group_by or relation.optional:
        return [(key, "group_by and optional belong to kind = 'group'; remove them or set the kind")]
    return []


def _duration_problems(schema: Schema) -> list[tuple[str, str]]:
    texts = {"nodes.ttl": schema.nodes.ttl, "time.max_ahead": schema.time.max_ahead}
    texts |= {f"relations.{name}.half_life": relation.half_life for name, relation in schema.relations.items()}
    texts |= {f"arrivals.half_lives[{i}]": text for i, text in enumerate(schema.arrivals.half_lives)}
    texts |= {f"labels.half_lives[{i}]": text for i, text in enumerate(schema.labels.half_lives)}
    found = []
    for key, text in texts.items():
        try:
            if seconds(text) <= 0:
                found.append((key, f"{text!r} is not above zero; write for example '30d'"))
        except ValueError as error:
            found.append((key, str(error)))
    return found


def _date_problems(schema: Schema) -> list[tuple[str, str]]:
    for key in ("earliest", "latest"):
        try:
            _date(getattr(schema.time, key))
        except ValueError:
            return [(f"time.{key}", f"{getattr(schema.time, key)!r} is no date; write for example '1990-01-01'")]
    return []


def _explain(message: str) -> str:
    """Turn msgspec's message into `key: problem; what would be right`."""
    problem, _, place = message.partition(" - at ")
    key = place.strip("`").removeprefix("$").lstrip(".").replace("[...]", ".*") or "the schema"
    unknown = re.search(r"unknown field `(.*)`", problem)
    if unknown:
        close = difflib.get_close_matches(unknown[1], _KNOWN_KEYS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(_KNOWN_KEYS)}"
        return f"{key}: unknown key {unknown[1]!r}; {hint}"
    kinds = "; a feature's kind is numeric, log1p, one_hot, vector or weekday" if "kind" in message else ""
    return f"{key}: {problem}{kinds}"


_KNOWN_KEYS = sorted(
    {
        name
        for struct in (Schema, Events, Time, Nodes, Arrivals, Labels, Relation, Numeric, Log1p, OneHot, Vector)
        for name in (*struct.__struct_fields__, "kind")
    }
)
