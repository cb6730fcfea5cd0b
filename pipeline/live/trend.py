"""How a scorer did over the last hour, from looks at its counts every few seconds; the scoring loop takes no part.

    points     (P,)  one a look, the last P = POINTS: what happened since the look before
    minutes    (60,) scores and spam by the minute of the clock, the last hour
    latencies  (L,)  the latencies counted up to each of the last L = a minute's looks

One thread looks, others read: each field is a tuple that is replaced, never changed. Memory: L histograms of 6 KB, and
some 30 KB.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.histogram import Histogram, LatencyHistogram
from pipeline.stats import GroupStats, ServiceStats

LOOK_SECONDS = 5.0
POINTS = 120  # ten minutes
MINUTES = 60
LATENCIES = 13  # whose ends are a minute apart

Percentiles = tuple[float, float, float]  # p50, p95, p99 in seconds; nan where nothing was scored


class Point(NamedTuple):
    at: float  # seconds since the epoch
    events_per_s: float
    scores_per_s: float
    latency: Percentiles


class Minute(NamedTuple):
    minute: int  # since the epoch
    scores: int
    spam: int


class Trend:
    """Call `look` now and then; it never reads a clock."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.points: tuple[Point, ...] = ()
        self.minutes: tuple[Minute, ...] = ()
        self._latencies: tuple[Histogram, ...] = (LatencyHistogram(),)
        self._last_at, self._events, self._scores, self._spam = began, 0, 0, 0

    def look(self, counts: ServiceStats, now: float) -> None:
        """Note what was counted since the last look, if any time has passed."""
        seconds = now - self._last_at
        if seconds <= 0:  # the clock was set back
            self._last_at = now
            return
        events = sum(counts.events.values())
        scores, spam = counts.scores - self._scores, counts.spam - self._spam
        latency = percentiles(counts.score_latency.since(self._latencies[-1]))
        point = Point(now, (events - self._events) / seconds, scores / seconds, latency)
        self.points = (*self.points, point)[-POINTS:]
        self._latencies = (*self._latencies, counts.score_latency)[-LATENCIES:]
        self._count_minute(int(now // 60), scores, spam)
        self._last_at, self._events, self._scores, self._spam = now, events, counts.scores, counts.spam

    def _count_minute(self, minute: int, scores: int, spam: int) -> None:
        last = self.minutes[-1] if self.minutes else None
        if last is not None and last.minute == minute:
            self.minutes = (*self.minutes[:-1], Minute(minute, last.scores + scores, last.spam + spam))
        else:
            self.minutes = (*self.minutes, Minute(minute, scores, spam))[-MINUTES:]

    def latency(self) -> Percentiles:
        """Return the percentiles of the last minute."""
        return percentiles(self._latencies[-1].since(self._latencies[0]))


def percentiles(histogram: Histogram) -> Percentiles:
    return histogram.percentile(50), histogram.percentile(95), histogram.percentile(99)


@contextmanager
def watched(stats: GroupStats) -> Iterator[Trend]:
    """A trend of `stats` that a thread of its own keeps up."""
    trend, stop = Trend(time.time()), threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_SECONDS):
            trend.look(stats.counts(), time.time())

    threading.Thread(target=watch, name="trend", daemon=True).start()
    try:
        yield trend
    finally:
        stop.set()
