"""Packed batches: many events in one msgpack message, column by column, numbers as little-endian buffers.

A message of a thousand events is decoded without an object per event; ids and group keys are the only texts.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from pipeline.columns import Wrong, group_keys
from pipeline.events import (
    EDGE,
    LABEL,
    NODE,
    RETRACT,
    BadEvent,
    EventBatch,
    bad_event,
    check_names,
    check_ts,
    mark,
    note,
)
from pipeline.log import Record
from pipeline.schema import Schema


class _Packed(msgspec.Struct, forbid_unknown_fields=True):
    """The columns of an EventBatch on the wire; buffers are little-endian."""

    channels: list[str]  # the schema's own channels: a batch packed for another schema is refused
    relations: list[str]
    kind: bytes
    id: list[str]
    ts: bytes
    target: bytes
    label: bytes
    features: bytes
    keys: list[list[str | None]]
    edge_event: bytes = b""
    edge_relation: bytes = b""
    edge_other: list[str] = []


_BUFFERS = {"kind": "<u1", "ts": "<f8", "target": "?", "label": "<i1", "features": "<f4"}
_EDGE_BUFFERS = {"edge_event": "<i4", "edge_relation": "<i4"}


def encode_packed(schema: Schema, batch: EventBatch) -> bytes:
    """Return `batch` as one packed message; positions stay behind, the log gives new ones."""
    buffers = {name: getattr(batch, name).astype(form).tobytes() for name, form in (_BUFFERS | _EDGE_BUFFERS).items()}
    texts = {"id": batch.id, "keys": batch.keys, "edge_other": batch.edge_other}
    return msgspec.msgpack.encode(
        _Packed(channels=schema.own_channels, relations=schema.relation_names, **buffers, **texts)
    )


class PackedReader:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._decode = msgspec.msgpack.Decoder(_Packed).decode
        self._edge_relations = [r for r, x in enumerate(schema.relations.values()) if x.kind == "edge"]
        self._required = [g for g, (_, relation) in enumerate(schema.groups) if not relation.optional]

    def read(self, records: Sequence[Record]) -> tuple[EventBatch | None, list[BadEvent]]:
        parts, bad = [], []
        for record in records:
            try:
                batch = self._batch(self._decode(record.value), record)
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_packed", str(error)))
                continue
            wrong = self._check(batch, record)
            bad += [bad_event(record, *problem, index=i) for i, problem in sorted(wrong.items())]
            keep = np.ones(len(batch), np.bool_)
            keep[list(wrong)] = False
            parts.append(batch.take(keep) if wrong else batch)
        return (EventBatch.join(parts) if parts else None), bad

    def _batch(self, packed: _Packed, record: Record) -> EventBatch:
        """Return the columns; ValueError where they don't fit the schema or one another."""
        n, own = len(packed.id), self._schema.own_channels
        if packed.channels != own or packed.relations != self._schema.relation_names:
            raise ValueError(f"packed for channels {packed.channels} and relations {packed.relations}, not this schema")
        # Copies: a view of the message could not be written to, and would make numba compile everything twice.
        column = {k: np.frombuffer(getattr(packed, k), form).copy() for k, form in (_BUFFERS | _EDGE_BUFFERS).items()}
        lengths = {len(column[k]) for k in ("kind", "ts", "target", "label")} | {len(keys) for keys in packed.keys}
        edges = {len(packed.edge_other), len(column["edge_event"]), len(column["edge_relation"])}
        if lengths - {n} or len(column["features"]) != n * len(own) or len(packed.keys) != len(self._schema.groups):
            raise ValueError(f"columns of different lengths for {n} ids")
        order = column["edge_event"]
        if len(edges) != 1 or (np.diff(order) < 0).any() or not ((order >= 0) & (order < n)).all():
            raise ValueError("edge columns of different lengths, out of order, or of no event")
        column["features"] = column["features"].reshape(n, len(own))
        return EventBatch(
            **column, id=packed.id, keys=packed.keys, edge_other=packed.edge_other,
            position=np.full(n, record.position, np.int64), index=np.arange(n, dtype=np.int32),
        )  # fmt: skip

    def _check(self, batch: EventBatch, record: Record) -> Wrong:
        """What each event says that no JSON event could: the same bounds, on columns."""
        wrong: Wrong = {}
        kind = batch.kind
        mark(wrong, kind > RETRACT, "unknown_type", "kind is none of the five")
        mark(wrong, (kind == LABEL) & ~np.isin(batch.label, (0, 1)), "bad_label", "label is neither 0 nor 1")
        mark(wrong, ~np.isfinite(batch.features).all(axis=1), "not_finite", "a feature is not finite")
        unknown = ~np.isin(batch.edge_relation, self._edge_relations)
        for i in batch.edge_event[unknown].tolist():
            wrong.setdefault(i, ("unknown_relation", "an edge's relation is no edge relation of the schema"))
        loose = (kind == EDGE) & (np.bincount(batch.edge_event, minlength=len(batch)) != 1)
        mark(wrong, loose, "missing_field", "an edge event has just one edge")
        check_ts(self._schema, batch.ts, kind, np.full(len(batch), record.appended_at), wrong)
        check_names("id", batch.id, wrong)
        check_names("edge", batch.edge_other, wrong, batch.edge_event.tolist())
        for g, (_, relation) in enumerate(self._schema.groups):
            keys = batch.keys[g] if g in self._required else [key or "-" for key in batch.keys[g]]
            _, problems = group_keys([keys], relation.optional)
            note({i: p for i, p in problems.items() if kind[i] == NODE}, np.arange(len(batch)), wrong)
        return wrong
