"""Where groups stand: committed offsets, and what we note beside each.

The note is JSON in the offset's metadata: where the group began, for a topic whose oldest messages are gone begins
after 0; and which attempt wrote it, so that a writer that got no answer can tell whether its own had succeeded.
"""

import contextlib
from typing import Any

import msgspec
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from pipeline.errors import LogError
from pipeline.kafka_log.client import Cluster, one_line

ANSWER_MS = 30_000


class Note(msgspec.Struct):
    start: int
    attempt: str


_decode_note = msgspec.json.Decoder(Note).decode


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
        try:
            with one_line(f"{self._cluster.servers}, group {group}"):
                found = self._consumers[group].committed(place, metadata=True, timeout_ms=ANSWER_MS)
        except LogError as error:
            self.close()  # a client that once got no answer may wait for that one for ever
            if (reason := self._open_transaction(group, place)) is not None:
                raise reason from error
            raise
        return None if found is None else Committed(found.offset, _note(found.metadata, group, topic))

    def _open_transaction(self, group: str, place: TopicPartition) -> LogError | None:
        """Tell of the transaction that keeps a position from being read, if it is that."""
        with contextlib.suppress(LogError, kafka_errors.KafkaError):
            consumer = self._cluster.consumer(group_id=group, isolation_level="read_uncommitted")
            with contextlib.closing(consumer):
                consumer.committed(place, timeout_ms=ANSWER_MS)
            failure = LogError(
                f"kafka {self._cluster.servers}: a transaction that moves group {group!r} in partition "
                f"{place.partition} of {place.topic!r} has been open for {ANSWER_MS // 1000} s; if no consumer is at "
                "work, the broker has lost its end: see kafka-transactions.sh find-hanging, and its abort"
            )
            failure.retriable = True
            return failure
        return None

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close(autocommit=False, timeout_ms=1000)
        self._consumers.clear()


def offset(position: int, note: Note) -> OffsetAndMetadata:
    """Return what a transaction commits."""
    return OffsetAndMetadata(position, msgspec.json.encode(note).decode(), -1)


def _note(metadata: str | None, group: str, topic: str) -> Note:
    try:
        return _decode_note((metadata or "").rstrip("\0"))  # librdkafka ends its strings as C does
    except msgspec.MsgspecError:
        raise LogError(
            f"group {group!r} has a position in {topic!r} that graphsieve did not commit (its note: {metadata!r:.80}); "
            "give the scorer a group of its own"
        ) from None
