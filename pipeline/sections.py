"""The sections of graph.toml as they are written, and what each demands of itself beyond its types.

    name, [events], [time], [nodes], [arrivals], [labels]     one each
    [events.topics.NAME]    TopicWords, for each topic that has words of its own
    [features.NAME]         Numeric | Log1p | OneHot | Vector | Weekday, by `kind`
    [relations.NAME]        Relation, of kind group or edge

`problems` of a section yields (key within it, what is wrong and what would be right). What sections demand of one
another is the schema's affair.

A key that is younger than the first checkpoints is UNSET where nobody set it: it then stands in no checkpoint either,
whose version is a digest of all that it holds.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from pipeline.durations import parse_duration
from pipeline.misfit import join_key

Scalar = bool | int | float | str
Problem = tuple[str, str]
EventType = Literal["node", "edge", "score", "label", "retract"]
EVENT_TYPES = ("node", "edge", "score", "label", "retract")
EVENT_FIELDS = ("id", "ts", "label", "relation", "src", "dst", "target", "edges")
Unit = Literal["seconds", "milliseconds", "iso8601"]
Tombstones = Literal["retract", "ignore"]

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows

LARGEST = 1e30  # of any number: beyond it, it would leave float32 on its way through the model
LARGEST_LEVEL = 1e9  # of one with a deviation: a list sums it, and must keep the others' sum when it leaves again


class Numeric(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="numeric"):
    """One channel: the number itself."""

    field: str | None = None
    default: float | None = None
    deviation: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        largest = LARGEST_LEVEL if self.deviation else LARGEST
        return -largest, largest

    def problems(self) -> Iterator[Problem]:
        lowest, largest = self.bounds
        if self.default is not None and not lowest <= self.default <= largest:
            yield "default", f"{self.default:g} is out of range; write a number of at most {largest:g}"


class Log1p(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="log1p"):
    """One channel: log(1 + number), for counts and amounts; a number below 0 makes the event bad."""

    field: str | None = None
    default: float | None = None
    deviation: bool = False

    bounds: ClassVar[tuple[float, float]] = (0.0, LARGEST)

    def problems(self) -> Iterator[Problem]:
        lowest, largest = self.bounds
        if self.default is not None and not lowest <= self.default <= largest:
            yield "default", f"{self.default:g} is out of range; write a number from {lowest:g} to {largest:g}"


class OneHot(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="one_hot"):
    """A channel for each of `values`, and one for any other if `other`; without it any other makes the event bad."""

    values: list[Scalar]
    field: str | None = None
    other: bool = False

    def problems(self) -> Iterator[Problem]:
        if not self.values:
            yield "values", "empty; list the values that get a channel, for example [1, 2, 3]"
        yield from _word_problems("values", self.values)
        if self.other and "other" in map(text_of, self.values):
            yield "other", "'other' is one of the values; rename it, or remove `other`"


class Vector(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="vector"):
    """`length` channels from a list of as many numbers."""

    length: Annotated[int, Meta(ge=1, le=65536)]
    field: str | None = None

    bounds: ClassVar[tuple[float, float]] = (-LARGEST, LARGEST)  # of each number

    def problems(self) -> Iterator[Problem]:
        return iter(())


class Weekday(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="weekday"):
    """Seven channels: the day of the week of `ts`, in UTC."""

    def problems(self) -> Iterator[Problem]:
        return iter(())


Feature = Numeric | Log1p | OneHot | Vector | Weekday


class Relation(Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of connection. `group`: nodes with equal `group_by` fields share a list. `edge`: a node's own list."""

    kind: Literal["group", "edge"] = "group"
    group_by: list[str] = []
    half_life: str | None = None
    optional: bool = False
    directed: bool = False
    max_neighbours: Annotated[int, Meta(ge=1)] | None = None

    def problems(self) -> Iterator[Problem]:
        foreign = {"group": ("directed", "max_neighbours"), "edge": ("group_by", "optional")}[self.kind]
        other = "edge" if self.kind == "group" else "group"
        for key in foreign:
            if getattr(self, key):
                yield key, f"belongs to a relation of kind = {other!r}; remove it or set the kind"
        if self.kind == "group" and not self.group_by:
            yield "group_by", "missing; name the fields that members share, for example ['user']"
        yield from _duration_problems("half_life", self.half_life)


class TopicWords(Struct, frozen=True, forbid_unknown_fields=True):
    """What the messages of one topic say otherwise than [events] and [time] do; what is not given is as there."""

    type: str | None = None
    default_type: EventType | None = None
    types: dict[str, EventType] = {}
    fields: dict[str, str] = {}
    tombstones: Tombstones | None = None
    unit: Unit | None = None

    def problems(self) -> Iterator[Problem]:
        yield from _field_problems(self.fields)


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Which field tells an event's type, and the application's words for our types and fields, topic by topic."""

    type: str = "type"
    default_type: EventType = "node"
    types: dict[str, EventType] = {}
    fields: dict[str, str] = {}
    tombstones: Tombstones | UnsetType = UNSET  # unset: retract
    topics: dict[str, TopicWords] | UnsetType = UNSET

    def problems(self) -> Iterator[Problem]:
        yield from _field_problems(self.fields)
        for name, words in (self.topics or {}).items():
            key = join_key("topics", name)
            if not _TOPIC_NAME.fullmatch(name):
                yield key, "no topic has such a name; it is 1 to 249 of a-z A-Z 0-9 . _ -"
            yield from ((f"{key}.{place}", problem) for place, problem in words.problems())

    def of_topic(self, words: TopicWords) -> "Events":
        """Return what holds for a topic with words of its own."""
        return Events(
            type=self.type if words.type is None else words.type,
            default_type=words.default_type or self.default_type,
            types=self.types | words.types,
            fields=self.fields | words.fields,
            tombstones=words.tombstones or self.tombstones,
        )


class Time(Struct, frozen=True, forbid_unknown_fields=True):
    """The unit of `ts`, the range that is believed, and what a message without one is."""

    unit: Unit = "seconds"
    earliest: str = "1990-01-01"
    latest: str = "2100-01-01"
    max_ahead: str = "1d"
    missing: Literal["bad", "log"] | UnsetType = UNSET  # unset: bad; log: the time at which the log got it

    def problems(self) -> Iterator[Problem]:
        for key in ("earliest", "latest"):
            if math.isnan(timestamp(getattr(self, key))):
                yield key, f"{getattr(self, key)!r} is no date; write for example '1990-01-01'"
        if timestamp(self.earliest) >= timestamp(self.latest):
            yield "latest", f"{self.latest!r} is not after earliest, {self.earliest!r}; no event could be believed"
        yield from _duration_problems("max_ahead", self.max_ahead)


class Nodes(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether nodes are targets unless their event says otherwise, and how long they live."""

    target: bool = True
    ttl: str | None = None

    def problems(self) -> Iterator[Problem]:
        yield from _duration_problems("ttl", self.ttl)


class Arrivals(Struct, frozen=True, forbid_unknown_fields=True):
    """The decayed counts of a list's arrivals, one for each half-life."""

    half_lives: tuple[str, ...] = ("1h", "1d", "7d")

    def problems(self) -> Iterator[Problem]:
        yield from _half_life_problems(self.half_lives)


class Labels(Struct, frozen=True, forbid_unknown_fields=True):
    """The words that labels use, and how a list's share of spam is counted."""

    spam: Annotated[tuple[Scalar, ...], Meta(min_length=1)] = (1, True)
    not_spam: Annotated[tuple[Scalar, ...], Meta(min_length=1)] = (0, False)
    half_lives: tuple[str, ...] = ("10d", "70d", "300d")
    prior: Annotated[float, Meta(ge=0, le=1)] = 0.1
    strength: Annotated[float, Meta(gt=0, le=1e9)] = 1.0

    def problems(self) -> Iterator[Problem]:
        yield from _word_problems("spam", self.spam)
        yield from _word_problems("not_spam", self.not_spam)
        for word in sorted({text_of(w) for w in self.spam} & {text_of(w) for w in self.not_spam}):
            yield "not_spam", f"{word!r} stands in spam too; a word means one of them"
        yield from _half_life_problems(self.half_lives)


def text_of(value: Any) -> str:
    """Return the text by which values of messages are compared: 5, 5.0 and "5" are one, and so are true and "true"."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(int(value)) if type(value) is float and value.is_integer() else str(value)


def timestamp(text: str) -> float:
    """Return the seconds since the epoch of ISO 8601 text, in UTC unless it says otherwise; nan where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def seconds(duration: str | None) -> float:
    """Return a duration's seconds; no duration is infinity."""
    return math.inf if duration is None else parse_duration(duration)


def _field_problems(fields: Mapping[str, str]) -> Iterator[Problem]:
    for name in fields:
        if name not in EVENT_FIELDS:
            yield f"fields.{name}", f"no such field; ours are {', '.join(EVENT_FIELDS)}"


def _word_problems(key: str, words: Sequence[Scalar]) -> Iterator[Problem]:
    texts = [text_of(word) for word in words]
    for i, (word, text) in enumerate(zip(words, texts, strict=True)):
        if isinstance(word, float) and not math.isfinite(word):
            yield f"{key}[{i}]", f"{word} is no value that a message can hold; remove it"
        elif text in texts[:i]:
            yield f"{key}[{i}]", f"{word!r} stands there twice (5, 5.0 and '5' are one value); list each once"


def _half_life_problems(half_lives: Sequence[str]) -> Iterator[Problem]:
    for i, text in enumerate(half_lives):
        yield from _duration_problems(f"half_lives[{i}]", text)
        if text in half_lives[:i]:
            yield f"half_lives[{i}]", f"{text!r} stands there twice; list each once"


def _duration_problems(key: str, text: str | None) -> Iterator[Problem]:
    try:
        if seconds(text) <= 0:
            yield key, f"{text!r} is not above zero; write for example '30d'"
    except ValueError as error:
        yield key, str(error)
