"""Packed batches: many events in one msgpack message, column by column, numbers as little-endian buffers.

    layout   of the schema it was packed for: with another one the columns would mean something else
    kind, ts, target, label, features, edge_event, edge_relation     buffers
    id, keys, edge_other                                             UTF-8, one text behind the other
    id_length, keys_length, edge_other_length                        buffers: bytes of each; -1 no key

A message of a thousand events is decoded without an object per event.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.columns import Wrong
from pipeline.events import (
    EDGE,
    LABEL,
    NODE,
    RETRACT,
    SCORE,
    BadEvent,
    EventBatch,
    bad_event,
    check_groups,
    check_texts,
    check_ts,
    note_where,
)
from pipeline.log import Record
from pipeline.schema import Schema
from pipeline.sections import LARGEST, LARGEST_LEVEL
from pipeline.texts import NONE, Texts


class _Packed(msgspec.Struct, forbid_unknown_fields=True):
    """The columns of an EventBatch on the wire."""

    layout: str
    kind: bytes
    id: bytes
    id_length: bytes
    ts: bytes
    target: bytes
    label: bytes
    features: bytes
    keys: bytes
    keys_length: bytes  # of each group relation's, one relation after the other
    edge_event: bytes = b""
    edge_relation: bytes = b""
    edge_other: bytes = b""
    edge_other_length: bytes = b""


_decode = msgspec.msgpack.Decoder(_Packed).decode
_TEXTS = ("id", "keys", "edge_other")
_BUFFERS = {
    "kind": "<u1", "ts": "<f8", "target": "<u1", "label": "<i1", "features": "<f4",
    "edge_event": "<i4", "edge_relation": "<i4",
}  # fmt: skip
_OF_EVENTS = ("ts", "target", "label", "features", "id_length", "keys_length")
_OF_EDGES = ("edge_event", "edge_relation", "edge_other_length")


def encode_packed(schema: Schema, batch: EventBatch) -> bytes:
    """Return `batch` as one packed message; positions stay behind, the log gives new ones."""
    columns: dict[str, bytes] = {}
    for name in _TEXTS:
        texts: Texts = getattr(batch, name).packed()
        columns |= {name: texts.data.tobytes(), f"{name}_length": texts.length.astype("<i4").tobytes()}
    for name, form in _BUFFERS.items():
        columns[name] = getattr(batch, name).astype(form).tobytes()
    return msgspec.msgpack.encode(_Packed(layout=schema.layout, **columns))


class PackedReader:
    """Reads packed messages that were packed for one schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._edge_relations = [r for r, x in enumerate(schema.relations.values()) if x.kind == "edge"]
        self._largest = np.full(len(schema.own_channels), LARGEST, np.float32)
        self._largest[schema.deviating] = LARGEST_LEVEL

    def read(self, records: Sequence[Record]) -> tuple[EventBatch | None, list[BadEvent]]:
        try:
            return self._read(records)
        except (ValueError, RecursionError):
            pass  # one of them is malformed: find out which
        parts, bad = [], []
        for record in records:
            try:
                part, wrong = self._read([record])
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_packed", str(error)))
                continue
            parts.append(part)
            bad += wrong
        return (EventBatch.join(parts) if parts else None), bad

    def _read(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        """Return the events of all messages; ValueError where one of them does not fit the schema, or itself."""
        packed = [_decode(record.value) for record in records]
        for one in packed:
            self._check_fit(one)
        message = np.repeat(np.arange(len(packed)), [len(one.kind) for one in packed])  # of each event
        appended_at = np.array([record.appended_at for record in records], np.float64)[message]
        batch = self._batch(packed, np.array([record.position for record in records], np.int64)[message], appended_at)
        wrong = self._check(batch, appended_at)
        if not wrong:
            return batch, []
        bad = [self._bad_event(batch, records[message[i]], i, *problem) for i, problem in sorted(wrong.items())]
        return batch.without(wrong), bad

    def _bad_event(self, batch: EventBatch, record: Record, i: int, reason: str, detail: str) -> BadEvent:
        # Not the whole message: a thousand bad events in one would make a thousand copies of it.
        raw = encode_packed(self._schema, batch.part(i, i + 1))
        return bad_event(record, reason, detail, int(batch.index[i]), raw)

    def _check_fit(self, packed: _Packed) -> None:
        """ValueError where a message's columns don't fit the schema or one another."""
        n, width, groups = len(packed.kind), len(self._schema.own_channels), len(self._schema.groups)
        if packed.layout != self._schema.layout:
            found = f"{packed.layout!r:.40}, expected {self._schema.layout!r}"
            raise ValueError(f"packed for a schema of layout {found}: pack it with the schema of the model")
        found_bytes = [len(getattr(packed, name)) for name in _OF_EVENTS]
        if found_bytes != [8 * n, n, n, 4 * n * width, 4 * n, 4 * n * groups]:
            raise ValueError(f"columns that do not fit {n} events, {width} channels, {groups} groups")
        if len(packed.edge_event) % 4 or len({len(getattr(packed, name)) for name in _OF_EDGES}) > 1:
            raise ValueError("edge columns of different lengths")

    def _batch(
        self, packed: Sequence[_Packed], position: npt.NDArray[np.int64], appended_at: npt.NDArray[np.float64]
    ) -> EventBatch:
        """Return the messages' columns, one behind the other."""
        column: dict[str, Any] = {name: _joined(packed, name, form) for name, form in _BUFFERS.items()}
        text: dict[str, Any] = {name: _texts(packed, name) for name in _TEXTS}
        sizes = [len(one.kind) for one in packed]
        starts = np.cumsum([0, *sizes[:-1]])
        column["edge_event"] = _edge_events(column["edge_event"], packed, starts, np.array(sizes))
        column["features"] = column["features"].reshape(len(position), len(self._schema.own_channels))
        column["target"] = column["target"] != 0
        text["keys"] = _by_group(text["keys"], len(self._schema.groups), sizes)
        index = np.arange(len(position)) - np.repeat(starts, sizes)
        batch = EventBatch(**column, **text, position=position, index=index.astype(np.int32))
        if self._schema.time.missing == "log":
            np.copyto(batch.ts, appended_at, where=np.isnan(batch.ts))
        _make_neutral(batch)
        return batch

    def _check(self, batch: EventBatch, appended_at: npt.NDArray[np.float64]) -> Wrong:
        """What each event says that no JSON event could: the same bounds, on columns."""
        wrong: Wrong = {}
        kind = batch.kind
        note_where(kind > RETRACT, "unknown_type", "kind is none of the five", wrong)
        unjudged = (kind == LABEL) & (batch.label != 0) & (batch.label != 1)
        note_where(unjudged, "bad_label", "label is neither 0 nor 1", wrong)
        self._check_edges(batch, wrong)
        check_ts(self._schema, batch.ts, kind, appended_at, wrong)
        check_texts("id", batch.id, wrong)
        check_texts("the other end", batch.edge_other, wrong, batch.edge_event)
        far = ~(np.abs(batch.features) <= self._largest)  # nan is far too
        if far.any():
            endless = ~np.isfinite(batch.features)
            note_where(np.any(endless, axis=1), "not_finite", "a feature is not finite", wrong)
            note_where(np.any(far, axis=1), "out_of_range", "a feature is beyond what the schema allows", wrong)
        nodes = np.flatnonzero(kind == NODE)
        check_groups(self._schema, batch.keys[:, nodes], nodes, wrong)
        return wrong

    def _check_edges(self, batch: EventBatch, wrong: Wrong) -> None:
        kind = batch.kind
        if not len(batch.edge_event) and not (kind == EDGE).any():
            return
        count = np.bincount(batch.edge_event, minlength=len(batch))
        most = np.select([kind == NODE, (kind == EDGE) | (kind == RETRACT)], [count, 1], 0)
        note_where((kind == EDGE) & (count == 0), "missing_field", "an edge event without an edge", wrong)
        note_where(count > most, "wrong_type", "more edges than an event of its type has", wrong)
        unknown = np.zeros(len(batch), np.bool_)
        unknown[batch.edge_event[~np.isin(batch.edge_relation, self._edge_relations)]] = True
        note_where(unknown, "unknown_relation", "an edge's relation is no edge relation of the schema", wrong)


def _joined(packed: Sequence[_Packed], name: str, form: str) -> npt.NDArray[Any]:
    """Return a column of all messages."""
    # Of bytes that may be changed: others could not be written to, and would make numba compile everything twice.
    return np.frombuffer(bytearray().join([getattr(one, name) for one in packed]), form)


def _texts(packed: Sequence[_Packed], name: str) -> Texts:
    """Return a column of texts, in the order of the messages; ValueError where it is none."""
    data, length = _joined(packed, name, "<u1"), _joined(packed, f"{name}_length", "<i4")
    sizes = np.maximum(length, 0)
    ends = np.cumsum(sizes, dtype=np.int64)
    last = np.cumsum([len(getattr(one, f"{name}_length")) // 4 for one in packed])  # text of each message, from 1
    found = np.cumsum([len(getattr(one, name)) for one in packed])
    if (length < NONE).any() or (np.concatenate([[0], ends])[last] != found).any():
        raise ValueError(f"{name}: lengths that do not fit its {found[-1]} bytes")
    texts = Texts(data, ends - sizes, length)
    if not texts.is_text():
        raise ValueError(f"{name} is not UTF-8")
    return texts


def _by_group(keys: Texts, groups: int, sizes: Sequence[int]) -> Texts:
    """Return the keys of messages of so many events, which lie group after group in each.  # -> (groups, n)"""
    places = np.cumsum(sizes)[:-1] * groups

    def arranged(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        blocks = zip(np.split(column, places), sizes, strict=True)
        return np.concatenate([block.reshape(groups, n) for block, n in blocks], axis=1)

    return Texts(keys.data, arranged(keys.start), arranged(keys.length))


def _edge_events(
    event: npt.NDArray[np.int32], packed: Sequence[_Packed], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Return the event of each edge, counted on from message to message; ValueError where one is not there."""
    if not len(event):
        return event
    message = np.repeat(np.arange(len(packed)), [len(one.edge_event) // 4 for one in packed])
    if not ((event >= 0) & (event < sizes[message])).all() or (np.diff(event + starts[message]) < 0).any():
        raise ValueError("edges out of order, or of an event that is not there")
    return (event + starts[message]).astype(np.int32)


def _make_neutral(batch: EventBatch) -> None:
    """Put the neutral value wherever an event's type has no such field, as JSON events have it."""
    kind = batch.kind
    node: npt.NDArray[np.bool_] = kind == NODE
    batch.target[:] = (kind == SCORE) | (node & batch.target)
    batch.label[kind != LABEL] = -1
    batch.ts[kind == RETRACT] = np.nan
    if not node.all():
        batch.features[~node] = 0.0
        batch.keys.length[:, ~node] = NONE
