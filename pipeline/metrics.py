"""Every Prometheus metric, and the port they are read from; the only module that knows prometheus_client.

    GroupStats ----ScorerCollector---+
                                     +--> registry --> MetricsServer   /metrics  /healthz  /readyz
    QualityStats --QualityCollector--+

The core counts in plain numbers (`stats`); a collector turns them into metrics when it is scraped, so a metric costs
nothing between two scrapes. No label holds an id of a node or anything else that a stream could make endless.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pipeline.endpoint import Answer, Endpoint, Page, text_answer
from pipeline.histogram import LATENCY_BUCKETS, SCORE_BUCKETS, SIZE_BUCKETS, Histogram
from pipeline.memory_limit import memory_limit_bytes
from pipeline.shard_gauges import BY_PARTITION, MEMORY, SUMS
from pipeline.stats import SHARD_STATES, GroupStats, QualityStats, ServiceStats


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry of its own with `collectors` and the process's memory, CPU time, files and garbage collections.

    Two metrics of one name are refused.
    """
    registry = CollectorRegistry(auto_describe=True)
    registry.register(MemoryLimitCollector())
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


class MemoryLimitCollector(Collector):
    """What `process_resident_memory_bytes` is to be compared with."""

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "graphsieve_memory_limit_bytes",
            "Memory that this process may use: its cgroup's limit, else what the machine has.",
            memory_limit_bytes(),
        )


class ScorerCollector(Collector):
    """What a scoring consumer did. `clock` returns seconds since the epoch.

    Counts and sizes are sums over the shards, so they mean the same for one shard and for many. A shard that is no
    longer at work leaves its counts, which must not fall, and its state: how far its partition has come is for the
    process to tell that has it now.
    """

    def __init__(self, stats: GroupStats, clock: Callable[[], float]) -> None:
        self._stats = stats
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        shards = sorted(self._stats.shards.items())
        at_work = {str(partition): shard for partition, shard in shards if shard.at_work}
        counts = self._stats.counts()
        yield from _counts(counts)
        yield from _latencies(counts)
        yield from self._group()
        now = self._clock()
        for name, help_text, value_of in BY_PARTITION:
            values = ((partition, value_of(shard, now)) for partition, shard in at_work.items())
            known = (((partition,), value) for partition, value in values if value is not None)
            yield _gauges(name, help_text, ("partition",), known)
        for name, help_text, size_of in SUMS:
            yield _gauge(name, help_text, sum(map(size_of, at_work.values())))
        yield _gauges(
            "graphsieve_memory_bytes",
            "Memory of the state: rows, lists (sums and members), hidden (the hidden-feature cache), ids.",
            ("part",),
            (((part,), sum(map(size_of, at_work.values()))) for part, size_of in MEMORY.items()),
        )

    def _group(self) -> Iterator[Metric]:
        stats = self._stats
        states = [(str(partition), shard.state) for partition, shard in sorted(stats.shards.items())]
        yield _gauges(
            "graphsieve_shard_state",
            "1 for the state that a partition's shard is in here, 0 for the others: restoring (replays up to the "
            "committed position), live (scores), released (let go of in order), lost (to another process, while this "
            "one gave no sign of life), failed (stopped by an error, to be tried again).",
            ("partition", "state"),
            (((partition, state), state == its) for partition, its in states for state in SHARD_STATES),
        )
        yield _counter(
            "graphsieve_rebalances_total",
            "Times that the group changed which partitions this process serves.",
            stats.rebalances,
        )
        yield InfoMetricFamily(
            "graphsieve_model",
            "The model that scores, and the schema it was trained with.",
            value={"version": stats.model_version, "schema": stats.schema_name},
        )


def _counts(counts: ServiceStats) -> Iterator[Metric]:
    yield _counters(
        "graphsieve_events_total",
        "Events by type and outcome: applied, duplicate (known already), unknown (about a node or edge that is not "
        "there), expired (older than the ttl), bad (set aside as a dead letter).",
        ("type", "outcome"),
        counts.events.items(),
    )
    yield _counters(
        "graphsieve_dead_letters_total",
        "Bad events in the dead-letter topic by reason; each is there with its bytes and position.",
        ("reason",),
        (((reason,), count) for reason, count in counts.dead_letters.items()),
    )
    yield _counter("graphsieve_scores_total", "Scores published.", counts.scores)
    yield _counter(
        "graphsieve_spam_scores_total",
        "Scores published as spam; their rate over that of graphsieve_scores_total is the spam share.",
        counts.spam,
    )
    yield _histogram(
        "graphsieve_score_value",
        "Published scores: how they are spread between 0 and 1.",
        SCORE_BUCKETS,
        counts.score_value,
    )
    yield _counter(
        "graphsieve_producers_replaced_total",
        "Producers given up for a new one, because the broker stalled or fenced them; what they had not written is "
        "sent again.",
        counts.producers_replaced,
    )
    yield _counter("graphsieve_snapshots_total", "Snapshots written since the start.", counts.snapshots)
    yield _counter(
        "graphsieve_snapshot_failures_total",
        "Snapshots that could not be written; the stream goes on, but the next start has more to replay.",
        counts.snapshot_failures,
    )


def _latencies(counts: ServiceStats) -> Iterator[Metric]:
    yield _histogram(
        "graphsieve_score_latency_seconds",
        "From an event being read from the log to its score being committed, per score.",
        LATENCY_BUCKETS,
        counts.score_latency,
    )
    stages = HistogramMetricFamily(
        "graphsieve_stage_seconds",
        "Time in one stage, per micro-batch: decode, A (graph and lists), B (layer 1), C (lists of hidden features), "
        "D (layer 2 and score), commit (publish the scores and the position: the commit latency).",
        labels=("stage",),
    )
    for stage, histogram in counts.stage_seconds.items():
        stages.add_metric((stage,), _buckets(LATENCY_BUCKETS, histogram), histogram.sum)
    yield stages
    yield _histogram(
        "graphsieve_micro_batch_events",
        "Events per micro-batch; its count is the number of micro-batches.",
        SIZE_BUCKETS,
        counts.micro_batch_events,
    )


# Metric -> the figure of a report that it is, and what it means.
WINDOW_FIGURES = {
    "graphsieve_quality_window_scores": ("labelled", "Labelled scores in the window, which the figures are over."),
    "graphsieve_quality_auroc": ("auroc", "Chance that a spam scores higher than what is none; 0.5 is guessing."),
    "graphsieve_quality_average_precision": (
        "ap",
        "Area under the precision-recall curve; guessing gives the spam share.",
    ),
    "graphsieve_quality_precision": ("precision", "Share of what was published as spam that is."),
    "graphsieve_quality_recall": ("recall", "Share of the spam that was published as spam."),
    "graphsieve_quality_spam_share": ("spam_share", "Share of the labelled scores that is spam."),
}


class QualityCollector(Collector):
    """How good the scores were, for those whose label has come."""

    def __init__(self, stats: QualityStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield _counter("graphsieve_quality_labelled_scores_total", "Scores that their label has judged.", stats.joined)
        yield _gauge("graphsieve_quality_pending_scores", "Scores that wait for their label.", stats.pending)
        yield _counter(
            "graphsieve_quality_dropped_scores_total",
            "Scores that stopped waiting for a label because too many did.",
            stats.dropped,
        )
        yield _counter(
            "graphsieve_quality_unreadable_scores_total",
            "Messages of the scores topic that are no score.",
            stats.unreadable,
        )
        for name, (figure, help_text) in WINDOW_FIGURES.items():
            values = (((window,), figures[figure]) for window, figures in stats.windows.items())
            yield _gauges(name, help_text, ("window",), values)
        yield _gauge("graphsieve_quality_threshold", "Score from which on the newest is spam.", stats.threshold)
        yield from self._expected()

    def _expected(self) -> Iterator[Metric]:
        """What needs a checkpoint, and is absent without one."""
        stats = self._stats
        for name, help_text, value in (
            ("graphsieve_quality_expected_auroc", "AUROC of the model on its test part.", stats.expected_auroc),
            (
                "graphsieve_quality_expected_average_precision",
                "Average precision of the model on its test part.",
                stats.expected_average_precision,
            ),
            (
                "graphsieve_score_drift_psi",
                "Population stability index of the newest scores against those that the model gave in training.",
                stats.score_drift,
            ),
        ):
            yield _gauges(name, help_text, (), [] if value is None else [((), value)])
        yield _gauges(
            "graphsieve_drift_psi",
            "Population stability index of each own channel of the newest node events against the training part; "
            "below 0.1 is little, beyond 0.25 much.",
            ("channel",),
            (((channel,), index) for channel, index in stats.drift.items()),
        )


class MetricsServer(Endpoint):
    """Serves /metrics, /healthz (is it alive?), /readyz (does it score?) and `more` on one port until it is closed."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        ready: Callable[[], bool],
        healthy: Callable[[], bool],
        note: Callable[[], str] = lambda: "",
        more: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        """`note` is a word on either probe's answer, such as that the broker is waited for; `more` are other pages."""
        pages: dict[str, Page] = {
            "/metrics": functools.partial(_exposition, registry),
            "/healthz": functools.partial(_probe, healthy, note, "healthy", "not healthy: the loop makes no progress"),
            "/readyz": functools.partial(_probe, ready, note, "ready", "not ready: restoring the state, or stopping"),
            **more,
        }
        super().__init__(pages, host, port)


def samples_of(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples of a page of metrics: by name, labels and value; ValueError if it is no such page."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def _exposition(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return Answer(HTTPStatus.OK, content_type, encode(registry))


def _probe(holds: Callable[[], bool], note: Callable[[], str], yes: str, no: str, accept: str) -> Answer:
    status, text = (HTTPStatus.OK, yes) if holds() else (HTTPStatus.SERVICE_UNAVAILABLE, no)
    return text_answer(status, f"{text}; {note()}" if note() else text)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)


def _counters(
    name: str, help_text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _gauges(name: str, help_text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, help_text: str, buckets: Sequence[float], histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, help_text, buckets=_buckets(buckets, histogram), sum_value=histogram.sum)


def _buckets(edges: Sequence[float], histogram: Histogram) -> list[tuple[str, float]]:
    names = [*map(str, edges), "+Inf"]
    return list(zip(names, histogram.cumulative(edges), strict=True))
