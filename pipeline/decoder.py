"""Records of the log -> events, whatever their content type."""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

import numpy as np

from pipeline.events import LABEL, BadEvent, EventBatch, bad_event
from pipeline.json_codec import JsonReader
from pipeline.log import JSON, PACKED, Record
from pipeline.packed_codec import PackedReader
from pipeline.schema import Schema

MAX_MESSAGE_BYTES = 4 * 2**20

_Reader = Callable[[Sequence[Record]], tuple[EventBatch | None, list[BadEvent]]]


class Decoder:
    """Turns records of the log into events, as `schema` says; holds no state between calls.

    Never raises for anything a record holds: what cannot be understood comes back as a BadEvent.
    """

    def __init__(self, schema: Schema, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._json = JsonReader(schema)
        self._readers: dict[str, _Reader] = {JSON: self._json.read, PACKED: PackedReader(schema).read}
        self._max_message_bytes = max_message_bytes

    def decode(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        """Return the events of `records` in order, and those that are bad, in order."""
        parts: list[EventBatch] = []
        bad: list[BadEvent] = []
        for content_type, run in _runs(self._small(records, bad)):
            reader = self._readers.get(_media_type(content_type), _unknown_content_type)
            part, wrong = reader(run)
            bad += wrong
            if part is not None:
                parts.append(part)
        bad.sort(key=lambda event: (event.position, event.index))
        return EventBatch.join(parts or [self._json.read([])[0]]), bad

    def _small(self, records: Sequence[Record], bad: list[BadEvent]) -> Sequence[Record]:
        limit = self._max_message_bytes
        if max(map(len, map(attrgetter("value"), records)), default=0) <= limit:
            return records
        large = [record for record in records if len(record.value) > limit]
        bad += [bad_event(r, "too_large", f"{len(r.value)} bytes, at most {limit}") for r in large]
        return [record for record in records if len(record.value) <= limit]


def labels_of(decoder: Decoder, records: Sequence[Record]) -> Iterator[tuple[int, str, int]]:
    """Yield (position, id, 1 for spam or 0) of the label events among `records`."""
    batch, _ = decoder.decode(records)
    for i in np.flatnonzero(batch.kind == LABEL).tolist():
        yield int(batch.position[i]), batch.id[i], int(batch.label[i])


def _unknown_content_type(records: Sequence[Record]) -> tuple[None, list[BadEvent]]:
    detail = f"content type {records[0].content_type!r:.80}, expected {JSON} or {PACKED}"
    return None, [bad_event(record, "unknown_content_type", detail) for record in records]


def _media_type(content_type: str) -> str:
    """Return the type without parameters: "application/json; charset=utf-8" is JSON."""
    return content_type.partition(";")[0].strip().lower()


def _runs(records: Sequence[Record]) -> Iterator[tuple[str, Sequence[Record]]]:
    """Yield stretches of records with one content type; nearly always there is one stretch."""
    types = list(map(attrgetter("content_type"), records))
    if len(set(types)) == 1:
        yield types[0], records
        return
    start = 0
    for i in range(1, len(records) + 1):
        if i == len(records) or types[i] != types[start]:
            yield types[start], records[start:i]
            start = i
