"""What a consumer is besides its loop: signals, the metrics endpoint, and the report at the end."""

import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, get_args

from consumers.announce import start_line
from consumers.follow import Follower, Following
from consumers.join import JoinState
from consumers.probes import Probes
from consumers.shards import Shards
from consumers.stopping import bounded, stopped_by_signals
from consumers.windows import Expected, Windows
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.device import on_device
from pipeline.events import REASONS, plain_nodes
from pipeline.live.page import live_page
from pipeline.live.status import Status, status
from pipeline.live.trend import Trend, watched
from pipeline.log_url import Membership, is_kafka, join_group, open_log, open_shard_log, partitions_of
from pipeline.logs import line, prefaced
from pipeline.messages import Form, ScoreWriter
from pipeline.metrics import MetricsServer, QualityCollector, ScorerCollector, new_registry
from pipeline.model import Model
from pipeline.schema_fit import check_topics
from pipeline.scorer import Scorer
from pipeline.snapshot_store import open_shard_store
from pipeline.stats import GroupStats, QualityStats

SHARDS_SHARE = 0.8  # of the time to stop, for batches, commits and snapshots; what is not done then is read again
LOOK_SECONDS = 0.02  # between two looks at shards of a log that has no group
SWITCH_SECONDS = 0.00005  # that one thread may keep another waiting for Python
WARM_NODES = 1500  # more than there is room for at first
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
        stop = stack.enter_context(stopped_by_signals())
        model = on_device(model, config.score.device)
        say = prefaced(say, start_line(model, log_url, state, config))
        stack.enter_context(bounded(stop, config.score.stop_seconds, say))
        check_topics(model.schema, config.topics.events)
        stats = GroupStats(model.version, model.schema.name, REASONS, model.threshold)
        warm_up(model)
        tune_python()
        open_shard = partial(open_shard_log, log_url, config, say)
        open_store = partial(open_shard_store, state, log_url, config)
        shards = Shards(open_shard, open_store, model, config, stats, say, is_kafka(log_url), until_end, progress)
        if config.metrics.port:
            trend = stack.enter_context(watched(stats))
            stack.callback(_metrics_server(stats, shards, config, stop, trend).close)
        membership = join_group(log_url, config, shards)
        with ExitStack() as leaving:  # also after an error: or the others would wait for our session to end
            leaving.callback(_let_go, shards, membership, config.score.stop_seconds)
            _stay(membership, shards, stats, stop, until_end)
            if stop.is_set():
                say(line(f"stopping: the last batches, commits and snapshots have {config.score.stop}"))
        return _report(stats)


def _let_go(shards: Shards, membership: Membership | None, seconds: float) -> None:
    """Finish within `seconds`: most of them are for the shards, what is left for telling the group."""
    deadline = time.monotonic() + seconds
    try:
        shards.stop(seconds * SHARDS_SHARE)
    finally:
        if membership is not None:
            membership.close(deadline - time.monotonic())


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


def _metrics_server(
    stats: GroupStats, shards: Shards, config: Config, stop: threading.Event, trend: Trend
) -> MetricsServer:
    probes = Probes(shards, stats, stop, config.kafka.stall_seconds)

    def shown() -> Status:
        return status(stats, trend, probes.healthy(), probes.ready(), time.time())

    return MetricsServer(
        new_registry(ScorerCollector(stats, time.time)), config.metrics.host, config.metrics.port,
        probes.ready, probes.healthy, probes.note, live_page(shown) if config.metrics.page else {},
    )  # fmt: skip


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
        stop = stack.enter_context(stopped_by_signals())
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


def tune_python() -> None:
    """Have Python's collector of cycles look rarely, and never at what is there by now; let threads change quickly.

    A consumer makes thousands of small objects for each micro-batch, and hardly a cycle among them: with the usual
    threshold of 700 the collector would walk them again and again, for nothing. And whoever scores comes back from
    compiled code ten times in a micro-batch, and would wait each time until a thread that decodes has had its 5 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(SWITCH_SECONDS)


def warm_up(model: Model) -> None:
    """Load the compiled code before the first event, that of a single one and of many; the shard is thrown away."""
    Decoder(model.schema).decode([])
    scorer, nodes = Scorer(model), plain_nodes(model.schema, WARM_NODES)
    for events in (nodes.part(0, 1), nodes.part(1, WARM_NODES)):
        scored = scorer.score(events)
        for form in get_args(Form):
            ScoreWriter(model.version, "", model.threshold, form).write(events, scored, 0.0)


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
