"""Every Prometheus metric, and the port they are read from; the only module that knows prometheus_client.

    ServiceStats --ScorerCollector---+
                                     +--> registry --> MetricsServer   /metrics  /healthz  /readyz
    QualityStats --QualityCollector--+

The core counts in plain numbers (`stats`); a collector turns them into metrics when it is scraped, so a metric costs
nothing between two scrapes. No label holds an id of a node or anything else that a stream could make endless.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pipeline.endpoint import Answer, Endpoint, text_answer
from pipeline.histogram import LATENCY_BUCKETS, SIZE_BUCKETS, Histogram
from pipeline.stats import QualityStats, ServiceStats


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry of its own with `collectors` and the process's memory, CPU time, files and garbage collections.

    Two metrics of one name are refused.
    """
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


class ScorerCollector(Collector):
    """What a scoring consumer did. `clock` returns seconds since the epoch."""

    def __init__(self, stats: ServiceStats, clock: Callable[[], float]) -> None:
        self._stats = stats
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        yield from self._counts()
        yield from self._latencies()
        yield from self._progress()
        yield from self._sizes()
        yield from self._snapshots()

    def _counts(self) -> Iterator[Metric]:
        stats = self._stats
        yield _counters(
            "graphsieve_events_total",
            "Events by type and outcome: applied, duplicate (known already), unknown (about a node or edge that is not "
            "there), expired (older than the ttl), bad (set aside as a dead letter).",
            ("type", "outcome"),
            ((key, count) for key, count in stats.events.items()),
        )
        yield _counters(
            "graphsieve_dead_letters_total",
            "Bad events in the dead-letter topic by reason; each is there with its bytes and position.",
            ("reason",),
            (((reason,), count) for reason, count in stats.dead_letters.items()),
        )
        yield _counter("graphsieve_scores_total", "Scores published.", stats.scores)
        yield _counter(
            "graphsieve_spam_scores_total",
            "Scores published as spam; their rate over that of graphsieve_scores_total is the spam share.",
            stats.spam,
        )

    def _latencies(self) -> Iterator[Metric]:
        stats = self._stats
        yield _histogram(
            "graphsieve_score_latency_seconds",
            "From an event being read from the log to its score being committed, per score.",
            LATENCY_BUCKETS,
            stats.score_latency,
        )
        stages = HistogramMetricFamily(
            "graphsieve_stage_seconds",
            "Time in one stage, per micro-batch: decode, A (graph and lists), B (layer 1), C (lists of hidden "
            "features), D (layer 2 and score), commit (publish the scores and the position).",
            labels=("stage",),
        )
        for stage, histogram in stats.stage_seconds.items():
            stages.add_metric((stage,), _buckets(LATENCY_BUCKETS, histogram), histogram.sum)
        yield stages
        yield _histogram(
            "graphsieve_micro_batch_events",
            "Events per micro-batch; its count is the number of micro-batches.",
            SIZE_BUCKETS,
            stats.micro_batch_events,
        )

    def _progress(self) -> Iterator[Metric]:
        stats = self._stats
        yield _gauge(
            "graphsieve_event_time_lag_seconds",
            "Now less the time of the newest event: how old the world is that the scores know. NaN before the first.",
            self._clock() - stats.last_event_ts,
        )
        yield _gauge("graphsieve_log_position", "Position in the events topic: the next to read.", stats.position)
        yield _gauge("graphsieve_log_end_position", "Position that the next event gets.", stats.log_end)
        yield _gauge(
            "graphsieve_log_lag_messages",
            "Messages of the events topic not read yet; growing means that events come faster than they are scored.",
            max(0, stats.log_end - stats.position),
        )
        yield _gauge(
            "graphsieve_restore_progress_ratio",
            "How much of the replay after a start is done (from the snapshot to the committed position); 1 = scoring.",
            stats.restore_progress,
        )
        yield InfoMetricFamily(
            "graphsieve_model",
            "The model that scores, and the schema it was trained with.",
            value={"version": stats.model_version, "schema": stats.schema_name},
        )

    def _sizes(self) -> Iterator[Metric]:
        stats = self._stats
        yield _gauge("graphsieve_rows", "Nodes in the graph, placeholders too.", stats.rows)
        yield _gauge("graphsieve_row_capacity", "Nodes there is memory for; it grows as needed.", stats.row_capacity)
        yield _gauge("graphsieve_lists", "Lists: groups, and nodes with neighbours.", stats.lists)
        yield _gauge("graphsieve_list_capacity", "Lists there is memory for; it grows as needed.", stats.list_capacity)
        parts = {
            "rows": stats.rows_bytes,
            "lists": stats.lists_bytes,
            "hidden": stats.hidden_bytes,
            "ids": stats.ids_bytes,
        }
        yield _gauges(
            "graphsieve_memory_bytes",
            "Memory of the state: rows, lists (sums and members), hidden (the hidden-feature cache), ids.",
            ("part",),
            (((part,), size) for part, size in parts.items()),
        )

    def _snapshots(self) -> Iterator[Metric]:
        stats = self._stats
        yield _counter("graphsieve_snapshots_total", "Snapshots written since the start.", stats.snapshots)
        yield _counter(
            "graphsieve_snapshot_failures_total",
            "Snapshots that could not be written; the stream goes on, but the next start has more to replay.",
            stats.snapshot_failures,
        )
        age = self._clock() - stats.snapshot_written_at
        yield _gauge(
            "graphsieve_snapshot_age_seconds",
            "Since the newest snapshot was written: what a start has to replay; +Inf if there is none.",
            math.inf if math.isnan(age) else age,
        )
        yield _gauge("graphsieve_snapshot_duration_seconds", "How long the last snapshot took.", stats.snapshot_seconds)
        yield _gauge("graphsieve_snapshot_bytes", "Size of the newest snapshot.", stats.snapshot_bytes)


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
        yield _gauge("graphsieve_quality_window_scores", "Labelled scores that the figures are over.", stats.window)
        yield from self._figures()

    def _figures(self) -> Iterator[Metric]:
        stats = self._stats
        yield _gauge(
            "graphsieve_quality_auroc",
            "Chance that a spam scores higher than what is none; 0.5 is guessing.",
            stats.auroc,
        )
        yield _gauge(
            "graphsieve_quality_average_precision",
            "Area under the precision-recall curve; guessing gives the spam share.",
            stats.average_precision,
        )
        yield _gauge("graphsieve_quality_precision", "Share of what was published as spam that is.", stats.precision)
        yield _gauge("graphsieve_quality_recall", "Share of the spam that was published as spam.", stats.recall)
        yield _gauge("graphsieve_quality_threshold", "Score from which on the newest is spam.", stats.threshold)
        yield _gauge("graphsieve_quality_spam_share", "Share of the labelled scores that is spam.", stats.spam_share)


class MetricsServer(Endpoint):
    """Serves /metrics, /healthz (is it alive?) and /readyz (does it score?) on one port until it is closed."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        ready: Callable[[], bool],
        healthy: Callable[[], bool],
    ) -> None:
        pages = {
            "/metrics": functools.partial(_exposition, registry),
            "/healthz": functools.partial(_probe, healthy, "healthy", "not healthy: the loop makes no progress"),
            "/readyz": functools.partial(_probe, ready, "ready", "not ready: restoring the state, or stopping"),
        }
        super().__init__(pages, host, port)


def _exposition(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return Answer(HTTPStatus.OK, content_type, encode(registry))


def _probe(holds: Callable[[], bool], yes: str, no: str, accept: str) -> Answer:
    return text_answer(HTTPStatus.OK, yes) if holds() else text_answer(HTTPStatus.SERVICE_UNAVAILABLE, no)


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
