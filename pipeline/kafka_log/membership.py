"""This process's place in its group of consumers: which partitions are its to serve.

    assigned  serve these too
    revoked   let go of these: another member gets them as soon as they are released
    lost      these are another's already, for we gave no sign of life; leave everything as it is

Rebalancing is cooperative: what stays is served on meanwhile. With an `instance` name the membership is static: a
process that is back within its session finds its partitions where it left them.

The client calls back on the thread that sends its heartbeats, so nothing here may block: a release is awaited.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kafka import AsyncConsumerRebalanceListener
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.future import Future

from pipeline.errors import LogError
from pipeline.kafka_log.client import Cluster, explain, one_line

POLL_SECONDS = 0.2
LEAVE_SECONDS = 5.0
HEARTBEAT_MS = 300  # a rebalance waits for every member's next one, and the partitions that move wait with it


class Served(Protocol):
    """Whatever serves partitions. Called on the client's thread; must return at once."""

    def assigned(self, partitions: Sequence[int]) -> None: ...

    def revoked(self, partitions: Sequence[int], released: Callable[[], None]) -> None:
        """Let go of the partitions, then call `released`, from any thread."""

    def lost(self, partitions: Sequence[int]) -> None: ...


class Membership:
    """Call `poll` again and again: it is what takes part in rebalances."""

    def __init__(self, cluster: Cluster, group: str, topic: str, served: Served) -> None:
        settings = cluster.settings
        self._servers = cluster.servers
        session_ms = round(settings.session_seconds * 1000)
        self._consumer = cluster.consumer(
            group_id=group, group_instance_id=settings.instance or None, session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, session_ms // 4), auto_offset_reset="earliest",
            partition_assignment_strategy=(CooperativeStickyAssignor,),
        )  # fmt: skip
        with one_line(f"{cluster.servers}/{topic}"):
            self._consumer.partitions_for_topic(topic)  # who does not know them yet joins twice
        self._listener = _Listener(self._consumer, served)
        self._consumer.subscribe([topic], listener=self._listener)

    @property
    def rebalances(self) -> int:
        """How often the assignment has changed."""
        return self._listener.rebalances

    def poll(self, timeout_seconds: float = POLL_SECONDS) -> None:
        """Stay a member for as long; every partition is paused, so nothing is read here."""
        try:
            self._consumer.poll(timeout_ms=round(timeout_seconds * 1000))
            self._keep_joining()
        except kafka_errors.RetriableError:  # a broker that is away comes back, or the session ends
            threading.Event().wait(timeout_seconds)
        except kafka_errors.KafkaError as error:
            raise LogError(f"kafka {self._servers}: {explain(error)}") from error

    def _keep_joining(self) -> None:
        """Have the next poll wait on for an answer to JoinGroup.

        The client forgets that it waits where only the topic's partitions had changed, and its member then hangs in a
        rebalance for ever.
        """
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None:
            coordinator.request_rejoin()

    def close(self, timeout_seconds: float = LEAVE_SECONDS) -> None:
        """Leave the group; a static member stays in it until its session ends."""
        timeout_ms = round(1000 * min(LEAVE_SECONDS, max(0.1, timeout_seconds)))
        self._consumer.close(autocommit=False, timeout_ms=timeout_ms)


@dataclass
class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client ships no types
    consumer: Any
    served: Served
    rebalances: int = field(default=0)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.consumer.pause(*assigned)
        self.rebalances += 1
        self.served.assigned(_numbers(assigned))

    async def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            self.rebalances += 1
            released = Future()
            # The client's loop sleeps up to a heartbeat unless it is woken.
            soon = self.consumer._client._manager.call_soon
            self.served.revoked(_numbers(revoked), lambda: soon(released.success, None))
            await released

    async def on_partitions_lost(self, lost: Any) -> None:
        self.rebalances += 1
        self.served.lost(_numbers(lost))


def _numbers(partitions: Any) -> list[int]:
    return sorted(place.partition for place in partitions)
