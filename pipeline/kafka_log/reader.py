"""Reads one partition number of any topics, from any position.

    _next[place]      the position that the last read gave: what follows there needs no seek
    _buffered[place]  records polled and not handed out yet, in order, from _next on

A topic with buffered records is paused while another one is polled, so no buffer holds more than one poll gave.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kafka import TopicPartition
from kafka import errors as kafka_errors

from pipeline.errors import LogError
from pipeline.kafka_log.client import Cluster, one_line
from pipeline.log import Read, Record

# At once from the client: whatever a fetch held, which FETCH_BYTES bounds. kafka-python (3.0.12) loses sight of a
# partition that is paused while a part of its fetch has been handed out.
ALL_RECORDS = 10**9
# kafka-python (3.0.12) may overlook a fetch that came while it asked for the next, believes to be idle, and sleeps.
IDLE_MS = 2
POLL_SECONDS = 0.05  # a poll that skips nothing but marks gives nothing, and would not end before its time


class Reader:
    """Not for several threads."""

    def __init__(self, cluster: Cluster, partition: int | None) -> None:
        self._cluster, self._servers = cluster, cluster.servers
        self._partition = partition
        self._control = cluster.consumer(retry_backoff_ms=IDLE_MS)  # tells of topics, ends, beginnings
        self._consumer, self._record_of = cluster.fetcher(self._control)
        self._uncommitted: Any = None  # tells of ends beyond open transactions
        self._places: dict[str, TopicPartition] = {}
        self._checked: set[str] = set()
        self._next: dict[TopicPartition, int] = {}
        self._buffered: dict[TopicPartition, deque[Record]] = {}

    def read(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        place = self._go_to(topic, position)
        buffered = self._buffered[place]
        self._poll_for([place], timeout_seconds)
        records = [buffered.popleft() for _ in range(min(max_records, len(buffered)))]
        self._next[place] = buffered[0].position if buffered else self._consumer.position(place)
        return Read(records, self._next[place], max(self._next[place], self._consumer.highwater(place) or 0))

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        """Return once one of the topics has a record at or after its position, or on timeout."""
        self._poll_for([self._go_to(topic, position) for topic, position in positions.items()], timeout_seconds)

    def check_topic(self, topic: str) -> None:
        """LogError if there is no such topic, or it lacks our partition."""
        if topic in self._places or topic in self._checked:
            return
        if self._partition is None:
            self._partitions(topic)
        else:
            self._place(topic)
        self._checked.add(topic)

    def partition_of(self, topic: str) -> int:
        """Return which partition of the topic this log is."""
        return int(self._place(topic).partition)

    def begin(self, topic: str) -> int:
        """Return the first position that the topic still has."""
        place = self._place(topic)
        with one_line(self._where(place)):
            return int(self._control.beginning_offsets([place])[place])

    def end(self, topic: str) -> int:
        """Return the position after the last record that is committed."""
        return self._end(self._control, topic)

    def written(self, topic: str) -> int:
        """Return the position after the last record, committed or not."""
        if self._uncommitted is None:
            self._uncommitted = self._cluster.consumer(isolation_level="read_uncommitted")
        return self._end(self._uncommitted, topic)

    def close(self) -> None:
        for consumer in {id(c): c for c in (self._consumer, self._control, self._uncommitted)}.values():
            if consumer is not None:
                consumer.close(autocommit=False, timeout_ms=1000)
        self._uncommitted = None

    def _end(self, client: Any, topic: str) -> int:
        """Return where the topic ends for that client."""
        place = self._place(topic)
        with one_line(self._where(place)):
            return int(client.end_offsets([place])[place])

    def _go_to(self, topic: str, position: int) -> TopicPartition:
        """Make the next record of the topic that at `position`, or the first after it."""
        place = self._place(topic)
        if self._next.get(place) != position:
            if place not in self._next:
                self._assign(place)
            self._buffered[place].clear()
            self._consumer.seek(place, position)
            self._next[place] = position
        return place

    def _assign(self, place: TopicPartition) -> None:
        """Add a partition to those that are polled; the others go on where they are."""
        polled_to = {other: self._consumer.position(other) for other in self._next}
        self._consumer.assign([*polled_to, place])
        for other, position in polled_to.items():
            self._consumer.seek(other, position)
        self._buffered[place] = deque()

    def _place(self, topic: str) -> TopicPartition:
        """Return the topic's partition that this log is: the wanted one, else its only one."""
        if topic not in self._places:
            partitions, wanted = self._partitions(topic), self._partition
            if wanted is None and len(partitions) > 1:
                self._refuse(topic, f"has {len(partitions)} partitions", "say which one: --partition N")
            if wanted is not None and wanted not in partitions:
                fix = "all topics of a scorer need as many as its events have"
                self._refuse(topic, f"has {len(partitions)} partitions, not one of number {wanted}", fix)
            self._places[topic] = TopicPartition(topic, min(partitions) if wanted is None else wanted)
        return self._places[topic]

    def _partitions(self, topic: str) -> set[int]:
        """Return the topic's partitions; LogError if there is none: the client would wait for it for ever."""
        with one_line(f"{self._servers}/{topic}"):
            partitions: set[int] | None = self._control.partitions_for_topic(topic)
        if not partitions:
            create = f"graphsieve topics create kafka://{self._servers}/{topic} --partitions N"
            self._refuse(topic, "does not exist", f"make it: {create}")
        return partitions or set()

    def _refuse(self, topic: str, what: str, fix: str) -> NoReturn:
        raise LogError(f"kafka {self._servers}: topic {topic!r} {what}; {fix}")

    def _poll_for(self, places: Sequence[TopicPartition], timeout_seconds: float) -> None:
        """Poll until one of the places has a record, or has skipped what no reader sees, or the time is up."""
        deadline = time.monotonic() + timeout_seconds
        left = timeout_seconds
        while not any(self._buffered[place] for place in places):
            self._poll(min(left, POLL_SECONDS))
            left = deadline - time.monotonic()
            if left <= 0 or any(self._consumer.position(place) != self._next[place] for place in places):
                break

    def _poll(self, timeout_seconds: float) -> None:
        full = [place for place, buffered in self._buffered.items() if buffered]
        self._consumer.pause(*full)
        try:
            polled = self._consumer.poll(round(timeout_seconds * 1000), ALL_RECORDS)
        except kafka_errors.OffsetOutOfRangeError as error:
            self._refuse_positions(error)
        except kafka_errors.RetriableError:  # the broker is away, and what it has comes when it is back
            polled = {}
            time.sleep(timeout_seconds)
        except kafka_errors.KafkaError:
            with one_line(self._servers):
                raise
        finally:
            self._consumer.resume(*full)
        for place, records in polled.items():
            self._buffered[place].extend(map(self._record_of, records))

    def _refuse_positions(self, error: Exception) -> NoReturn:
        """Say which topic has lost what was to be read: skipping it would change every later score."""
        for place, position in self._next.items():
            begin, end = self.begin(place.topic), self.end(place.topic)
            if position < begin:
                raise LogError(
                    f"kafka {self._where(place)} begins at {begin}, position {position} was to be read: retention has "
                    "removed what lies between; restore a snapshot that is newer, or begin anew with another --group "
                    "and an empty --state, and keep the topic longer (retention.ms)"
                ) from error
            if position > end:
                raise LogError(
                    f"kafka {self._where(place)} ends at {end}, position {position} was to be read: messages were "
                    "lost, or the topic was made anew; begin anew with another --group and an empty --state"
                ) from error
        raise LogError(f"kafka {self._servers}: {error}; start again") from error

    def _where(self, place: TopicPartition) -> str:
        return f"{self._servers}/{place.topic}, partition {place.partition}"
