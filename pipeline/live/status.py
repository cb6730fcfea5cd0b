"""What the live page shows, as one document: read from the counts of a scorer, with every name made fit to be shown.

Field names tell kind and unit as everywhere; null is what cannot be told yet. The document is bounded: ten minutes of
points, an hour of minutes, NEWEST spam, GROUPS groups, and a line for each partition that this process has had.
"""

import math

from msgspec import Struct

from pipeline.columns import split_key
from pipeline.live.recent import NEWEST, Group, Recent, Spam
from pipeline.live.trend import Percentiles, Trend
from pipeline.live.visible import visible
from pipeline.memory_limit import resident_bytes
from pipeline.stats import GroupStats, ServiceStats

GROUPS = 12


class Partition(Struct):
    partition: int
    state: str  # one of stats.SHARD_STATES
    position: int | None = None  # these only where it is at work
    lag_messages: int | None = None
    event_time: float | None = None  # of its newest event
    restored: float = 0.0  # share of the replay at the start
    snapshot_age_seconds: float | None = None


class Points(Struct):
    """The trend, a column each."""

    at: list[float]  # seconds since the epoch
    events_per_s: list[float | None]
    scores_per_s: list[float | None]
    p50_seconds: list[float | None]
    p95_seconds: list[float | None]
    p99_seconds: list[float | None]


class Hour(Struct):
    minute: list[int]  # since the epoch
    scores: list[int]
    spam: list[int]


class ShownSpam(Struct):
    id: str
    score: float
    ts: float  # event time, seconds since the epoch
    partition: int
    position: int
    index: int


class ShownGroup(Struct):
    relation: str
    key: list[tuple[str, str]]  # field and value
    partition: int
    spam: int
    scored: int


class Status(Struct):
    now: float
    began: float
    healthy: bool
    ready: bool
    model: str
    schema: str
    threshold: float
    resident_bytes: int | None
    state_bytes: int  # rows, lists, hidden features, ids
    rows: int
    events: int  # since the start, as the next three
    scores: int
    spam: int
    dead_letters: int
    latency_seconds: list[float | None]  # p50, p95, p99 of the last minute
    partitions: list[Partition]
    points: Points
    hour: Hour
    newest_spam: list[ShownSpam]
    groups: list[ShownGroup]
    window_scores: int  # that the groups were counted over, at most, in each partition


def status(stats: GroupStats, trend: Trend, healthy: bool, ready: bool, now: float) -> Status:
    """Return the document as of `now`."""
    shards = sorted(stats.shards.items())
    at_work = [(partition, shard) for partition, shard in shards if shard.at_work]
    recent = [(partition, shard.recent) for partition, shard in at_work if shard.recent is not None]
    total = stats.counts()
    return Status(
        now=now, began=trend.began, healthy=healthy, ready=ready,
        model=visible(stats.model_version), schema=visible(stats.schema_name), threshold=stats.threshold,
        resident_bytes=resident_bytes(), state_bytes=sum(shard.sizes().bytes for _, shard in at_work),
        rows=sum(shard.sizes().rows for _, shard in at_work), events=sum(total.events.values()), scores=total.scores,
        spam=total.spam, dead_letters=sum(total.dead_letters.values()), latency_seconds=_known(trend.latency()),
        partitions=[_partition(partition, shard, now) for partition, shard in shards],
        points=_points(trend), hour=_hour(trend), newest_spam=_newest(recent), groups=_groups(recent),
        window_scores=max((one.window for _, one in recent), default=0),
    )  # fmt: skip


def _partition(partition: int, shard: ServiceStats, now: float) -> Partition:
    if not shard.at_work:
        return Partition(partition, shard.state)
    return Partition(
        partition,
        shard.state,
        shard.position,
        None if shard.log_end is None else max(0, shard.log_end - shard.position),
        _finite(shard.last_event_ts),
        shard.restore_progress,
        _finite(now - shard.snapshot_written_at),
    )


def _points(trend: Trend) -> Points:
    points = trend.points
    rates = ([_short(getattr(point, name)) for point in points] for name in ("events_per_s", "scores_per_s"))
    latencies = ([_short(point.latency[p]) for point in points] for p in range(3))
    return Points([round(point.at, 1) for point in points], *rates, *latencies)


def _hour(trend: Trend) -> Hour:
    minutes = trend.minutes
    return Hour([m.minute for m in minutes], [m.scores for m in minutes], [m.spam for m in minutes])


def _newest(recent: list[tuple[int, Recent]]) -> list[ShownSpam]:
    """The newest of all partitions, by event time where there are several: positions do not compare."""
    found = [(partition, spam) for partition, one in recent for spam in one.newest]
    if len(recent) > 1:
        found.sort(key=lambda where: where[1].ts, reverse=True)
    return [_spam(partition, spam) for partition, spam in found[:NEWEST]]


def _spam(partition: int, spam: Spam) -> ShownSpam:
    return ShownSpam(visible(spam.id), round(spam.score, 6), spam.ts, partition, spam.position, spam.index)


def _groups(recent: list[tuple[int, Recent]]) -> list[ShownGroup]:
    found = [(partition, group) for partition, one in recent for group in one.groups(GROUPS)]
    found.sort(key=lambda where: where[1].weight, reverse=True)
    return [_group(partition, group) for partition, group in found[:GROUPS]]


def _group(partition: int, group: Group) -> ShownGroup:
    values = split_key(group.key, len(group.fields))
    key = [(visible(field), visible(value)) for field, value in zip(group.fields, values, strict=False)]
    return ShownGroup(group.relation, key, partition, group.spam, group.scored)


def _known(latency: Percentiles) -> list[float | None]:
    return [_short(value) for value in latency]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float) -> float | None:
    """Four digits are more than a chart shows."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
