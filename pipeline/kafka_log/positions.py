"""Where groups stand: committed offsets, and what we note beside each.

The note is JSON in the offset's metadata: where the group began, for a topic whose oldest messages are gone begins
after 0; and which attempt wrote it, so that a writer that got no answer can tell whether its own had succeeded.
"""

from typing import Any

import msgspec
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from pipeline.errors import LogError
from pipeline.kafka_log.client import Cluster, one_line

ANSWER_MS = 30_000


class Note(msgspec.Struct):
    start: int
    attempt: str


class Committed(msgspec.Struct, frozen=True):
    position: int
    note: Note


class Positions:
    """Not for several threads."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._consumers: dict[str, Any] = {}  # by group

    def committed(self, group: str, topic: str, partition: int) -> Committed | None:
        """Return where the group stands, once no transaction that may move it is open; None if it never committed."""
        place = TopicPartition(topic, partition)
        if group not in self._consumers:
            self._consumers[group] = self._cluster.consumer(group_id=group)
        with one_line(f"{self._cluster.servers}, group {group}"):
            found = self._consumers[group].committed(place, metadata=True, timeout_ms=ANSWER_MS)
        return None if found is None else Committed(found.offset, _note(found.metadata, group, topic))

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close(autocommit=False, timeout_ms=1000)
        self._consumers.clear()


def offset(position: int, note: Note) -> OffsetAndMetadata:
    """Return what a transaction commits."""
    return OffsetAndMetadata(position, msgspec.json.encode(note).decode(), -1)


def _note(metadata: str | None, group: str, topic: str) -> Note:
    try:
        return msgspec.json.decode((metadata or "").rstrip("\0"), type=Note)  # librdkafka ends its strings as C does
    except msgspec.MsgspecError:
        raise LogError(
            f"group {group!r} has a position in {topic!r} that graphsieve did not commit (its note: {metadata!r:.80}); "
            "give the scorer a group of its own"
        ) from None
