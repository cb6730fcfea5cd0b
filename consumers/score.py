"""The scoring consumer: reads a shard's events, scores them, publishes the scores, exactly once.

One micro-batch, and what a crash after each step repeats:

    1  read records at `position`                                     nothing is changed yet: read again
    2  decode; apply and score (in memory)                            gone with the process: read again
    3  commit: scores, dead letters and the new position in one       done: never repeated; not yet done: read again
       transaction of the log, which may finish it beside 1 and 2 of
       the next micro-batch
    4  now and then, have a snapshot written of the state at          an unfinished one is removed at the next start
       `position`, beside 1 to 3 of the micro-batches that follow

Recovery takes the newest sound snapshot, replays the events from its position to the committed one without publishing,
and goes on. By the one rule the replay gives the very state that was lost, so no score is lost, none is published
twice, and all equal those of a run that never died.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from consumers.tally import Tally, sizes_of
from pipeline.batcher import MicroBatcher
from pipeline.config import Config
from pipeline.decoder import Decoder, media_type
from pipeline.errors import LogError, SnapshotError, UnsoundSnapshot
from pipeline.events import BadEvent, EventBatch, bad_event
from pipeline.explain import Explainer
from pipeline.graph_state import EXPIRED
from pipeline.live.recent import Recent
from pipeline.log import PACKED, Log, Move, Read, Record, Underway, clip, read_before
from pipeline.logs import DEBUG, WARNING, line
from pipeline.messages import ScoreWriter, dead_letters
from pipeline.model import Model
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema
from pipeline.scorer import Scored, Scorer
from pipeline.snapshot import Manifest
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_store import SnapshotStore
from pipeline.stats import ServiceStats

STORE_SECONDS = 600  # a snapshot may take so long to be read or written until that counts as hanging
POLL_SECONDS = 0.1  # the longest that a stop goes unnoticed
# Between two looks for company: a log asked at every event that comes costs more than the company brings.
GATHER_SECONDS = 0.002


@dataclass
class ScoreConsumer:
    """Serves one shard: call `recover`, then `run`, then `finish`; `close` in any case."""

    log: Log
    store: SnapshotStore
    model: Model
    config: Config
    stats: ServiceStats
    say: Callable[[str], None]  # one line for the operator
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.perf_counter

    position: int = field(default=0, init=False)  # all before it is applied and committed
    scorer: Scorer = field(init=False)
    # Monotonic seconds when the loop last came round; ahead, by what it may take, while a snapshot is read or written.
    beat: float = field(default=0.0, init=False)
    read_to: int = field(default=0, init=False)  # the next to read; what lies between waits in the batcher
    snapshot_name: str | None = field(default=None, init=False)  # the one that `recover` has taken
    replayed: int = field(default=0, init=False)  # messages, by `recover`
    _committed: int = field(default=0, init=False)  # where the group stood at the start
    _snapshot_position: int = field(default=-1, init=False)
    _snapshot_due: float = field(default=0.0, init=False)
    _snapshot_began: float = field(default=0.0, init=False)
    _beside: SnapshotBeside | None = field(default=None, init=False)  # the snapshot that is being written

    def __post_init__(self) -> None:
        self._decoder = Decoder(self.model.schema, self.config.score.max_message_bytes)
        self._topic = self.config.topics.events
        self._version = self.model.version
        form, threshold = self.config.scores.format, self.model.threshold
        explainer = Explainer(self.model) if self.config.scores.explain else None
        self._explain = explainer.of_spam if explainer else None
        players = explainer.players if explainer else []
        self._writer = ScoreWriter(self._version, self.model.schema.fingerprint, threshold, form, players)
        self.beat = self.monotonic()
        self.stats.sending = self.log.sending
        self.scorer = Scorer(self.model, self.monotonic)
        if self.config.metrics.port and self.config.metrics.page:
            self.stats.recent = Recent(self.model.schema, self.scorer.graph)
        self._tally = Tally(self.stats, self.scorer)
        self.stats.sizes = partial(sizes_of, self.scorer)
        # Where commits are cheap, what comes while a micro-batch is scored and committed is the next one: as large as
        # the load makes it, and nobody waits for company that may never come.
        wait = self.config.score.max_wait_seconds if self.log.costly_commits else 0.0
        self._batcher: MicroBatcher[Record] = MicroBatcher(self.config.score.max_batch, wait)

    # -- recovery --

    def recover(self, stop: threading.Event, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load the newest sound snapshot and replay to the committed position, unless stopped; nothing is published."""
        topics = self.config.topics
        self.log.take_over(self.config.score.group, [self._topic], [topics.scores, topics.dead_letters])
        committed = self.log.committed(self.config.score.group, self._topic)
        self.position, self._committed = committed
        self.stats.position = committed.position
        self._load_snapshot(committed.position)
        start, self.beat = self.position, self.monotonic()
        while self.position < self._committed and not stop.is_set():
            read = self._read_committed()
            if read.records:
                events, _ = self._decoder.decode(read.records)
                self.scorer.score(events)
            self.replayed += len(read.records)
            self.position = read.position
            self.beat = self.monotonic()
            self.stats.restore_progress = (self.position - start) / (self._committed - start)
            progress(self.position - start, self._committed - start)
        self.stats.restore_progress = 1.0 if self.recovered else self.stats.restore_progress
        self.stats.position = self.position
        self._snapshot_due = self.monotonic() + self.config.score.snapshot_every_seconds

    @property
    def recovered(self) -> bool:
        """Is the state that of the committed position?"""
        return self.position >= self._committed

    def _read_committed(self) -> Read:
        """Return records before the committed position; it is beyond the log's end if somebody removed events."""
        end = self.stats.log_end = self.log.end(self._topic)
        if end < self._committed:
            raise LogError(
                f"the log ends at {end}, but group {self.config.score.group!r} has committed {self._committed}: "
                "events were removed; start with another --group and an empty --state"
            )
        return read_before(self.log, self._topic, self.position, self._committed)

    def _load_snapshot(self, committed: int) -> None:
        for name in self.store.names():
            self.beat = self.monotonic() + STORE_SECONDS
            try:
                manifest = self.store.read_manifest(name)
                if manifest.model != self._version:
                    other = f"snapshot {name} is of model {manifest.model}, not {self._version}: not used"
                    self.say(line(other, WARNING, snapshot=name, model=manifest.model))
                    continue
                if manifest.position > committed:
                    ahead = f"snapshot {name} is ahead of the log, committed to {committed}: not used"
                    self.say(line(ahead, WARNING, snapshot=name, position=committed))
                    continue
                self.scorer.restore(self.store.read_arrays(name, manifest))
            except UnsoundSnapshot as error:
                self.say(line(f"{error}; taking an older one, or replaying from the start", WARNING, snapshot=name))
                continue
            self.position = self._snapshot_position = manifest.position
            self.snapshot_name = name
            self.stats.snapshot_written_at, self.stats.snapshot_bytes = manifest.written_at, manifest.bytes
            return
        if committed > self.position:
            replayed = f"no snapshot to go on from: {self._topic} is replayed from {self.position} to {committed}"
            self.say(line(replayed, WARNING, position=self.position, committed=committed))

    # -- the loop --

    def run(self, stop: threading.Event, until: int | None = None) -> None:
        """Score until `stop` is set, or up to position `until`; call `finish` to let go in order."""
        self.read_to = self.position
        while not stop.is_set() and (until is None or self.read_to < until):
            now = self.beat = self.monotonic()
            room = self._batcher.room() if until is None else min(self._batcher.room(), until - self.read_to)
            read = self.log.read_batch(self._topic, self.read_to, room, self._wait_for_company(now))
            read = read if until is None else clip(read, until)
            now = self.monotonic()
            if read.records:
                self._tally.note_read(self.read_to, now)
            self.read_to, self.stats.log_end = read.position, read.end
            self._batcher.add_all(read.records, now)
            self._serve(self._batcher.take_if_due(now))
            self._tally.take_finished()
            self._snapshot_if_due()

    def _wait_for_company(self, now: float) -> float:
        """Return how long the log may wait for a record, in seconds; where one waits already, sleep meanwhile."""
        due_at = self._batcher.due_at()
        left = max(0.0, min(due_at - now, POLL_SECONDS))
        if due_at == math.inf or self.read_to < (self.stats.log_end or 0):
            return left
        time.sleep(min(left, GATHER_SECONDS))
        return 0.0

    def finish(self) -> None:
        """Score and commit what was read, and write a snapshot, unless one of this position is under way."""
        self._serve(self._batcher.take_all())
        self.log.flush()
        self._tally.take_finished()
        self.snapshot()

    def _serve(self, records: Sequence[Record]) -> None:
        """Score one micro-batch and commit it."""
        if not records:
            return
        times = [self.monotonic()]
        events, bad = self._decoder.decode(records)
        times.append(self.monotonic())
        scored = self.scorer.score(events, self._explain)
        bad = sorted(
            [*bad, *expired(self.model.schema, events, scored, records)],
            key=lambda event: (event.position, event.index),
        )
        began = self.monotonic()
        underway, spam = self._commit(events, scored, bad)
        self._tally.note(events, scored, bad, spam)
        self.stats.position = self.position
        self._tally.time(len(records), times[1] - times[0], scored)
        self._tally.expect(underway, began, events.position[scored.event], self.monotonic)

    def _commit(
        self, events: EventBatch, scored: Scored, bad: list[BadEvent]
    ) -> tuple[Underway | None, npt.NDArray[np.bool_]]:
        topics = self.config.topics
        messages, spam = self._writer.write(events, scored, self.clock())
        outputs = {topics.scores: messages, topics.dead_letters: list(dead_letters(bad))}
        written = {topic: said for topic, said in outputs.items() if said}
        move = Move(self.position, self.read_to)  # a batch holds all that was read
        underway = self.log.commit(self.config.score.group, {self._topic: move}, written)
        self.position = self.read_to
        return underway, spam

    # -- snapshots --

    def _snapshot_if_due(self) -> None:
        """Begin one when it is time and no event that was read waits for its score; note what has come of the last."""
        if self._beside is not None:
            self._note_snapshot(self._beside.position, self._beside.poll)
        elif self.monotonic() >= self._snapshot_due and self._batcher.due_at() == math.inf:
            self._snapshot_due = self.monotonic() + self.config.score.snapshot_every_seconds
            if self.store.files.forkable:
                self._begin_snapshot()
            else:
                self.snapshot()

    def _begin_snapshot(self) -> None:
        """Have the state at `position` written by a child process, if it is not written yet."""
        if self.position == self._snapshot_position:
            return
        self.log.flush()
        self._snapshot_began = self.monotonic()
        try:
            self._beside = SnapshotBeside(
                self.store, self.position, self._version, self.scorer.export, self.clock(), STORE_SECONDS
            )
        except SnapshotError as error:
            self._note_failure(error)

    def snapshot(self) -> None:
        """Write the state at `position`, if it is not written yet, while scoring stands still."""
        if self._beside is not None and self._beside.position == self.position:
            self.beat = self.monotonic() + STORE_SECONDS
            self._note_snapshot(self.position, self._beside.wait)
        self.close()  # what is written beside is older
        if self.position == self._snapshot_position:
            return
        self.log.flush()
        self._snapshot_began = self.monotonic()
        self.beat = self._snapshot_began + STORE_SECONDS
        self._note_snapshot(
            self.position,
            lambda: self.store.write(self.position, self._version, self.scorer.export(), self.clock()),
        )

    def _note_snapshot(self, position: int, written: Callable[[], Manifest | None]) -> None:
        """Count what was `written`, if it was; a failure is said and counted, scoring goes on."""
        try:
            manifest = written()
        except SnapshotError as error:
            self._note_failure(error)
            return
        if manifest is None:
            return
        self._end_snapshot()
        seconds = self.stats.snapshot_seconds = self.monotonic() - self._snapshot_began
        self._snapshot_position = position
        self.stats.snapshots += 1
        self.stats.snapshot_written_at, self.stats.snapshot_bytes = manifest.written_at, manifest.bytes
        took = f"snapshot at position {position}: {manifest.bytes:,} bytes in {seconds:.2f} s"
        self.say(line(took, DEBUG, position=position, bytes=manifest.bytes, seconds=round(seconds, 3)))

    def _note_failure(self, error: SnapshotError) -> None:
        self._end_snapshot()
        self.stats.snapshot_failures += 1
        self.say(line(f"{error}; scoring goes on, a start would replay from the last one", WARNING))

    def _end_snapshot(self) -> None:
        self._beside = None
        self._snapshot_due = self.monotonic() + self.config.score.snapshot_every_seconds

    def close(self) -> None:
        """Give up the snapshot that is being written, if any: nobody would hear what comes of it."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None


def expired(schema: Schema, events: EventBatch, scored: Scored, records: Sequence[Record]) -> Iterable[BadEvent]:
    """The events that came later than their node would have lived: nothing scored them, so they are set aside."""
    late = np.flatnonzero(scored.outcome == EXPIRED).tolist()
    by_position = {record.position: record for record in records} if late else {}
    for i in late:
        position = int(events.position[i])
        record = by_position[position]
        raw = encode_packed(schema, events.part(i, i + 1)) if media_type(record.content_type) == PACKED else None
        yield bad_event(record, "expired", "the event is older than ttl", int(events.index[i]), raw)
