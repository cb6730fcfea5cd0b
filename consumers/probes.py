"""What a scoring process answers to probes: is it alive, and does it score?

    /healthz   fails where a restart would help, and only there: the loop of a shard has not come round for
               STALLED_SECONDS, and does not wait for the broker either
    /readyz    holds while partitions are live here, none is restoring, and none waits for the broker

A broker that is away is no reason to restart: the state is in memory, and the loop goes on as soon as the broker is
back. What waits asks again and again, and every attempt has its limits; one that never ends is stuck, too.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from consumers.score import ScoreConsumer
from consumers.shards import Shards
from pipeline.stats import GroupStats

STALLED_SECONDS = 60.0  # a loop that has not come round for so long hangs in something
WAITING_SECONDS = 10.0  # a wait for the broker as long as this is worth a word, and no longer scoring
# An attempt of a client may take as long as its parts' own limits: connections, look-ups, reads; and `kafka.stall` for
# each of what opens and closes a transaction.
ATTEMPT_SECONDS, STALLS = 120.0, 5


@dataclass
class Probes:
    """Asked by the threads of the metrics port."""

    shards: Shards
    stats: GroupStats
    stop: threading.Event
    stall_seconds: float
    clock: Callable[[], float] = time.perf_counter

    def healthy(self) -> bool:
        now = self.clock()
        return all(now - shard.beat < STALLED_SECONDS or self._waits(shard, now) for shard in self.shards.consumers)

    def ready(self) -> bool:
        states = [shard.state for shard in self.stats.shards.values()]
        return "live" in states and "restoring" not in states and not self.stop.is_set() and not self.note()

    def note(self) -> str:
        """Return whether the broker is waited for, in words; empty where it answers."""
        now = self.clock()
        waits = [self._wait_seconds(shard, now) for shard in self.shards.consumers]
        long = [seconds for seconds in waits if seconds > WAITING_SECONDS]
        if not long:
            return ""
        return f"{len(long)} of {len(waits)} partitions wait for the broker, {max(long):.0f} s by now"

    def _waits(self, shard: ScoreConsumer, now: float) -> bool:
        """Has the broker been asked for something not too long ago?"""
        since = shard.log.sending().waiting_since
        return since is not None and now - since < ATTEMPT_SECONDS + STALLS * self.stall_seconds

    def _wait_seconds(self, shard: ScoreConsumer, now: float) -> float:
        """Return for how long the broker has kept the shard waiting; 0 where it does not.

        Each attempt begins anew, and the loop may go on beside one: the longer of the two counts.
        """
        since = shard.log.sending().waiting_since
        return max(now - since, now - shard.beat) if since is not None and self._waits(shard, now) else 0.0
