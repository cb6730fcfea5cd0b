"""Commits: what a micro-batch gave and the positions it ends at, in one Kafka transaction.

**Fencing.** A shard's transactional id is its group, topic and partition, whichever process serves it. A new producer
with that id (`init_transactions`) ends whatever an earlier one had begun, and the broker refuses everything the earlier
one sends afterwards. After every `init_transactions` the group's position is read again, and must be where the next
move starts. So whoever commits holds the newest producer of the shard and stood where the group stands: a zombie, alone
or in the middle of a transaction, can write nothing. An id for each process would leave the transaction of a killed one
open, and its readers blocked, until it times out.

**Stalls.** A producer that the broker did not answer for `stall_seconds` is replaced by a new one. The position's note
then tells whether the transaction had been committed after all; if not, the same outputs are sent again.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors

from pipeline.errors import FencedError, LogError
from pipeline.kafka_log.client import Cluster, explain
from pipeline.kafka_log.finisher import Finisher
from pipeline.kafka_log.positions import Note, Positions, offset
from pipeline.kafka_log.sending import LINGER_MS, commit_transaction, give_up, look_up, send_all
from pipeline.log import Message, Move, Underway, check_moves
from pipeline.logs import WARNING, line, with_fields

RETRY_SECONDS = 0.5

# What no second attempt mends.
FATAL = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTopicError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.InvalidTransactionTimeoutError,
)


class TransactionalWriter:
    """The writer of one shard: a group's positions in `topics` at one partition. Not for several threads."""

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topics: Sequence[str],
        partition: int,
        say: Callable[[str], None],
        lost: threading.Event,
    ) -> None:
        self.replaced = 0  # producers, because the broker stalled, or fenced them
        self.in_flight = 0  # messages sent and not acknowledged
        self.waiting_since: float | None = None  # time.perf_counter() when the attempt under way began
        self._cluster, self._group, self._partition = cluster, group, partition
        self._say = with_fields(say, partition=partition, group=group)
        self._lost = lost
        self._stall_seconds = cluster.settings.stall_seconds
        self._id = f"graphsieve-{group}-{'+'.join(sorted(topics))}-{partition}"
        self._positions = Positions(cluster)
        self._producer: Any = None
        self._outputs: Sequence[str] = ()
        self._committed: dict[str, int] = {}  # as of the producer's init, and of its commits since
        self._starts: dict[str, int] = {}
        self._name, self._attempts = uuid.uuid4().hex[:12], 0
        self._finisher = Finisher()

    def take_over(self, outputs: Sequence[str]) -> None:
        """Fence all earlier producers of the shard, and end what they had begun; waits for a broker that is away."""
        self.flush()
        self._outputs = outputs
        self._insist(self._begin)

    def commit(self, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> Underway:
        """Write all or nothing; FencedError if another consumer has moved the group.

        Returns once the messages are handed to the client: the rest, which is waiting for the broker, goes on beside
        the caller. One commit is under way at a time; what fails is raised by the next call. Waits for a broker that
        is away, however long: nothing is lost, and what comes behind waits in the log.
        """
        self.flush()
        self._attempts += 1
        attempt = f"{self._name}-{self._attempts}"
        sent = self._sent_early(moves, outputs)
        underway = Underway()

        def finish() -> None:
            self._insist(partial(self._once, moves, outputs, attempt, sent))
            self._committed |= {topic: move.position for topic, move in moves.items()}
            self.in_flight = 0
            underway.committed_at = time.perf_counter()

        self._finisher.start(finish)
        return underway

    def flush(self) -> None:
        """Wait for the commit under way, and raise what it failed of."""
        self._finisher.wait()

    def close(self) -> None:
        if not self._lost.is_set():  # else it may wait for ever, and nobody needs it
            with contextlib.suppress(LogError):
                self.flush()
        self._finisher.stop()
        self._drop()
        self._positions.close()

    def _sent_early(self, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> list[list[Any]]:
        """Begin the transaction and hand the messages over where all is well; what is not is done in order later."""
        if self._producer is None or not self._committed:
            return []
        check_moves(self._group, moves, self._committed)
        try:
            return [self._send(outputs)]
        except kafka_errors.KafkaError:
            self._drop()
            return []

    def _once(
        self, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]], attempt: str, sent: list[list[Any]]
    ) -> None:
        """Try to commit; `sent` holds the futures of what an earlier step has handed over, at most once."""
        self._begin()
        if not self._committed and self._read_positions(moves) == attempt:
            return  # the attempt that got no answer had succeeded
        check_moves(self._group, moves, self._committed)
        self._settle(moves, attempt, sent.pop() if sent else self._send(outputs))

    def _insist(self, once: Callable[[], None]) -> None:
        """Do it, with a new producer after each failure that time mends."""
        while True:
            self.waiting_since = time.perf_counter()
            try:
                once()
                return
            except FATAL as error:
                self._drop()
                raise LogError(f"kafka {self._cluster.servers}: {explain(error)}") from error
            except kafka_errors.KafkaError as error:
                self._replace(error, f"kafka {self._cluster.servers}: {explain(error)}")
            except LogError as error:
                if isinstance(error, FencedError) or not error.retriable:
                    raise
                self._replace(error, str(error))
            finally:
                self.waiting_since = None

    def _begin(self) -> None:
        """Make sure that there is a producer, the newest of the shard; where the group stands is to be read again."""
        if self._producer is not None:
            return
        producer = self._cluster.sender(LINGER_MS, self._id)
        try:
            producer.init_transactions()
            look_up(producer, self._outputs)
        except BaseException:
            give_up(producer)
            raise
        self._producer, self._committed = producer, {}

    def _read_positions(self, moves: Mapping[str, Move]) -> str:
        """Note where the group stands, and return who brought it there; one that never moved begins with this move."""
        committed, attempts = {}, []
        for topic, move in moves.items():
            found = self._positions.committed(self._group, topic, self._partition)
            committed[topic] = move.start if found is None else found.position
            self._starts[topic] = move.start if found is None else found.note.start
            attempts.append("" if found is None else found.note.attempt)
        self._committed = committed
        return attempts[0]

    def _send(self, outputs: Mapping[str, Sequence[Message]]) -> list[Any]:
        """Begin a transaction and hand its messages to the client; return their futures."""
        self._producer.begin_transaction()
        futures: list[Any] = []
        for topic, messages in outputs.items():
            futures += send_all(self._producer, topic, messages, self._partition)
        self.in_flight = len(futures)
        return futures

    def _settle(self, moves: Mapping[str, Move], attempt: str, futures: list[Any]) -> None:
        """See that all messages are there, add the positions, and commit."""
        offsets = {
            TopicPartition(topic, self._partition): offset(move.position, Note(self._starts[topic], attempt))
            for topic, move in moves.items()
        }
        commit_transaction(self._producer, futures, offsets, self._group, self._stall_seconds)

    def _replace(self, error: Exception, why: str) -> None:
        self._drop()
        if self._lost.wait(RETRY_SECONDS):
            raise FencedError(f"partition {self._partition} of group {self._group!r} is another consumer's") from error
        self.replaced += 1
        self._say(line(f"{why}; trying again with a new producer", WARNING, producers_replaced=self.replaced))

    def _drop(self) -> None:
        if self._producer is not None:
            give_up(self._producer)
            self._producer = None
