"""The gauges of a scoring consumer: what they are called and mean, and how each is read from a shard at work.

BY_PARTITION   how far a shard has come: a sample for each partition
SUMS           what the shards weigh: one sample for all of them
MEMORY         the same for the parts of the memory
"""

import math
from collections.abc import Callable

from pipeline.stats import ServiceStats

ValueAt = Callable[[ServiceStats, float], float | None]  # the second is now; None as long as it is not known
SizeOf = Callable[[ServiceStats], int]


def _position(shard: ServiceStats, now: float) -> float | None:
    return None if shard.log_end is None else shard.position


def _log_lag(shard: ServiceStats, now: float) -> float | None:
    return None if shard.log_end is None else max(0, shard.log_end - shard.position)


def _snapshot_age(shard: ServiceStats, now: float) -> float:
    return math.inf if math.isnan(shard.snapshot_written_at) else now - shard.snapshot_written_at


BY_PARTITION: tuple[tuple[str, str, ValueAt], ...] = (
    (
        "graphsieve_log_position",
        "Position in the events topic up to which all is scored.",
        _position,
    ),
    (
        "graphsieve_log_end_position",
        "Position that the next event gets; in Kafka, the high watermark.",
        lambda shard, now: shard.log_end,
    ),
    (
        "graphsieve_log_lag_messages",
        "Messages of the events topic not scored yet; growing means that events come faster than they are scored.",
        _log_lag,
    ),
    (
        "graphsieve_event_time_lag_seconds",
        "Now less the time of the newest event: how old the world is that the scores know. NaN before the first.",
        lambda shard, now: now - shard.last_event_ts,
    ),
    (
        "graphsieve_restore_progress_ratio",
        "How much of the replay after a start is done (from the snapshot to the committed position); 1 = scoring.",
        lambda shard, now: shard.restore_progress,
    ),
    (
        "graphsieve_snapshot_age_seconds",
        "Since the newest snapshot was written: what a start has to replay; +Inf if there is none.",
        _snapshot_age,
    ),
    (
        "graphsieve_snapshot_duration_seconds",
        "How long the last snapshot took. NaN before the first.",
        lambda shard, now: shard.snapshot_seconds,
    ),
)

SUMS: tuple[tuple[str, str, SizeOf], ...] = (
    (
        "graphsieve_in_flight_messages",
        "Messages sent to the log and not acknowledged; not 0 for long means that the broker is slow or away.",
        lambda shard: shard.in_flight,
    ),
    ("graphsieve_rows", "Nodes in the graph, placeholders too.", lambda shard: shard.sizes().rows),
    (
        "graphsieve_row_capacity",
        "Nodes there is memory for; it grows as needed.",
        lambda shard: shard.sizes().row_capacity,
    ),
    ("graphsieve_lists", "Lists: groups, and nodes with neighbours.", lambda shard: shard.sizes().lists),
    (
        "graphsieve_list_capacity",
        "Lists there is memory for; it grows as needed.",
        lambda shard: shard.sizes().list_capacity,
    ),
    (
        "graphsieve_snapshot_bytes",
        "Size of the newest snapshots, one for each shard.",
        lambda shard: shard.snapshot_bytes,
    ),
)

MEMORY: dict[str, SizeOf] = {
    "rows": lambda shard: shard.sizes().rows_bytes,
    "lists": lambda shard: shard.sizes().lists_bytes,
    "hidden": lambda shard: shard.sizes().hidden_bytes,
    "ids": lambda shard: shard.sizes().ids_bytes,
}
