"""The shards that this process serves: one thread for each partition, which come and go.

    assigned --> restoring --> live --> released       finished the batch, committed, wrote a snapshot
                     |           |----> lost           another process has it: everything left as it is
                     +-----------+----> failed         said why; tried again after a while, for stores and topics mend

Shards share nothing but the model, so one restores while the others go on. A shard that was fenced (its partition was
moved and came back before we knew) is restored anew at once.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from consumers.meanwhile import cores
from consumers.score import ScoreConsumer
from pipeline.config import Config
from pipeline.errors import FencedError, GraphsieveError
from pipeline.log import Log
from pipeline.logs import WARNING, Line, line, with_fields
from pipeline.model import Model
from pipeline.snapshot_store import SnapshotStore
from pipeline.stats import GroupStats, ServiceStats

RETRY_SECONDS = 5.0  # until a failed shard is tried again

OpenLog = Callable[[int, threading.Event], Log]  # of a partition; the event is set once it is another's
OpenStore = Callable[[int], SnapshotStore]
Progress = Callable[[int, int], None]


@dataclass
class Shard:
    """One partition while it is ours."""

    partition: int
    stats: ServiceStats
    stop: threading.Event = field(default_factory=threading.Event)  # finish and let go
    lost: threading.Event = field(default_factory=threading.Event)  # leave everything as it is
    released: Callable[[], None] = lambda: None
    thread: threading.Thread | None = None
    consumer: ScoreConsumer | None = None
    error: Exception | None = None
    ended_at: float = 0.0  # monotonic seconds
    said: bool = False  # why it failed
    done: bool = False  # has reached the end that it was to stop at

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the thread's end; return whether it came."""
        if self.thread is not None:
            self.thread.join(seconds)
        return self.thread is None or not self.thread.is_alive()


class Shards:
    """Serves what it is assigned. `assigned`, `revoked` and `lost` come from one thread, and return at once."""

    def __init__(
        self,
        open_log: OpenLog,
        open_store: OpenStore,
        model: Model,
        config: Config,
        stats: GroupStats,
        say: Callable[[str], None],
        in_group: bool,
        until_end: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._open_log, self._open_store = open_log, open_store
        self._model, self._config, self._stats, self._say = model, config, stats, say
        self._place = {"group": config.score.group, "topic": config.topics.events}
        self._in_group = in_group  # whether somebody shares partitions out: a fence is no mistake then
        self._until_end, self._progress = until_end, progress
        self._shards: dict[int, Shard] = {}
        self._changing = threading.Lock()  # of _shards: the membership tells on a thread of its client
        self._untils: dict[int, int] = {}  # by partition: the log's end when it was first ours

    # -- what the membership tells --

    def assigned(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            if self._in_group:
                self._say(line(f"partition {partition} is assigned to this consumer", partition=partition))
            with self._changing:
                self._start(partition)

    def revoked(self, partitions: Sequence[int], released: Callable[[], None]) -> None:
        """Let go of the partitions, then call `released`."""
        shards = self._taken(partitions)
        for shard in shards:
            shard.stop.set()

        def wait() -> None:
            for shard in shards:
                shard.join()
            released()

        threading.Thread(target=wait, name="release", daemon=True).start()

    def lost(self, partitions: Sequence[int]) -> None:
        for shard in self._taken(partitions):
            gone = f"partition {shard.partition} went to another consumer while this one gave no sign of life"
            self._say(line(gone, WARNING, partition=shard.partition, position=shard.stats.position))
            shard.stats.state = "lost"  # at once: its thread may hang in a commit
            shard.lost.set()
            shard.stop.set()

    def _taken(self, partitions: Sequence[int]) -> list[Shard]:
        with self._changing:
            return [self._shards.pop(partition) for partition in partitions if partition in self._shards]

    # -- what the service asks --

    @property
    def consumers(self) -> list[ScoreConsumer]:
        """Those of the shards that are live or restoring."""
        return [s.consumer for s in list(self._shards.values()) if s.consumer is not None and s.error is None]

    def mend(self) -> None:
        """Start again what failed, after a while; raise if all has failed for a reason that time does not mend."""
        with self._changing:
            failed = [shard for shard in self._shards.values() if shard.error is not None]
            for shard in failed:
                if not isinstance(shard.error, GraphsieveError) and shard.error is not None:
                    raise shard.error  # a bug
            if failed and len(failed) == len(self._shards) and not any(map(self._passes, failed)):
                raise failed[0].error or AssertionError
            for shard in failed:
                if not shard.said:
                    self._tell_failure(shard)
                    shard.said = True
                if isinstance(shard.error, FencedError) or time.monotonic() > shard.ended_at + RETRY_SECONDS:
                    self._start(shard.partition)

    def _tell_failure(self, shard: Shard) -> None:
        why = f"partition {shard.partition}: {shard.error}; it is tried again"
        facts = {"position": shard.stats.position, "error": type(shard.error).__name__}
        self._say(line(why, WARNING, partition=shard.partition, **facts))

    def _passes(self, shard: Shard) -> bool:
        """Is what failed likely to mend by itself: a broker that is away, a partition that moved within its group?"""
        if isinstance(shard.error, FencedError):
            return self._in_group
        return isinstance(shard.error, GraphsieveError) and shard.error.retriable

    def finished(self) -> bool:
        """Have all shards reached the end that they were to stop at?"""
        return all(s.done or (s.error is not None and not self._passes(s)) for s in list(self._shards.values()))

    def served(self) -> bool:
        """Was any shard ever ours?"""
        return bool(self._untils or self._shards)

    def stop(self, seconds: float) -> None:
        """Finish every batch, commit, write snapshots; raise what failed for good. Gives up after `seconds`."""
        shards, deadline = list(self._shards.values()), time.monotonic() + seconds
        for shard in shards:
            shard.stop.set()
        for shard in shards:
            if not shard.join(max(0.0, deadline - time.monotonic())):
                unfinished = f"partition {shard.partition} did not finish; its last events will be read again"
                self._say(line(unfinished, WARNING, partition=shard.partition, position=shard.stats.position))
                shard.lost.set()
                self._taken([shard.partition])  # or who leaves the group would wait for it
        for shard in shards:
            if shard.error is not None and not self._passes(shard):
                raise shard.error

    # -- one shard --

    def _start(self, partition: int) -> None:
        shard = self._shards[partition] = Shard(partition, self._stats.begin(partition))
        shard.thread = threading.Thread(target=self._run, args=(shard,), name=f"shard-{partition}", daemon=True)
        shard.thread.start()

    def _run(self, shard: Shard) -> None:
        try:
            self._serve(shard)
            shard.stats.state = "lost" if shard.lost.is_set() else "released"
            if shard.stats.state == "released":
                let_go = f"partition {shard.partition} is released at position {shard.stats.position}"
                self._say(line(let_go, partition=shard.partition, position=shard.stats.position))
        except Exception as error:
            if shard.lost.is_set():
                shard.stats.state = "lost"  # whatever could not be done is another's now
                return
            shard.error = error
            shard.stats.state = "failed"
        finally:
            shard.ended_at = time.monotonic()

    def _serve(self, shard: Shard) -> None:
        with ExitStack() as stack:
            log = self._open_log(shard.partition, shard.lost)
            stack.callback(log.close)
            stack.callback(shard.stats.let_go)
            store = self._open_store(shard.partition)
            stack.callback(store.close)
            say = with_fields(self._say, partition=shard.partition, **self._place)
            consumer = ScoreConsumer(
                log, store, self._model, self._config, shard.stats, say, core_is_free=self._core_is_free
            )
            stack.callback(consumer.close)
            shard.consumer = consumer
            until = self._until(log, shard.partition)
            asked = time.monotonic()
            consumer.recover(shard.stop, self._progress)
            if consumer.recovered and not shard.stop.is_set():
                shard.stats.state = "live"
                say(_restored(shard.partition, consumer, time.monotonic() - asked))
            began = time.monotonic()
            consumer.run(shard.stop, until)
            shard.stats.live_seconds += time.monotonic() - began
            if not shard.lost.is_set():
                consumer.finish()
            shard.done = until is not None and consumer.read_to >= until

    def _core_is_free(self) -> bool:
        """Is there a core that no shard needs for itself?"""
        return len(self._shards) < cores()

    def _until(self, log: Log, partition: int) -> int | None:
        if not self._until_end:
            self._untils.setdefault(partition, 0)
            return None
        if partition not in self._untils:
            self._untils[partition] = log.end(self._config.topics.events)
        return self._untils[partition]


def _restored(partition: int, consumer: ScoreConsumer, seconds: float) -> Line:
    """Say how a shard came to its state."""
    snapshot = consumer.snapshot_name
    how = f"from {snapshot}" if snapshot else "without a snapshot"
    text = (
        f"partition {partition} is live at position {consumer.position}: restored {how}, "
        f"{consumer.replayed:,} messages replayed, in {seconds:.1f} s"
    )
    return line(
        text, position=consumer.position, snapshot=snapshot, replayed=consumer.replayed, seconds=round(seconds, 3)
    )
