"""A consumer seen from outside: two readings of its /metrics, and what happened between them.

Reading   one page of metrics, or why there is none
Seen      what `graphsieve top` shows of a consumer; None where it is not known
"""

import math
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.metrics import samples_of
from pipeline.stats import STAGES

MOST_BYTES = 16 * 2**20  # of a page; ours has some ten thousand
QUANTILES = (50, 95, 99)

Labels = Mapping[str, str]
Buckets = Mapping[float, float]  # upper edge -> how many values are at or below it

# Never through a proxy: consumers are near, and localhost is what it says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Reading:
    url: str
    at: float  # monotonic seconds
    samples: Mapping[str, Sequence[tuple[Labels, float]]] = field(default_factory=dict)
    error: str = ""

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric's samples that have these labels; None if there are none."""
        values = [value for has, value in self.samples.get(name, ()) if labels.items() <= has.items()]
        return sum(values) if values else None

    def by(self, name: str, label: str) -> dict[str, float]:
        return {has[label]: value for has, value in self.samples.get(name, ()) if label in has}

    def buckets(self, name: str) -> Buckets:
        return {float(edge): count for edge, count in self.by(f"{name}_bucket", "le").items()}


@dataclass(frozen=True)
class Partition:
    partition: str
    state: str
    lag: float | None
    per_second: float | None  # messages scored
    event_time_lag: float | None  # seconds
    snapshot_age: float | None  # seconds
    restored: float | None  # share of the replay


@dataclass(frozen=True)
class Seen:
    url: str
    error: str = ""  # why it is away; then nothing below is known
    model: str = ""
    schema: str = ""
    scores_per_second: float | None = None
    events_per_second: float | None = None
    spam_share: float | None = None
    dead_letters_per_second: float | None = None
    micro_batch_events: float | None = None
    latency_seconds: Mapping[str, float | None] = field(default_factory=dict)  # "p50" ...
    stage_seconds: Mapping[str, float | None] = field(default_factory=dict)  # mean of a micro-batch
    resident_bytes: float | None = None
    limit_bytes: float | None = None
    state_bytes: float | None = None
    rows: float | None = None
    lists: float | None = None
    rebalances: float | None = None
    in_flight: float | None = None
    producers_replaced: float | None = None
    snapshots: float | None = None
    snapshot_failures: float | None = None
    partitions: Sequence[Partition] = ()


def metrics_url(text: str) -> str:
    """Return the base of a consumer's pages; ConfigError if it cannot be one."""
    url = (text if "://" in text else f"http://{text}").rstrip("/").removesuffix("/metrics")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{text!r} is no address of metrics: expected http://HOST:PORT")
    return url


def fetch(url: str, timeout_seconds: float) -> bytes:
    """Return a page; OSError where there is none in time, however busily it trickles."""
    deadline, page = time.monotonic() + timeout_seconds, b""
    with _OPENER.open(url, timeout=timeout_seconds) as answer:
        while piece := answer.read1():
            page += piece
            if time.monotonic() > deadline or len(page) > MOST_BYTES:
                raise TimeoutError("timed out")
    return page


def read(url: str, timeout_seconds: float) -> Reading:
    """Read the metrics of a consumer; one that is away is told by `error`."""
    try:
        samples = samples_of(fetch(f"{url}/metrics", timeout_seconds).decode())
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Reading(url, time.monotonic(), error=str(getattr(reason, "strerror", None) or reason))
    except ValueError:
        return Reading(url, time.monotonic(), error="what answers there are no metrics")
    strange = "" if "graphsieve_scores_total" in samples else "what answers there is no scoring consumer"
    return Reading(url, time.monotonic(), samples, strange)


def seen(before: Reading | None, now: Reading) -> Seen:
    """Return what is to be shown of a consumer, rates and latencies from `before` on."""
    if now.error:
        return Seen(now.url, now.error)
    since = _Since(before if before is not None and not before.error else None, now)
    scores, spam = since.grown("graphsieve_scores_total"), since.grown("graphsieve_spam_scores_total")
    about = next((labels for labels, _ in now.samples.get("graphsieve_model_info", ())), {})
    latency = "graphsieve_score_latency_seconds"
    return Seen(
        now.url,
        model=about.get("version", ""),
        schema=about.get("schema", ""),
        scores_per_second=since.rate("graphsieve_scores_total"),
        events_per_second=since.rate("graphsieve_events_total"),
        spam_share=_ratio(spam, scores),
        dead_letters_per_second=since.rate("graphsieve_dead_letters_total"),
        micro_batch_events=_ratio(
            since.grown("graphsieve_micro_batch_events_sum"), since.grown("graphsieve_micro_batch_events_count")
        ),
        latency_seconds={f"p{q}": quantile(since.grown_buckets(latency), q / 100) for q in QUANTILES},
        stage_seconds={stage: since.mean("graphsieve_stage_seconds", stage=stage) for stage in STAGES},
        resident_bytes=now.total("process_resident_memory_bytes"),
        limit_bytes=now.total("graphsieve_memory_limit_bytes"),
        state_bytes=now.total("graphsieve_memory_bytes"),
        rows=now.total("graphsieve_rows"),
        lists=now.total("graphsieve_lists"),
        rebalances=now.total("graphsieve_rebalances_total"),
        in_flight=now.total("graphsieve_in_flight_messages"),
        producers_replaced=now.total("graphsieve_producers_replaced_total"),
        snapshots=now.total("graphsieve_snapshots_total"),
        snapshot_failures=now.total("graphsieve_snapshot_failures_total"),
        partitions=_partitions(since),
    )


def quantile(buckets: Buckets, q: float) -> float | None:
    """Return what a share `q` of the values does not exceed, as Prometheus estimates it: evenly within a bucket."""
    edges = sorted(buckets)
    count = buckets[edges[-1]] if edges else 0.0
    if count <= 0:
        return None
    below, start = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= q * count:
            if math.isinf(edge):
                return start
            share = (q * count - below) / (buckets[edge] - below) if buckets[edge] > below else 1.0
            return start + (edge - start) * share
        below, start = buckets[edge], edge
    return start


class _Since:
    """What happened between two readings; a process that was started anew meanwhile began at 0."""

    def __init__(self, before: Reading | None, now: Reading) -> None:
        self.before, self.now = before, now
        self.seconds = now.at - before.at if before is not None else 0.0

    def grown(self, name: str, **labels: str) -> float | None:
        if self.before is None or (value := self.now.total(name, **labels)) is None:
            return None
        earlier = self.before.total(name, **labels) or 0.0
        return value - earlier if value >= earlier else value

    def rate(self, name: str, **labels: str) -> float | None:
        grown = self.grown(name, **labels)
        return None if grown is None or self.seconds <= 0 else grown / self.seconds

    def mean(self, name: str, **labels: str) -> float | None:
        return _ratio(self.grown(f"{name}_sum", **labels), self.grown(f"{name}_count", **labels))

    def grown_buckets(self, name: str) -> Buckets:
        if self.before is None:
            return {}
        now, before = self.now.buckets(name), self.before.buckets(name)
        grown = {edge: count - before.get(edge, 0.0) for edge, count in now.items()}
        return grown if min(grown.values(), default=0.0) >= 0 else now


def _partitions(since: _Since) -> list[Partition]:
    now = since.now
    states = {has["partition"]: has["state"] for has, is_it in now.samples.get("graphsieve_shard_state", ()) if is_it}
    lags = now.by("graphsieve_log_lag_messages", "partition")
    ages = now.by("graphsieve_snapshot_age_seconds", "partition")
    behind = now.by("graphsieve_event_time_lag_seconds", "partition")
    restored = now.by("graphsieve_restore_progress_ratio", "partition")
    return [
        Partition(
            partition, states[partition], lags.get(partition),
            since.rate("graphsieve_log_position", partition=partition) if partition in lags else None,
            behind.get(partition), ages.get(partition), restored.get(partition),
        )
        for partition in sorted(states, key=lambda name: (len(name), name))
    ]  # fmt: skip


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
