"""Events: what the graph is told, as columns.

    EventBatch    events in log order; what JSON and packed messages both become
    BadEvent      an event that could not be understood: reason, bytes, position (data, not an exception)

`json_codec` (with `fields`), `packed_codec` and `tombstones` turn messages into these and `decoder` joins them; nothing
else knows the wire. Good events are handled column by column; only those that are bad are looked at one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.columns import Wrong, check_keys
from pipeline.compiled import is_plain
from pipeline.graph_state import Batch
from pipeline.log import Record
from pipeline.names_kernel import LONGEST_NAME
from pipeline.schema import Schema
from pipeline.sections import EVENT_TYPES, text_of
from pipeline.texts import NONE, Texts, are_within

NODE, EDGE, SCORE, LABEL, RETRACT = range(len(EVENT_TYPES))

# Why an event is bad, or is set aside by the graph (`expired`): a fixed set, for it labels a metric.
REASONS = (
    "malformed_json", "malformed_packed", "unknown_content_type", "too_large", "wrong_type", "missing_field",
    "empty_name", "too_long", "not_finite", "out_of_range", "wrong_length", "unknown_value", "unknown_type",
    "unknown_relation", "bad_label", "bad_ts", "ts_out_of_range", "expired",
)  # fmt: skip


@dataclass
class BadEvent:
    """An event that goes to the dead letters: where it stood, why it is bad, and what it said."""

    position: int
    index: int  # within a packed message
    reason: str  # one of REASONS
    detail: str
    raw: bytes  # the message; of a packed one, this event alone, packed
    # Of the message: its key, and its topic and its position there where the log is merged from several.
    key: str | None = None
    topic: str = ""
    offset: int = -1


@dataclass(frozen=True)
class EventBatch:
    """n events in log order. A column holds its neutral value where an event's type has no such field."""

    kind: npt.NDArray[np.uint8]  # (n,) NODE .. RETRACT
    id: Texts  # (n,) the node; the source of an edge
    ts: npt.NDArray[np.float64]  # (n,) seconds since the epoch; nan for retract
    target: npt.NDArray[np.bool_]  # (n,) to be scored
    label: npt.NDArray[np.int8]  # (n,) 1 spam, 0 not; -1 none
    features: npt.NDArray[np.float32]  # (n, F) own channels of node events
    keys: Texts  # (group relations, n) the group key, none for no membership
    # edges, those of node events too, ordered by event
    edge_event: npt.NDArray[np.int32]  # (m,) index of the event
    edge_relation: npt.NDArray[np.int32]  # (m,) index among the schema's relations
    edge_other: Texts  # (m,) the node at the other end
    position: npt.NDArray[np.int64]  # (n,) of the message in the log
    index: npt.NDArray[np.int32]  # (n,) of the event in its packed message
    columns: Batch = field(init=False, repr=False, compare=False)  # what compiled code is given

    def __post_init__(self) -> None:
        """TypeError where a column is not of the type that is promised: compiled code would read it as if it were."""
        columns = Batch(
            self.kind, self.ts, self.target, self.label, self.features, self.edge_event, self.edge_relation,
            self.id.column, self.keys.column, self.edge_other.column,
        )  # fmt: skip
        if not all(map(is_plain, (*columns[:7], self.position, self.index), _TYPES.values())):
            name, dtype = next(one for one in _TYPES.items() if not is_plain(getattr(self, one[0]), one[1]))
            raise TypeError(f"{name} is a column of {getattr(self, name).dtype}, expected {dtype} without gaps")
        object.__setattr__(self, "columns", columns)  # once and for all: the columns are not exchanged afterwards

    def __len__(self) -> int:
        return len(self.id)

    def take(self, keep: npt.NDArray[np.bool_]) -> "EventBatch":
        """Return the events that `keep` marks, in order."""
        edge_keep: npt.NDArray[np.bool_] = keep[self.edge_event]
        renumbered = np.cumsum(keep, dtype=np.int32) - 1
        columns = {name: getattr(self, name)[keep] for name in _EVENT_COLUMNS}
        columns |= {name: getattr(self, name)[edge_keep] for name in _EDGE_COLUMNS}
        columns["keys"] = self.keys[:, keep]
        columns["edge_event"] = renumbered[columns["edge_event"]]
        return EventBatch(**columns)

    def without(self, wrong: Wrong) -> "EventBatch":
        """Return the events of which nothing is wrong, in order."""
        keep = np.ones(len(self), np.bool_)
        keep[list(wrong)] = False
        return self.take(keep)

    def by_position(self) -> "EventBatch":
        """Return the events in the order of their messages' positions; those of one message stay as they are."""
        if (np.diff(self.position) >= 0).all():
            return self
        order = np.argsort(self.position, kind="stable")
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        edge_event = place[self.edge_event]
        edge_order = np.argsort(edge_event, kind="stable")
        columns = {name: getattr(self, name)[order] for name in _EVENT_COLUMNS}
        columns |= {name: getattr(self, name)[edge_order] for name in _EDGE_COLUMNS}
        columns["keys"] = self.keys[:, order]
        columns["edge_event"] = edge_event[edge_order]
        return EventBatch(**columns)

    def part(self, start: int, stop: int) -> "EventBatch":
        """Return the events from `start` up to `stop` as a batch of their own, without looking at the others."""
        first, last = np.searchsorted(self.edge_event, (start, stop)).tolist()
        columns = {name: getattr(self, name)[start:stop] for name in _EVENT_COLUMNS}
        columns |= {name: getattr(self, name)[first:last] for name in _EDGE_COLUMNS}
        columns["keys"] = self.keys[:, start:stop]
        columns["edge_event"] = columns["edge_event"] - np.int32(start)
        return EventBatch(**columns)

    @staticmethod
    def join(parts: "Sequence[EventBatch]") -> "EventBatch":
        """Return the events of `parts` one after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
        columns = {name: [getattr(part, name) for part in parts] for name in ("keys", *_EVENT_COLUMNS, *_EDGE_COLUMNS)}
        columns["edge_event"] = [part.edge_event + np.int32(s) for part, s in zip(parts, starts, strict=True)]
        joined = {name: _joined(column) for name, column in columns.items()}
        return EventBatch(**joined)


def plain_nodes(schema: Schema, n: int) -> EventBatch:
    """Return events that any schema has: n new nodes of which nothing is known but that they are in the same groups."""
    groups = len(schema.groups)
    return EventBatch(
        kind=np.full(n, NODE, np.uint8),
        id=Texts.of([f"n{i}" for i in range(n)]),
        ts=np.zeros(n),
        target=np.ones(n, np.bool_),
        label=np.full(n, -1, np.int8),
        features=np.zeros((n, len(schema.own_channels)), np.float32),
        keys=Texts.of(["k"] * n * groups, groups) if groups else Texts.none(0, n),
        edge_event=np.zeros(0, np.int32),
        edge_relation=np.zeros(0, np.int32),
        edge_other=Texts.none(0),
        position=np.arange(n),
        index=np.zeros(n, np.int32),
    )


_TYPES = {  # those of `columns` come first, in its order
    name: np.dtype(kind)
    for name, kind in {
        "kind": "u1", "ts": "f8", "target": "?", "label": "i1", "features": "f4", "edge_event": "i4",
        "edge_relation": "i4", "position": "i8", "index": "i4",
    }.items()
}  # fmt: skip
_EVENT_COLUMNS = ("kind", "id", "ts", "target", "label", "features", "position", "index")
_EDGE_COLUMNS = ("edge_event", "edge_relation", "edge_other")


def _joined(column: list[Any]) -> Any:
    return Texts.join(column) if isinstance(column[0], Texts) else np.concatenate(column)


def check_ts(
    schema: Schema,
    ts: npt.NDArray[np.float64],
    kind: npt.NDArray[np.uint8],
    appended_at: npt.NDArray[np.float64],
    wrong: Wrong,
) -> None:
    """Note the events whose time is missing or not to be believed; only a retract needs none.

    "Too far ahead" is judged by when the log got the message, which is part of the log: no clock is read.
    """
    earliest, latest = schema.ts_range
    latest_at = np.fmin(latest, appended_at + schema.max_ahead)
    good = (ts >= earliest) & (ts <= latest_at)
    if good.all():
        return
    for i in np.flatnonzero(~good & (kind != RETRACT)).tolist():
        if np.isnan(ts[i]):
            wrong.setdefault(i, ("bad_ts", f"ts is missing or no time; the schema says {schema.time.unit}"))
        else:
            detail = f"ts is {ts[i]:.15g}, expected {earliest:.15g} to {latest_at[i]:.15g} seconds since the epoch"
            wrong.setdefault(i, ("ts_out_of_range", detail))


def check_names(what: str, values: Sequence[Any], wrong: Wrong, events: npt.NDArray[np.int32] | None = None) -> Texts:
    """Check ids; a number stands for its digits. `events` tells which event a value is of, if not its own index."""
    try:
        names = Texts.of(values)
    except (TypeError, AttributeError, UnicodeEncodeError):  # one is no text, or none that UTF-8 could write
        names = Texts.of([None if value is None else _writable(text_of(value)) for value in values])
    check_texts(what, names, wrong, events)
    return names


def check_texts(what: str, names: Texts, wrong: Wrong, events: npt.NDArray[np.int32] | None = None) -> None:
    """Note the names that are missing, empty or too long."""
    if are_within(names.length, 1, LONGEST_NAME):
        return
    for i in np.flatnonzero((names.length < 1) | (names.length > LONGEST_NAME)).tolist():
        name, event = names[i], i if events is None else int(events[i])
        if name is None:
            wrong.setdefault(event, ("missing_field", f"{what} is missing"))
        elif not name:
            wrong.setdefault(event, ("empty_name", f"{what} is empty"))
        elif len(name) > LONGEST_NAME:
            wrong.setdefault(event, ("too_long", f"{what} has {len(name)} characters, at most {LONGEST_NAME}"))


def check_groups(schema: Schema, keys: Texts, nodes: npt.NDArray[np.int64], wrong: Wrong) -> None:
    """Note the group keys of nodes that are missing or too long.  # (groups, nodes)"""
    for g, (r, relation) in enumerate(schema.groups):
        if not are_within(keys.length[g], NONE if relation.optional else 0, LONGEST_NAME):
            note(check_keys(schema.relation_names[r], keys[g, :], relation.optional), nodes, wrong)


def _writable(text: str) -> str:
    return text.encode(errors="replace").decode()


def note_where(where: npt.NDArray[np.bool_], reason: str, detail: str, wrong: Wrong) -> None:
    """Note the same about every event that `where` marks."""
    for i in np.flatnonzero(where).tolist():
        wrong.setdefault(i, (reason, detail))


def note(problems: Wrong, places: npt.NDArray[np.int64], wrong: Wrong) -> None:
    """Note a column's problems; `places` tells which event each of its values is of. The first problem counts."""
    for i, problem in problems.items():
        wrong.setdefault(int(places[i]), problem)


def bad_event(record: Record, reason: str, detail: str, index: int = 0, raw: bytes | None = None) -> BadEvent:
    """Return the whole message of `record` as one bad event; or one event of it, whose bytes are `raw`."""
    said = record.value if raw is None else raw
    return BadEvent(record.position, index, reason, detail, said, record.key, record.topic, record.offset)
