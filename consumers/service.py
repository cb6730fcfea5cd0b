"""What a consumer is besides its loop: signals, the metrics endpoint, and the report at the end."""

import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from consumers.follow import Follower, Following
from consumers.join import JoinState
from consumers.shards import Shards
from consumers.windows import Expected, Windows
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.events import REASONS
from pipeline.log_url import Membership, is_kafka, join_group, open_log, open_shard_log, partitions_of
from pipeline.metrics import MetricsServer, QualityCollector, ScorerCollector, new_registry
from pipeline.misfit import did_you_mean
from pipeline.model import Model
from pipeline.scorer import Scorer
from pipeline.snapshot_store import open_shard_store
from pipeline.stats import GroupStats, QualityStats

STALLED_SECONDS = 60.0  # a loop that has not come round for so long is not healthy
STOP_SECONDS = 30.0  # to finish, commit and write snapshots; what is not done then will be read again
LOOK_SECONDS = 0.02  # between two looks at shards of a log that has no group
JOIN_SECONDS = 15.0  # to be given a partition, when joining others


def serve_scores(
    model: Model,
    log_url: str,
    state: str,
    config: Config,
    until_end: bool,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Score until a signal or the log's present end; return the report.

    On Kafka as one of the group `score.group`, which shares the partitions; of any other log all there is.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        _check_topics(model, config)
        stats = GroupStats(model.version, model.schema.name, REASONS)
        warm_up(model)
        calm_collector()
        open_shard = partial(open_shard_log, log_url, config, say)
        open_store = partial(open_shard_store, state, log_url, config)
        shards = Shards(open_shard, open_store, model, config, stats, say, is_kafka(log_url), until_end, progress)
        if config.metrics.port:
            stack.callback(_metrics_server(stats, shards, config, stop).close)
        membership = join_group(log_url, config, shards)
        with ExitStack() as leaving:  # also after an error: or the others would wait for our session to end
            if membership is not None:
                leaving.callback(membership.close)
            leaving.callback(shards.stop, STOP_SECONDS)
            _stay(membership, shards, stats, stop, until_end)
        return _report(stats)


def _check_topics(model: Model, config: Config) -> None:
    """Refuse a schema with words for a topic that is not read: most likely one of the two names is misspelt."""
    read = config.topics.events.split(",")
    for topic in model.schema.topics:
        if topic not in read:
            raise ConfigError(
                f"the model's schema has [events.topics.{topic}], but topics.events is {config.topics.events!r}: "
                f"{did_you_mean(topic, read)}"
            )


def _stay(
    membership: Membership | None, shards: Shards, stats: GroupStats, stop: threading.Event, until_end: bool
) -> None:
    """Serve what is ours, be it all or what the group gives us."""
    if membership is None:
        shards.assigned([0])
    began = time.monotonic()
    while not stop.is_set():
        if membership is None:
            stop.wait(LOOK_SECONDS)
        else:
            membership.poll()
            stats.rebalances = membership.rebalances
        shards.mend()
        # A member that joins late is given nothing at first: the others have to let go before.
        if until_end and shards.finished() and (shards.served() or time.monotonic() > began + JOIN_SECONDS):
            return


def _metrics_server(stats: GroupStats, shards: Shards, config: Config, stop: threading.Event) -> MetricsServer:
    def healthy() -> bool:
        return all(time.perf_counter() - consumer.beat < STALLED_SECONDS for consumer in shards.consumers)

    def ready() -> bool:
        states = [shard.state for shard in stats.shards.values()]
        return "live" in states and "restoring" not in states and not stop.is_set()

    registry = new_registry(ScorerCollector(stats, time.time))
    return MetricsServer(registry, config.metrics.host, config.metrics.port, ready=ready, healthy=healthy)


def serve_quality(
    log_url: str,
    partition: int | None,
    decoder: Decoder,
    expected: Expected | None,
    config: Config,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Follow the scores and labels of one partition, or of all, until a signal; return the report."""
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        there = partitions_of(log_url, config)
        stats, windows = QualityStats(), Windows(config.quality, expected)
        state = JoinState(config.quality.max_pending)
        followers = [
            Follower(
                number, partial(open_log, log_url, config, create=False, partition=number),
                decoder, config.score.group, state, windows, config.topics,
            )
            for number in (there if partition is None else [partition])
        ]  # fmt: skip
        following = Following(followers, state, windows, stats, say)
        stack.callback(following.close)
        if config.metrics.port:
            server = MetricsServer(
                new_registry(QualityCollector(stats)), config.metrics.host, config.metrics.port,
                ready=lambda: following.caught_up and not stop.is_set(),
                healthy=following.comes_round,
            )  # fmt: skip
            stack.callback(server.close)
            say(f"metrics at http://{config.metrics.host}:{server.port}/metrics")
        following.run(stop)
        return following.report()


def calm_collector() -> None:
    """Let Python's collector of cycles look rarely, and never at what is there by now.

    A consumer makes thousands of small objects for each micro-batch, and hardly a cycle among them: with the usual
    threshold of 700 the collector would walk them again and again, for nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def warm_up(model: Model) -> None:
    """Load the compiled code before the first event, on a shard that is thrown away."""
    Scorer(model).score(Decoder(model.schema).decode([])[0])


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


def _report(stats: GroupStats) -> dict[str, Any]:
    """Sum up what the shards did."""
    shards, total = stats.shards, stats.counts()
    events = sum(total.events.values())
    seconds = max((shard.live_seconds for shard in shards.values()), default=0.0)
    positions = {str(partition): shard.position for partition, shard in sorted(shards.items())}
    stages = {
        stage: {"p50_us": _micros(histogram.percentile(50)), "total_s": round(histogram.sum, 4)}
        for stage, histogram in total.stage_seconds.items()
    }
    return {
        "scored": total.scores,
        "spam": total.spam,
        "events": events,
        "dead_letters": sum(total.dead_letters.values()),
        **({"position": positions["0"]} if list(positions) == ["0"] else {"positions": positions}),
        "events_per_s": round(events / seconds) if seconds > 0 else 0,
        "p50_ms": _millis(total.score_latency.percentile(50)),
        "p99_ms": _millis(total.score_latency.percentile(99)),
        "seconds": round(seconds, 3),
        "stages": stages,
        "model": stats.model_version,
    }


def _millis(value: float) -> float | None:
    return None if math.isnan(value) else round(value * 1e3, 4)


def _micros(value: float) -> float | None:
    return None if math.isnan(value) else round(value * 1e6, 2)
