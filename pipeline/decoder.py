"""Records of the log -> events, whatever their content type and whichever topic they are from."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np

from pipeline.events import LABEL, BadEvent, EventBatch, bad_event
from pipeline.json_codec import JsonReader
from pipeline.log import JSON, PACKED, TOMBSTONE, Record, Records
from pipeline.packed_codec import PackedReader
from pipeline.schema import Schema
from pipeline.tombstones import TombstoneReader, pass_over

MAX_MESSAGE_BYTES = 4 * 2**20

_Reader = Callable[[Records], tuple[EventBatch | None, list[BadEvent]]]
_OTHER_TOPIC = ""  # stands for all topics without words of their own


class Decoder:
    """Turns records of the log into events, as `schema` says; holds no state between calls.

    Never raises for anything a record holds: what cannot be understood comes back as a BadEvent.
    """

    def __init__(self, schema: Schema, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._json = JsonReader(schema)
        packed, tombstones = PackedReader(schema), TombstoneReader(schema)
        self._readers: dict[str, dict[str, _Reader]] = {}  # topic -> content type -> reader
        for topic in (_OTHER_TOPIC, *schema.topics):
            own = schema.of_topic(topic)
            self._readers[topic] = {
                JSON: self._json.read if own is schema else JsonReader(own).read,
                PACKED: packed.read,
                TOMBSTONE: pass_over if own.events.tombstones == "ignore" else tombstones.read,
            }
        self._max_message_bytes = max_message_bytes

    def decode(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        """Return the events of `records` in order, and those that are bad, in order of their positions."""
        parts: list[EventBatch] = []
        bad: list[BadEvent] = []
        shares, in_order = self._shares(self._small(Records(records), bad))
        for read, share in shares:
            part, wrong = read(share)
            bad += wrong
            if part is not None:
                parts.append(part)
        bad.sort(key=lambda event: (event.position, event.index))
        batch = EventBatch.join(parts or [self._json.read(Records())[0]])
        return (batch if in_order else batch.by_position()), bad

    def _small(self, records: Records, bad: list[BadEvent]) -> Records:
        limit = self._max_message_bytes
        if max(map(len, records.columns.value), default=0) <= limit:
            return records
        large = [record for record in records if len(record.value) > limit]
        bad += [bad_event(r, "too_large", f"{len(r.value)} bytes, at most {limit}") for r in large]
        return Records(record for record in records if len(record.value) <= limit)

    def _shares(self, records: Records) -> tuple[list[tuple[_Reader, Records]], bool]:
        """Return each reader's share of the records, and whether the shares follow one another in order.

        Nearly always there is one. Otherwise a share is all that is a reader's, not each stretch of it: where topics
        alternate, reading one message costs as much as reading a hundred at once.
        """
        topic, content_type = records.columns.topic, records.columns.content_type
        if len(set(topic)) == len(set(content_type)) == 1:
            return [(self._reader(topic[0], content_type[0]), records)], True
        kinds = list(zip(topic, content_type, strict=True))
        reader_of = {kind: self._reader(*kind) for kind in set(kinds)}
        if len(set(reader_of.values())) == 1:
            return [(reader_of[kinds[0]], records)], True
        readers = [reader_of[kind] for kind in kinds]
        # Positions that do not rise come from recorded files that were put together: their order is the truth then.
        if any(one >= next_one for one, next_one in pairwise(records.columns.position)):
            stretches = groupby(zip(readers, records, strict=True), key=itemgetter(0))
            return [(read, Records(record for _, record in stretch)) for read, stretch in stretches], True
        shares: dict[_Reader, Records] = {}
        for read, record in zip(readers, records, strict=True):
            shares.setdefault(read, Records()).append(record)
        return list(shares.items()), False

    def _reader(self, topic: str, content_type: str) -> _Reader:
        readers = self._readers.get(topic) or self._readers[_OTHER_TOPIC]
        return readers.get(media_type(content_type), _unknown_content_type)


def labels_of(events: EventBatch) -> Iterator[tuple[int, str, int]]:
    """Yield (position, id, 1 for spam or 0) of the label events among `events`."""
    at = np.flatnonzero(events.kind == LABEL)
    yield from zip(events.position[at].tolist(), events.id[at].known(), events.label[at].tolist(), strict=True)


def _unknown_content_type(records: Sequence[Record]) -> tuple[None, list[BadEvent]]:
    details = [f"content type {record.content_type!r:.80}, expected {JSON} or {PACKED}" for record in records]
    return None, [bad_event(record, "unknown_content_type", d) for record, d in zip(records, details, strict=True)]


def media_type(content_type: str) -> str:
    """Return the type without parameters: "application/json; charset=utf-8" is JSON."""
    return content_type.partition(";")[0].strip().lower()
