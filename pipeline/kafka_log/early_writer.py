"""At-least-once: scores go out at once, the position follows.

    sent and acknowledged | sent, not acknowledged: at most max_in_flight | not sent
                          ^ the position that may be committed

The position is committed once a second, beside the scoring, by the shard's transactional writer: that keeps its
fencing, so that two consumers never go on side by side. What was sent after the last committed position comes again
after a crash; its id, position, index and model tell readers that it is the same.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from pipeline.errors import FencedError, LogError
from pipeline.kafka_log.client import Cluster, explain
from pipeline.kafka_log.sending import give_up, look_up, send_all
from pipeline.kafka_log.writer import FATAL, RETRY_SECONDS, TransactionalWriter
from pipeline.log import Message, Move, Underway, check_moves
from pipeline.logs import WARNING, line, with_fields

POSITION_SECONDS = 1.0
WAIT_SECONDS = 0.001  # between two looks at what is in flight


class _Sent(NamedTuple):
    """One commit on its way."""

    moves: Mapping[str, Move]
    outputs: Mapping[str, Sequence[Message]]
    futures: list[Any]
    at: float  # monotonic seconds
    underway: Underway


class EarlyWriter:
    """The at-least-once writer of one shard. One thread commits; a thread of its own commits positions."""

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topics: Sequence[str],
        partition: int,
        say: Callable[[str], None],
        lost: threading.Event,
    ) -> None:
        self.in_flight = 0  # messages sent and not acknowledged
        self._replaced = 0
        self._cluster, self._group, self._partition = cluster, group, partition
        self._say = with_fields(say, partition=partition, group=group)
        self._lost = lost
        self._transactional = TransactionalWriter(cluster, group, topics, partition, say, lost)
        self._producer: Any = None
        self._sent: deque[_Sent] = deque()
        self._position: dict[str, int] = {}  # after the last commit
        self._acknowledged: dict[str, int] = {}  # replaced by a new one, never changed: the other thread reads it
        self._failure: LogError | None = None
        self._waiting_since: float | None = None
        self._committing = threading.Lock()  # held by whoever commits positions
        self._committed: dict[str, int] = {}
        self._closing = threading.Event()
        self._committer: threading.Thread | None = None

    @property
    def replaced(self) -> int:
        return self._replaced + self._transactional.replaced

    @property
    def waiting_since(self) -> float | None:
        """time.perf_counter() when it last looked for an acknowledgement, or asked for a position to be committed."""
        return max(
            (since for since in (self._waiting_since, self._transactional.waiting_since) if since is not None),
            default=None,
        )

    def take_over(self, outputs: Sequence[str]) -> None:
        """Fence whoever committed the positions of the shard before; its scores may still come for a while."""
        self._transactional.take_over(())
        if self._producer is None:
            self._producer = self._cluster.sender(linger_ms=0)
            look_up(self._producer, outputs)

    def commit(self, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> Underway:
        """Send the outputs; wait only while more than `max_in_flight` messages are on their way."""
        if self._committer is None:
            self._start(moves)
        if self._failure is not None:
            raise self._failure
        check_moves(self._group, moves, self._position)
        underway = Underway()
        self._send(moves, outputs, underway)
        self._position |= {topic: move.position for topic, move in moves.items()}
        self._wait_until(self._cluster.settings.max_in_flight)
        return underway

    def flush(self) -> None:
        """Wait until all is acknowledged and the position committed."""
        if self._committer is None:
            return
        self._wait_until(0)
        self._commit_position()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Give up what is on its way; call `flush` before to keep it."""
        self._closing.set()
        if self._committer is not None:
            self._committer.join()
        self._drop()
        self._transactional.close()

    def _start(self, moves: Mapping[str, Move]) -> None:
        """Take the shard over before the first message goes out: fence whoever had it."""
        self._transactional.commit({topic: Move(move.start, move.start) for topic, move in moves.items()}, {})
        self._transactional.flush()
        self._position = {topic: move.start for topic, move in moves.items()}
        self._acknowledged, self._committed = dict(self._position), dict(self._position)
        self._committer = threading.Thread(target=self._commit_positions, name="positions", daemon=True)
        self._committer.start()

    def _send(self, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]], underway: Underway) -> None:
        if self._producer is None:
            self._producer = self._cluster.sender(linger_ms=0)
        futures: list[Any] = []
        for topic, messages in outputs.items():
            futures += send_all(self._producer, topic, messages, self._partition)
        self._sent.append(_Sent(moves, outputs, futures, time.monotonic(), underway))
        self.in_flight += len(futures)

    def _wait_until(self, in_flight: int) -> None:
        """Wait until no more than so many messages are on their way."""
        self._take_acknowledged()
        while self.in_flight > in_flight:
            self._waiting_since = time.perf_counter()
            time.sleep(WAIT_SECONDS)
            self._take_acknowledged()
        self._waiting_since = None

    def _take_acknowledged(self) -> None:
        while self._sent and all(future.is_done for future in self._sent[0].futures):
            failed = next((future for future in self._sent[0].futures if future.failed()), None)
            if failed is not None:
                return self._send_again(failed.exception)
            sent = self._sent.popleft()
            sent.underway.committed_at = time.perf_counter()
            self.in_flight -= len(sent.futures)
            self._acknowledged = {topic: move.position for topic, move in sent.moves.items()}
        if self._sent and time.monotonic() > self._sent[0].at + self._cluster.settings.stall_seconds:
            self._send_again(kafka_errors.KafkaTimeoutError("no acknowledgement"))
        return None

    def _send_again(self, error: Exception) -> None:
        """Send all that is not acknowledged with a new producer, in order."""
        if isinstance(error, FATAL):
            raise LogError(f"kafka {self._cluster.servers}: {explain(error)}") from error
        self._replaced += 1
        why = f"kafka {self._cluster.servers}: {explain(error)}"
        self._say(line(f"{why}; sending again with a new producer", WARNING, producers_replaced=self.replaced))
        self._drop()
        while self._producer is None:
            self._waiting_since = time.perf_counter()
            if self._lost.wait(RETRY_SECONDS):
                raise FencedError(f"partition {self._partition} of group {self._group!r} is another consumer's")
            with contextlib.suppress(LogError):  # the broker may be away for long
                self._producer = self._cluster.sender(linger_ms=0)
        waiting, self._sent, self.in_flight = self._sent, deque(), 0
        for sent in waiting:
            self._send(sent.moves, sent.outputs, sent.underway)

    def _commit_positions(self) -> None:
        while not self._closing.wait(POSITION_SECONDS):
            self._commit_position()

    def _commit_position(self) -> None:
        """Commit what is acknowledged; a failure is kept for the next call of the scoring thread."""
        with self._committing:
            moves = {topic: Move(self._committed[topic], end) for topic, end in self._acknowledged.items()}
            if self._failure is not None or all(move.start == move.position for move in moves.values()):
                return
            try:
                self._transactional.commit(moves, {})
                self._transactional.flush()
            except LogError as error:
                self._failure = error
                return
            self._committed = {topic: move.position for topic, move in moves.items()}

    def _drop(self) -> None:
        if self._producer is not None:
            give_up(self._producer)
            self._producer = None
