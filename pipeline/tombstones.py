"""Tombstones -> events: a message without a value retracts the node that its key names.

A compacted topic says so that what it once held of a key is gone. That is a retract where the key is the node's id; a
topic whose keys are something else is told apart by the schema, and its tombstones are passed over.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.columns import Wrong
from pipeline.events import RETRACT, BadEvent, EventBatch, bad_event, check_names
from pipeline.log import Record
from pipeline.schema import Schema
from pipeline.texts import Texts


class TombstoneReader:
    """Reads tombstones whose key is a node's id."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def read(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        wrong: Wrong = {
            i: ("wrong_type", f"key is {record.key!r:.80}, expected a node's id, which is UTF-8 text")
            for i, record in enumerate(records)
            if record.key is not None and not _is_utf8(record.key)
        }
        batch = self._batch(check_names("key", [record.key for record in records], wrong), records)
        if wrong:
            batch = batch.without(wrong)
        return batch, [bad_event(records[i], *problem) for i, problem in wrong.items()]

    def _batch(self, ids: Texts, records: Sequence[Record]) -> EventBatch:
        n = len(records)
        return EventBatch(
            kind=np.full(n, RETRACT, np.uint8),
            id=ids,
            ts=np.full(n, np.nan),
            target=np.zeros(n, np.bool_),
            label=np.full(n, -1, np.int8),
            features=np.zeros((n, len(self._schema.own_channels)), np.float32),
            keys=Texts.none(len(self._schema.groups), n),
            edge_event=np.zeros(0, np.int32),
            edge_relation=np.zeros(0, np.int32),
            edge_other=Texts.none(0),
            position=np.array([record.position for record in records], np.int64),
            index=np.zeros(n, np.int32),
        )


def pass_over(records: Sequence[Record]) -> tuple[None, list[BadEvent]]:
    """Read tombstones that say nothing of a node."""
    return None, []


def _is_utf8(key: str) -> bool:
    """Tell a text from bytes that are none, which stand in it as surrogates."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
