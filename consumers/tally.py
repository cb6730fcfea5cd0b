"""What a scoring consumer counts about its micro-batches, into the stats of its shard.

note_read      when messages were read
note, time     at once: events by outcome, scores, dead letters; the time of each stage
expect         once the log has finished the commit: how long it took, and how old its scores were then
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.events import BadEvent, EventBatch
from pipeline.log import Underway
from pipeline.schema import EVENT_TYPES
from pipeline.scorer import Scored, Scorer
from pipeline.stats import OUTCOMES, ServiceStats, Sizes


class _Commit(NamedTuple):
    """What is counted once a commit is durable."""

    underway: Underway | None
    began: float  # monotonic seconds
    read_at: npt.NDArray[np.float64]  # likewise, of each score's message


def sizes_of(scorer: Scorer) -> Sizes:
    """Return how large a shard's state is now."""
    graph, parts = scorer.graph, scorer.memory_bytes()
    rows = parts["rows"] + parts["links"] + parts["inputs"]
    counts = graph.row_count, graph.row_capacity, graph.list_count, graph.list_capacity
    return Sizes(*counts, rows, parts["lists"], parts["hidden"], parts["names"])


class Tally:
    """Counts for one shard. Commits are finished in the order in which they were begun."""

    def __init__(self, stats: ServiceStats, scorer: Scorer) -> None:
        self._stats, self._scorer = stats, scorer
        self._commits: deque[_Commit] = deque()  # not known to be durable
        # Of the micro-batch that gathers: the first position of each read, and monotonic seconds.
        self._read_from: list[int] = []
        self._read_at: list[float] = []

    def note_read(self, position: int, now: float) -> None:
        """Note when the messages from `position` on were read, which the next micro-batch holds."""
        self._read_from.append(position)
        self._read_at.append(now)

    def note(self, events: EventBatch, scored: Scored, bad: Sequence[BadEvent], spam: npt.NDArray[np.bool_]) -> None:
        """Count a micro-batch that was scored; `spam` tells which of its B scores are.  # (B,)"""
        stats = self._stats
        pairs = np.bincount(events.kind.astype(np.int64) * len(OUTCOMES) + scored.outcome).tolist()
        for pair, count in enumerate(pairs):
            if count:
                kind, outcome = divmod(pair, len(OUTCOMES))
                stats.count_events(EVENT_TYPES[kind], OUTCOMES[outcome], count)
        undecoded = sum(event.reason != "expired" for event in bad)
        stats.count_events("other", "bad", undecoded)
        for event in bad:
            stats.count_dead_letters(event.reason)
        stats.scores += len(scored.score)
        stats.spam += int(np.count_nonzero(spam))
        stats.last_event_ts = self._scorer.graph.watermark
        stats.score_value.observe(scored.score.astype(np.float64))
        if stats.recent is not None:
            stats.recent.note(events, scored, spam)

    def time(self, messages: int, decode: float, scored: Scored) -> None:
        """Count the size of a micro-batch and the seconds of its stages, but for the commit's."""
        stages = self._stats.stage_seconds
        self._stats.micro_batch_events.observe_one(messages)
        stages["decode"].observe_one(decode)
        for stage in ("A", "B", "C", "D"):
            stages[stage].observe_one(scored.stage_seconds[stage])

    def expect(
        self,
        underway: Underway | None,
        began: float,
        scored_positions: npt.NDArray[np.int64],
        monotonic: Callable[[], float],
    ) -> None:
        """Count the commit of a micro-batch once it is durable, which it is by now where nothing is under way."""
        reads = np.searchsorted(self._read_from, scored_positions, side="right") - 1
        read_at = np.array(self._read_at)[reads]
        self._read_from, self._read_at = [], []
        self._commits.append(_Commit(underway, began, read_at))
        if underway is None:
            self._count_commit(monotonic())

    def take_finished(self) -> None:
        """Count the commits that the log has finished meanwhile."""
        while self._commits:
            underway = self._commits[0].underway
            if underway is None or underway.committed_at is None:
                return
            self._count_commit(underway.committed_at)

    def _count_commit(self, committed_at: float) -> None:
        """Count the oldest commit."""
        commit = self._commits.popleft()
        self._stats.stage_seconds["commit"].observe_one(committed_at - commit.began)
        self._stats.score_latency.observe(committed_at - commit.read_at)
