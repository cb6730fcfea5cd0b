"""Follows the scores and labels of a log as they come: every partition in turn, on one thread.

    Follower    one partition: how far it is read
    Following   all of them: the loop, what they found together, the partitions whose broker is away

Nothing is kept on disk and nothing is committed: a restart reads the log again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from consumers.join import JoinState
from consumers.windows import Windows
from pipeline.config import Topics
from pipeline.decoder import Decoder, labels_of
from pipeline.errors import LogError
from pipeline.evaluate import for_json
from pipeline.log import Log, read_before
from pipeline.messages import ScoreReader
from pipeline.stats import QualityStats

POLL_SECONDS = 1.0  # between two looks at a log that had nothing new
NOTE_SECONDS = 1.0  # between two workings out of the figures
RETRY_SECONDS = 2.0  # until a partition whose broker is away is tried again
# A loop that has not come round for so long is not healthy. A broker that is there and answers nothing holds a step for
# 45 s, until its clients give up.
STALLED_SECONDS = 120.0


class Follower:
    """One partition. Where it stands outlives its log, which `let_go` closes and the next step opens anew.

    `group` is the scorer's: whatever it has committed is published, so labels are read up to there and no further, and
    find all the scores that they judge. The scores must be one scorer's, in order of their position.
    """

    def __init__(
        self,
        partition: int,
        open_log: Callable[[], Log],
        decoder: Decoder,
        group: str,
        state: JoinState,
        windows: Windows,
        topics: Topics,
    ) -> None:
        self.partition = partition
        self.caught_up = False  # has been at the end of the log once
        self._open_log, self._decoder, self._group, self._topics = open_log, decoder, group, topics
        self._state, self._windows, self._reader = state, windows, ScoreReader()
        self._log: Log | None = None
        self._scores_position = self._events_position = -1  # unknown before the first step
        self._published_to = 0  # all scores of events before this position have been read
        self._at_end = False  # of the scores, when they were last read

    @property
    def unreadable(self) -> int:
        return self._reader.unreadable

    def step(self) -> bool:
        """Read once, labels before scores, so that few scores wait; return whether there was anything to read.

        Whatever fails has changed nothing: the next step reads the same.
        """
        log = self._opened()
        if self._events_position < self._published_to:
            self._read_labels(log)
            return True
        return self._read_scores(log)

    def let_go(self) -> None:
        """Close the log; may be called twice."""
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _opened(self) -> Log:
        if self._log is None:
            self._log = self._open_log()
        if self._events_position < 0:
            self._scores_position = self._log.begin(self._topics.scores)
            self._events_position = self._log.begin(self._topics.events)
            self._published_to = self._events_position
        return self._log

    def _read_scores(self, log: Log) -> bool:
        self.caught_up |= self._at_end
        topics = self._topics
        committed = log.committed(self._group, topics.events).position  # first: its scores are then before `end`
        end = log.end(topics.scores)
        records, self._scores_position, _ = read_before(log, topics.scores, self._scores_position, end)
        # Scores come in order: one from before what has been published is published for the second time.
        scores = [score for score in self._reader.read(records) if score.position >= self._published_to]
        self._windows.add_scores(scores)
        for score in scores:
            self._state.add_score(score, self.partition)
        self._at_end = self._scores_position == end
        # A broker ends a transaction topic by topic: where one is open still, its scores may come after `committed`.
        all_of_them = self._at_end and log.written(topics.scores) == end
        reached = committed if all_of_them else scores[-1].position if scores else 0
        self._published_to = max(self._published_to, min(reached, committed))
        return bool(records) or self._events_position < self._published_to

    def _read_labels(self, log: Log) -> None:
        records, self._events_position, _ = read_before(
            log, self._topics.events, self._events_position, self._published_to
        )
        events, _ = self._decoder.decode(records)
        self._windows.add_events(events)
        for label in labels_of(events):
            self._windows.add_joined(self._state.add_label(*label, self.partition))


class Following:
    """All partitions, until it is stopped. A broker that is away is waited for; whatever else fails ends it."""

    def __init__(
        self,
        followers: Sequence[Follower],
        state: JoinState,
        windows: Windows,
        stats: QualityStats,
        say: Callable[[str], None],
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._followers, self._state, self._windows, self._stats = followers, state, windows, stats
        self._say, self._monotonic = say, monotonic
        self._retry_at: dict[int, float] = {}  # partitions whose broker is away
        self._beat = self._note_due = monotonic()  # when the loop last came round, when the figures are next due

    @property
    def caught_up(self) -> bool:
        """Has every partition been read to its end once? Before that the windows show the past."""
        return all(follower.caught_up for follower in self._followers)

    def comes_round(self) -> bool:
        """Does the loop make progress? It does while a broker is away, for then a restart would not help."""
        return self._monotonic() - self._beat < STALLED_SECONDS

    def run(self, stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> None:
        """Follow until `stop` is set; then the stats say what was found last."""
        while not stop.is_set():
            found = False
            for follower in self._followers:
                if not stop.is_set():
                    found |= self._step(follower)
            if not found:
                stop.wait(poll_seconds)
        self.note()

    def note(self) -> None:
        """Work the figures out and set them down."""
        stats = self._stats
        self._windows.note(stats)
        stats.pending, stats.dropped = self._state.pending, self._state.dropped
        stats.unreadable = sum(follower.unreadable for follower in self._followers)

    def report(self) -> dict[str, Any]:
        counts = {name: getattr(self._stats, name) for name in ("pending", "dropped", "unreadable")}
        threshold = for_json({"threshold": self._stats.threshold})
        return {"labelled": self._stats.joined, **counts, **threshold, **self._windows.report()}

    def close(self) -> None:
        for follower in self._followers:
            follower.let_go()

    def _step(self, follower: Follower) -> bool:
        self._beat = now = self._monotonic()
        if now >= self._note_due:
            self.note()
            self._note_due = now + NOTE_SECONDS
        partition = follower.partition
        if now < self._retry_at.get(partition, 0.0):
            return False
        try:
            found = follower.step()
        except LogError as error:
            if not error.retriable:
                raise
            if partition not in self._retry_at:
                self._say(f"partition {partition}: {error}; it is tried again, from where it stands")
            follower.let_go()  # a client that once got no answer may wait for it for ever
            self._retry_at[partition] = self._monotonic() + RETRY_SECONDS
            return False
        if self._retry_at.pop(partition, None) is not None:
            self._say(f"partition {partition} is read again")
        return found
