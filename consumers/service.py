"""What a consumer is besides its loop: signals, the metrics endpoint, and the report at the end."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from consumers.quality import Follower, LabelsOf
from consumers.score import ScoreConsumer
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.evaluate import for_json
from pipeline.events import REASONS
from pipeline.log import Log
from pipeline.log_url import open_log
from pipeline.metrics import MetricsServer, QualityCollector, ScorerCollector, new_registry
from pipeline.model import Model
from pipeline.scorer import Scorer
from pipeline.snapshot import SnapshotStore
from pipeline.stats import QualityStats, ServiceStats

STALLED_SECONDS = 60.0  # a loop that has not come round for so long is not healthy


def serve_scores(
    model: Model,
    log_url: str,
    state: Path,
    config: Config,
    until_end: bool,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Recover, then score until a signal or the log's present end; return the report."""
    with ExitStack() as stack:
        log = _opened(stack, log_url)
        store = SnapshotStore(state, config.score.snapshots_kept)
        store.open()
        stack.callback(store.close)
        stats = ServiceStats(reasons=REASONS, model_version=model.version, schema_name=model.schema.name)
        consumer = ScoreConsumer(log, store, model, config, stats, say)
        stop = stack.enter_context(_stopped_by_signals())
        if config.metrics.port:
            registry = new_registry(ScorerCollector(stats, time.time))
            server = MetricsServer(
                registry, config.metrics.host, config.metrics.port,
                ready=lambda: stats.restore_progress == 1.0 and not stop.is_set(),
                healthy=lambda: time.perf_counter() - consumer.beat < STALLED_SECONDS,
            )  # fmt: skip
            stack.callback(server.close)
        warm_up(model)
        consumer.recover(stop, progress)
        began = time.perf_counter()
        consumer.run(stop, log.end(config.topics.events) if until_end else None)
        return _report(consumer, time.perf_counter() - began)


def serve_quality(log_url: str, labels_of: LabelsOf, config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Follow a log's scores and labels until a signal; return the last figures."""
    with ExitStack() as stack:
        log = _opened(stack, log_url)
        stats = QualityStats()
        stop = stack.enter_context(_stopped_by_signals())
        if config.metrics.port:
            server = MetricsServer(
                new_registry(QualityCollector(stats)), config.metrics.host, config.metrics.port,
                ready=lambda: not stop.is_set(), healthy=lambda: True,
            )  # fmt: skip
            stack.callback(server.close)
            say(f"metrics at http://{config.metrics.host}:{server.port}/metrics")
        Follower(
            log, labels_of, config.score.group, stats,
            window=config.quality.window, max_pending=config.quality.max_pending,
        ).run(stop)  # fmt: skip
        figures = ("auroc", "average_precision", "precision", "recall", "spam_share", "threshold")
        return {"labelled": stats.joined, **for_json({name: getattr(stats, name) for name in figures})}


def warm_up(model: Model) -> None:
    """Load the compiled code before the first event, on a shard that is thrown away."""
    Scorer(model).score(Decoder(model.schema).decode([])[0])


def _opened(stack: ExitStack, url: str) -> Log:
    log = open_log(url, create=False)
    stack.callback(log.close)
    return log


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set: the loop then finishes its batch."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(consumer: ScoreConsumer, seconds: float) -> dict[str, Any]:
    stats = consumer.stats
    events = sum(stats.events.values())
    stages = {
        stage: {"p50_us": _micros(histogram.percentile(50)), "total_s": round(histogram.sum, 4)}
        for stage, histogram in stats.stage_seconds.items()
    }
    return {
        "scored": stats.scores,
        "spam": stats.spam,
        "events": events,
        "dead_letters": sum(stats.dead_letters.values()),
        "position": consumer.position,
        "events_per_s": round(events / seconds) if seconds > 0 else 0,
        "p50_ms": _millis(stats.score_latency.percentile(50)),
        "p99_ms": _millis(stats.score_latency.percentile(99)),
        "seconds": round(seconds, 3),
        "stages": stages,
        "model": stats.model_version,
    }


def _millis(value: float) -> float | None:
    return None if math.isnan(value) else round(value * 1e3, 4)


def _micros(value: float) -> float | None:
    return None if math.isnan(value) else round(value * 1e6, 2)
