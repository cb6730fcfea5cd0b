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


_TEXTS = ("id", "keys", "edge_other")
_BUFFERS = {
    "kind": "<u1", "ts": "<f8", "target": "<u1", "label": "<i1", "features": "<f4",
    "edge_event": "<i4", "edge_relation": "<i4",
}  # fmt: skip


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
        self._decode = msgspec.msgpack.Decoder(_Packed).decode
        self._edge_relations = [r for r, x in enumerate(schema.relations.values()) if x.kind == "edge"]
        self._largest = np.full(len(schema.own_channels), LARGEST, np.float32)
        self._largest[schema.deviating] = LARGEST_LEVEL

    def read(self, records: Sequence[Record]) -> tuple[EventBatch | None, list[BadEvent]]:
        parts, bad = [], []
        for record in records:
            try:
                batch = self._batch(self._decode(record.value), record)
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_packed", str(error)))
                continue
            wrong = self._check(batch, record)
            if wrong:
                bad += [self._bad_event(batch, record, i, *problem) for i, problem in sorted(wrong.items())]
                keep = np.ones(len(batch), np.bool_)
                keep[list(wrong)] = False
                batch = batch.take(keep)
            parts.append(batch)
        return (EventBatch.join(parts) if parts else None), bad

    def _bad_event(self, batch: EventBatch, record: Record, i: int, reason: str, detail: str) -> BadEvent:
        # Not the whole message: a thousand bad events in one would make a thousand copies of it.
        return bad_event(record, reason, detail, i, encode_packed(self._schema, batch.part(i, i + 1)))

    def _batch(self, packed: _Packed, record: Record) -> EventBatch:
        """Return the columns; ValueError where they don't fit the schema or one another."""
        n, width, groups = len(packed.kind), len(self._schema.own_channels), len(self._schema.groups)
        if packed.layout != self._schema.layout:
            found = f"{packed.layout!r:.40}, expected {self._schema.layout!r}"
            raise ValueError(f"packed for a schema of layout {found}: pack it with the schema of the model")
        # Copies: a view of the message could not be written to, and would make numba compile everything twice.
        buffers = {name: np.frombuffer(getattr(packed, name), form) for name, form in _BUFFERS.items()}
        column: dict[str, Any] = {name: buffer.copy() for name, buffer in buffers.items()}
        text: dict[str, Any] = {name: _texts(packed, name) for name in _TEXTS}
        lengths = {len(column[name]) for name in ("ts", "target", "label")} | {len(text["id"])}
        if lengths != {n} or len(column["features"]) != n * width or len(text["keys"]) != n * groups:
            raise ValueError(f"columns that do not fit {n} events, {width} channels, {groups} groups")
        order = column["edge_event"]
        if {len(order), len(column["edge_relation"])} != {len(text["edge_other"])}:
            raise ValueError("edge columns of different lengths")
        if (np.diff(order) < 0).any() or not ((order >= 0) & (order < n)).all():
            raise ValueError("edges out of order, or of an event that is not there")
        column["features"] = column["features"].reshape(n, width)
        column["target"] = column["target"] != 0
        text["keys"] = text["keys"].reshaped(groups, n)
        batch = EventBatch(
            **column, **text,
            position=np.full(n, record.position, np.int64), index=np.arange(n, dtype=np.int32),
        )  # fmt: skip
        if self._schema.time.missing == "log":
            batch.ts[np.isnan(batch.ts)] = record.appended_at
        return _neutral(batch)

    def _check(self, batch: EventBatch, record: Record) -> Wrong:
        """What each event says that no JSON event could: the same bounds, on columns."""
        wrong: Wrong = {}
        kind = batch.kind
        note_where(kind > RETRACT, "unknown_type", "kind is none of the five", wrong)
        note_where((kind == LABEL) & ~np.isin(batch.label, (0, 1)), "bad_label", "label is neither 0 nor 1", wrong)
        self._check_edges(batch, wrong)
        check_ts(self._schema, batch.ts, kind, np.full(len(batch), record.appended_at), wrong)
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
        kind, count = batch.kind, np.bincount(batch.edge_event, minlength=len(batch))
        most = np.select([kind == NODE, (kind == EDGE) | (kind == RETRACT)], [count, 1], 0)
        note_where((kind == EDGE) & (count == 0), "missing_field", "an edge event without an edge", wrong)
        note_where(count > most, "wrong_type", "more edges than an event of its type has", wrong)
        unknown = np.zeros(len(batch), np.bool_)
        unknown[batch.edge_event[~np.isin(batch.edge_relation, self._edge_relations)]] = True
        note_where(unknown, "unknown_relation", "an edge's relation is no edge relation of the schema", wrong)


def _texts(packed: _Packed, name: str) -> Texts:
    """Return a column of texts; ValueError where it is none."""
    data: bytes = getattr(packed, name)
    length = np.frombuffer(getattr(packed, f"{name}_length"), "<i4").astype(np.int32)
    if (length < NONE).any() or int(np.maximum(length, 0).sum(dtype=np.int64)) != len(data):
        raise ValueError(f"{name}: lengths that do not fit its {len(data)} bytes")
    texts = Texts.laid_out(np.frombuffer(data, np.uint8), length)
    if not texts.is_text():
        raise ValueError(f"{name} is not UTF-8")
    return texts


def _neutral(batch: EventBatch) -> EventBatch:
    """Put the neutral value wherever an event's type has no such field, as JSON events have it."""
    kind = batch.kind
    node: npt.NDArray[np.bool_] = kind == NODE
    batch.target = (kind == SCORE) | (node & batch.target)
    batch.label[kind != LABEL] = -1
    batch.ts[kind == RETRACT] = np.nan
    if not node.all():
        batch.features[~node] = 0.0
        batch.keys.length[:, ~node] = NONE
    return batch
