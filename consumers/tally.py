"""What a scoring consumer counts about its micro-batches, into the stats of its shard.

note      with the commit: events by outcome, scores, dead letters; the time of each stage
expect    once the log has finished the commit: how long it took, and how old its scores were then
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.intake import MicroBatch
from pipeline.events import BadEvent
from pipeline.log import Underway
from pipeline.schema import EVENT_TYPES
from pipeline.scorer import Scored, Scorer
from pipeline.stats import OUTCOMES, ServiceStats, Sizes


class _Commit(NamedTuple):
    """What is counted once a commit is durable."""

    underway: Underway | None
    began: float  # monotonic seconds
    reads: list[tuple[float, int]]  # likewise, of each read; how many scores are of its events


def sizes_of(scorer: Scorer) -> Sizes:
    """Return how large a shard's state is now."""
    graph, parts = scorer.graph, scorer.memory_bytes()
    rows = parts["rows"] + parts["links"] + parts["inputs"]
    counts = graph.row_count, graph.capacity.rows, graph.list_count, graph.capacity.lists
    return Sizes(*counts, rows, parts["lists"], parts["hidden"], parts["names"])


class Tally:
    """Counts for one shard. Commits are finished in the order in which they were begun."""

    def __init__(self, stats: ServiceStats) -> None:
        self._stats = stats
        self._commits: deque[_Commit] = deque()  # not known to be durable

    def note(self, batch: MicroBatch, scored: Scored, bad: Sequence[BadEvent], spam: npt.NDArray[np.bool_]) -> None:
        """Count a micro-batch whose scores are with the log; `spam` tells which of its B scores are.  # (B,)"""
        stats, events = self._stats, batch.events
        pairs = np.bincount(events.kind * np.uint8(len(OUTCOMES)) + scored.outcome).tolist()
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
        stats.score_value.observe(scored.score.astype(np.float64))

        self._time(batch, scored)

    def _time(self, batch: MicroBatch, scored: Scored) -> None:
        """Count the size of a micro-batch and the seconds of its stages, but for the commit's."""
        stages = self._stats.stage_seconds
        self._stats.micro_batch_events.observe_one(len(batch.records))
        stages["decode"].observe_one(batch.decode_seconds)
        for stage in ("A", "B", "C", "D"):
            stages[stage].observe_one(scored.stage_seconds[stage])

    def expect(
        self,
        underway: Underway | None,
        began: float,
        batch: MicroBatch,
        scored: Scored,
        monotonic: Callable[[], float],
    ) -> None:
        """Count the commit of a micro-batch once it is durable, which it is by now where nothing is under way."""
        self._commits.append(_Commit(underway, began, _reads(batch, scored)))
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
        for read_at, scores in commit.reads:
            if scores:
                self._stats.score_latency.observe_one(committed_at - read_at, scores)


def _reads(batch: MicroBatch, scored: Scored) -> list[tuple[float, int]]:
    """Return when each read was that gave the micro-batch, and how many of the scores are of its events."""
    count = len(scored.event)
    if len(batch.read_at) == 1:
        return [(batch.read_at[0], count)]
    first = np.searchsorted(batch.events.position[scored.event], batch.read_from).tolist()
    return [(at, end - start) for at, start, end in zip(batch.read_at, first, [*first[1:], count], strict=True)]
