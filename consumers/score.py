"""The scoring consumer: reads a shard's events, scores them, publishes the scores, exactly once.

One micro-batch, and what a crash after each step repeats:

    1  read records at `position`                                     nothing is changed yet: read again
    2  decode; advance the state (in memory)                          gone with the process: read again
    3  classify; commit: scores, dead letters and the new position    done: never repeated; not yet done: read again
       in one transaction of the log, which may finish it beside 1
       and 2 of the next micro-batch
    4  now and then, have a snapshot written of the state at          an unfinished one is removed at the next start
       `position`, beside 1 to 3 of the micro-batches that follow

Of a backlog, a thread does the log's part while this one advances the state, where a core is free for it: it classifies
and commits the micro-batch before, and reads the next. What either may do goes to who has time: hidden features are
made here while the log's part goes on, else there; the next micro-batch is decoded there while the state's part goes
on, else here. So the state may be a micro-batch ahead of `position`, and one more be read. None of it changes what a
crash leaves; before a snapshot is begun, all that the state holds is committed.

Recovery takes the newest sound snapshot, replays the events from its position to the committed one without publishing,
and goes on. By the one rule the replay gives the very state that was lost, so no score is lost, none is published
twice, and all equal those of a run that never died.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.intake import Intake, MicroBatch, Taken
from consumers.meanwhile import Meanwhile, cores
from consumers.tally import Tally, sizes_of
from pipeline.config import Config
from pipeline.decoder import Decoder, media_type
from pipeline.errors import LogError, SnapshotError, UnsoundSnapshot
from pipeline.events import BadEvent, EventBatch, bad_event
from pipeline.explain import Explainer
from pipeline.graph_state import EXPIRED
from pipeline.live.recent import Recent
from pipeline.log import PACKED, Log, Read, Record, read_before
from pipeline.logs import DEBUG, WARNING, line
from pipeline.messages import ScoreWriter, dead_letters, is_spam
from pipeline.model import Model
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema
from pipeline.scorer import Advanced, Scored, Scorer
from pipeline.snapshot import Manifest
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_store import SnapshotStore
from pipeline.stats import ServiceStats

STORE_SECONDS = 600  # a snapshot may take so long to be read or written until that counts as hanging
AHEAD_BYTES = 80_000  # of messages: a micro-batch of fewer gains little, for threads wait for one another


class _Applied(NamedTuple):
    """A micro-batch that the state holds; the rest is for the log."""

    batch: MicroBatch
    advanced: Advanced
    lists: npt.NDArray[np.int32] | None  # of its rows, for the page where there is one
    watermark: float  # the newest time so far, seconds since the epoch


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
    core_is_free: Callable[[], bool] = lambda: cores() > 1  # for a thread besides

    position: int = field(default=0, init=False)  # all before it is applied and committed
    scorer: Scorer = field(init=False)
    # Monotonic seconds when the loop last came round; ahead, by what it may take, while a snapshot is read or written.
    beat: float = field(default=0.0, init=False)
    snapshot_name: str | None = field(default=None, init=False)  # the one that `recover` has taken
    replayed: int = field(default=0, init=False)  # messages, by `recover`
    _committed: int = field(default=0, init=False)  # where the group stood at the start
    _snapshot_position: int = field(default=-1, init=False)
    _snapshot_due: float = field(default=0.0, init=False)
    _snapshot_began: float = field(default=0.0, init=False)
    _beside: SnapshotBeside | None = field(default=None, init=False)  # the snapshot that is being written
    _coming: Taken | None = field(default=None, init=False)  # read ahead
    _uncommitted: _Applied | None = field(default=None, init=False)
    _state_is_busy: bool = field(default=False, init=False)  # while the log's part is done beside

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
        self._tally = Tally(self.stats)
        self.stats.sizes = partial(sizes_of, self.scorer)
        self._intake = Intake(self.log, self._topic, self._decoder, self.config.score, self.stats, self.monotonic)

    # -- recovery --

    def recover(self, stop: threading.Event, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load the newest sound snapshot and replay to the committed position, unless stopped; nothing is published."""
        topics = self.config.topics
        self.log.take_over(self.config.score.group, [self._topic], [topics.scores, topics.dead_letters])
        committed = self.log.committed(self.config.score.group, self._topic)
        self.position, self._committed = committed
        self.stats.position = committed.position
        self._load_snapshot(committed.position)
        self.beat = self.monotonic()
        self._replay(stop, progress)
        self.stats.restore_progress = 1.0 if self.recovered else self.stats.restore_progress
        self.stats.position = self.position
        self._snapshot_due = self.monotonic() + self.config.score.snapshot_every_seconds

    @property
    def recovered(self) -> bool:
        """Is the state that of the committed position?"""
        return self.position >= self._committed

    def _replay(self, stop: threading.Event, progress: Callable[[int, int], None]) -> None:
        start = self.position
        coming = self._read_committed(start)
        while coming is not None and not stop.is_set():
            read, events = coming
            read_on = partial(self._read_committed, read.position)
            if self.core_is_free():
                with Meanwhile(read_on) as log_work:
                    self.scorer.settle(self.scorer.advance(events))
                coming = log_work.result()
            else:
                self.scorer.settle(self.scorer.advance(events))
                coming = read_on()
            self.replayed += len(read.records)
            self.position = read.position
            self.beat = self.monotonic()
            self.stats.restore_progress = (self.position - start) / (self._committed - start)
            progress(self.position - start, self._committed - start)

    def _read_committed(self, position: int) -> tuple[Read, EventBatch] | None:
        """Return what lies between `position` and the committed one, or the first of it; None where nothing does."""
        if position >= self._committed:
            return None
        end = self.stats.log_end = self.log.end(self._topic)
        if end < self._committed:
            raise LogError(
                f"the log ends at {end}, but group {self.config.score.group!r} has committed {self._committed}: "
                "events were removed; start with another --group and an empty --state"
            )
        read = read_before(self.log, self._topic, position, self._committed)
        events, _ = self._decoder.decode(read.records)
        return read, events

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

    @property
    def read_to(self) -> int:
        """The next position to read."""
        return self._intake.read_to

    def run(self, stop: threading.Event, until: int | None = None) -> None:
        """Score until `stop` is set, or up to position `until`; call `finish` to let go in order."""
        self._intake.begin(self.position)
        while not stop.is_set() and (until is None or self._coming or self.read_to < until):
            self.beat = self.monotonic()
            taken, self._coming = self._coming or self._intake.take(until), None
            if taken is not None:
                self._serve(taken, until)
            self._tally.take_finished()
            self._snapshot_if_due()

    def finish(self) -> None:
        """Score and commit what was read, and write a snapshot, unless one of this position is under way."""
        for taken in (self._coming, self._intake.take_rest()):
            self._commit_applied()
            if taken is not None:
                self._uncommitted = self._advance(taken)
        self._commit_applied()
        self.log.flush()
        self._tally.take_finished()
        self.snapshot()

    def _serve(self, taken: Taken, until: int | None) -> None:
        """Score a micro-batch and commit it, or leave that to the next call where one is read already."""
        if self._can_go_ahead(taken):
            before, self._state_is_busy = self._uncommitted, True
            with Meanwhile(partial(self._commit_and_read_on, until)) as log_work:
                applied = self._advance(taken)
                if log_work.goes_on and (before is None or before.advanced.settled):
                    self.scorer.settle(applied.advanced)
                self._state_is_busy = False
            self._coming = log_work.result()
        else:
            applied = self._advance(taken)
            self._commit_applied()
        self._uncommitted = applied
        if self._coming is None:
            self._commit_applied()

    def _can_go_ahead(self, taken: Taken) -> bool:
        """Is the log's part of a backlog to be done meanwhile? How long messages are is taken from the first."""
        worth_it = self._intake.backlog and len(taken.records) * len(taken.records[0].value) >= AHEAD_BYTES
        return worth_it and not self._snapshot_is_due() and self.core_is_free()

    def _commit_and_read_on(self, until: int | None) -> Taken | None:
        self._commit_applied()
        taken = self._intake.take(until, wait=False)
        return self._intake.decode(taken) if taken is not None and self._state_is_busy else taken

    def _advance(self, taken: Taken) -> _Applied:
        """Have the state take in a micro-batch, but for its hidden features."""
        batch = taken if isinstance(taken, MicroBatch) else self._intake.decode(taken)
        recent = self.stats.recent
        advanced = self.scorer.advance(batch.events)
        lists = None if recent is None else recent.lists_of(advanced.row)
        return _Applied(batch, advanced, lists, self.scorer.graph.watermark)

    def _commit_applied(self) -> None:
        """Score and commit the micro-batch that the state holds and the log does not, if there is one."""
        if self._uncommitted is not None:
            self._commit(self._uncommitted)
            self._uncommitted = None

    def _commit(self, applied: _Applied) -> None:
        topics, batch = self.config.topics, applied.batch
        scored, spam = self._classify(applied)
        late = expired(self.model.schema, batch.events, scored, batch.records)
        bad = sorted([*batch.bad, *late], key=lambda event: (event.position, event.index))
        began = self.monotonic()
        messages = self._writer.write(batch.events, scored, self.clock())
        outputs = {topics.scores: messages, topics.dead_letters: list(dead_letters(bad))}
        written = {topic: said for topic, said in outputs.items() if said}
        underway = self.log.commit(self.config.score.group, {self._topic: batch.move}, written)
        self.position = self.stats.position = batch.move.position
        self.stats.last_event_ts = applied.watermark
        self._tally.note(batch, scored, bad, spam)
        self._tally.expect(underway, began, batch, scored, self.monotonic)

    def _classify(self, applied: _Applied) -> tuple[Scored, npt.NDArray[np.bool_]]:
        """Return the scores of a micro-batch, and which of them are spam."""
        if not applied.advanced.settled:
            self.scorer.settle(applied.advanced)
        scored = self.scorer.classify(applied.advanced, self._explain)
        spam = is_spam(scored.score, self.model.threshold)
        if self.stats.recent is not None and applied.lists is not None:
            self.stats.recent.note(applied.batch.events, scored, spam, applied.lists)
        return scored, spam

    # -- snapshots --

    def _snapshot_if_due(self) -> None:
        """Begin one when it is time and no event that was read waits for its score; note what has come of the last."""
        if self._beside is not None:
            self._note_snapshot(self._beside.position, self._beside.poll)
        elif self._snapshot_is_due() and not (self._intake.waits or self._coming):
            self._snapshot_due = self.monotonic() + self.config.score.snapshot_every_seconds
            if self.store.files.forkable:
                self._begin_snapshot()
            else:
                self.snapshot()

    def _snapshot_is_due(self) -> bool:
        return self._beside is None and self.monotonic() >= self._snapshot_due

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
    if EXPIRED not in scored.outcome.tobytes():  # nearly always
        return
    by_position = {record.position: record for record in records}
    for i in np.flatnonzero(scored.outcome == EXPIRED).tolist():
        position = int(events.position[i])
        record = by_position[position]
        raw = encode_packed(schema, events.part(i, i + 1)) if media_type(record.content_type) == PACKED else None
        yield bad_event(record, "expired", "the event is older than ttl", int(events.index[i]), raw)
