"""KafkaLog: one partition of a cluster's topics, behind the log's contract.

    partition p of the topic "events"    ->  this log's "events"
    partition p of "scores" ...          <-  what its commits give, so that a shard's scores stay together, in order

Positions are Kafka's offsets. Some belong to no record: transactions leave marks, compaction gaps.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.kafka_log.client import Cluster, one_line
from pipeline.kafka_log.early_writer import EarlyWriter
from pipeline.kafka_log.positions import Positions
from pipeline.kafka_log.reader import Reader
from pipeline.kafka_log.sending import LINGER_MS, give_up, send_all
from pipeline.kafka_log.writer import TransactionalWriter
from pipeline.log import Log, Message, Move, Progress, Read, Sending, Underway

APPEND_SECONDS = 120.0  # for the broker to acknowledge what was appended

Writer = TransactionalWriter | EarlyWriter


class KafkaLog(Log):
    """Without a `partition`: a topic's only one, and keys decide where appends go.

    `append` is idempotent, but no transaction: where it fails, the first of the messages may have been appended.
    """

    costly_commits = True

    def __init__(
        self,
        cluster: Cluster,
        partition: int | None = None,
        say: Callable[[str], None] = lambda line: None,
        lost: threading.Event | None = None,
    ) -> None:
        """`lost` is set, from any thread, once the partition is another consumer's: no commit is tried again then."""
        self._cluster, self._partition, self._say = cluster, partition, say
        self._lost = lost or threading.Event()
        self._reader = Reader(cluster, partition)
        self._positions: Positions | None = None
        self._writers: dict[tuple[str, ...], Writer] = {}  # by group and topics
        self._appender: Any = None
        self._asked_at: float | None = None

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        """Append the messages; return the end of the partition that the last went to."""
        if not messages:
            return self._reader.end(topic)
        if self._appender is None:
            self._appender = self._cluster.sender(LINGER_MS)
        self._reader.check_topic(topic)
        with one_line(f"{self._cluster.servers}/{topic}"):
            futures = list(send_all(self._appender, topic, messages, self._partition))
            self._appender.flush(APPEND_SECONDS)
            for future in futures:
                if future.failed():
                    raise future.exception
        return int(futures[-1].value.offset) + 1

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        return self._reader.read(topic, position, max_records, timeout_seconds)

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        self._reader.wait(positions, timeout_seconds)

    def commit(
        self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]
    ) -> Underway | None:
        """Append and move in one transaction; with at-least-once delivery, see `early_writer`.

        Waits for a broker that is away, however long.
        """
        for topic in (*moves, *outputs):
            self._reader.check_topic(topic)
        return self._writer(group, moves).commit(moves, outputs)

    def take_over(self, group: str, topics: Sequence[str], outputs: Sequence[str] = ()) -> None:
        """Fence whoever committed for the group, and end the transaction that it may have left open.

        Until then neither its scores' readers nor `committed` come past it.
        """
        for topic in (*topics, *outputs):
            self._reader.check_topic(topic)
        self._writer(group, topics).take_over(outputs)

    def committed(self, group: str, topic: str) -> Progress:
        self.flush()
        with self._asking():
            partition = self._reader.partition_of(topic)
            if self._positions is None:
                self._positions = Positions(self._cluster)
            found = self._positions.committed(group, topic, partition)
        if found is None:
            begin = self.begin(topic)
            return Progress(begin, begin)
        return Progress(found.note.start, found.position)

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def begin(self, topic: str) -> int:
        with self._asking():
            return self._reader.begin(topic)

    def end(self, topic: str) -> int:
        with self._asking():
            return self._reader.end(topic)

    def written(self, topic: str) -> int:
        with self._asking():
            return self._reader.written(topic)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        if self._appender is not None:
            give_up(self._appender)
            self._appender = None
        if self._positions is not None:
            self._positions.close()
            self._positions = None
        self._reader.close()

    def sending(self) -> Sending:
        writers = list(self._writers.values())
        waits = [since for since in (self._asked_at, *(w.waiting_since for w in writers)) if since is not None]
        return Sending(sum(w.in_flight for w in writers), sum(w.replaced for w in writers), max(waits, default=None))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Note that the broker owes an answer, for whoever asks whether this thread is stuck."""
        self._asked_at = time.perf_counter()
        try:
            yield
        finally:
            self._asked_at = None

    def _writer(self, group: str, topics: Iterable[str]) -> Writer:
        key = (group, *sorted(topics))
        if key not in self._writers:
            partition = self._reader.partition_of(key[1])
            early = self._cluster.settings.delivery == "at-least-once"
            make = EarlyWriter if early else TransactionalWriter
            self._writers[key] = make(self._cluster, group, key[1:], partition, self._say, self._lost)
        return self._writers[key]
