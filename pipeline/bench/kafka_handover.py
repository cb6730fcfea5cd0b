"""`graphsieve bench kafka_handover`: how long a large shard is silent when another consumer takes it over.

    before    one consumer serves three partitions; the first holds a graph of a million nodes
    joins     a second consumer takes some over; each partition gets a steady trickle of events all the time
    leaves    who serves the large shard now is stopped: it commits, writes its snapshot and lets go, and the other one
              takes up the snapshot and goes on

A partition's silence is the longest time between two of its scores, as seen on the topic of scores, from the stop on.
What a moved shard is silent for, its own snapshot is most of. Peers: the partitions that do not move meanwhile, and all
of them before the stop. Figures are medians over the repeats, each with topics and consumers of its own.
"""

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from pipeline.bench.kafka_brokers import brokers, called
from pipeline.bench.kafka_process import Scorer, scorer
from pipeline.bench.models import some_model, synthetic_schema
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.overview import assignments
from pipeline.kafka_log.topics import create_topic
from pipeline.log import JSON, PACKED, Message, Record, read_to_end
from pipeline.page import Table
from pipeline.schema import Schema
from producers.replay import packed
from producers.synthetic import synthetic_events

NODES = 1_000_000
PARTITIONS = 3
LARGE = 0
WIDTH = 4  # hidden channels a branch: as many as stay of 16 in a model that is pruned by four
PACK, APPEND = 500, 50  # events a message, messages at once
EVERY_SECONDS, AT_ONCE = 0.05, 5  # the trickle, for each partition
CALM_SECONDS = 10.0  # watched before and after
WAIT_SECONDS = 600.0

MOVED, STAYED, BEFORE = "the partition that moves", "those that stay", "any, before"


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    runs = []
    for _ in range(args.repeats):
        with brokers(args) as (servers, config):
            runs.append(_measure(servers, _own(config), args.config, args.events or NODES))
    silences = {name: [run[name] for run in runs] for name in (MOVED, STAYED, BEFORE)}
    figures: dict[str, dict[str, Any]] = {
        name: {"silence_s": median(seconds), "silence_s_of_each": seconds} for name, seconds in silences.items()
    }
    ours = {size: round(median(run[size] for run in runs)) for size in ("nodes", "snapshot_mb")} | figures.pop(MOVED)
    ratio = {who: round(peer["silence_s"] / ours["silence_s"], 3) for who, peer in figures.items()}
    about = {"repeats": args.repeats, "broker": called(args)}
    return {**about, **around, "ours": ours, "peers": figures, "ratio": ratio}


def tables(report: Report) -> list[Table]:
    ours = report["ours"]
    cells = [
        [who, f"{row['silence_s']:.2f}", ", ".join(f"{seconds:.2f}" for seconds in row["silence_s_of_each"])]
        for who, row in ({MOVED: ours} | report["peers"]).items()
    ]
    header = [f"{ours['nodes']:,} nodes, a snapshot of {ours['snapshot_mb']:,} MB", "silence, s", "of each repeat"]
    return [Table("silence", header, cells)]


def _own(config: Config) -> Config:
    return msgspec.structs.replace(
        config,
        score=msgspec.structs.replace(config.score, snapshot_every="1h"),  # one would be a silence of its own
        scores=msgspec.structs.replace(config.scores, format="packed"),
    )


def _measure(servers: str, config: Config, config_file: Path | None, nodes: int) -> dict[str, float]:
    """Hand a shard over; return for how long it was silent, and those that did not move."""
    schema = synthetic_schema(lasting=True)
    cluster = Cluster(servers, config.kafka)
    for topic in (config.topics.events, config.topics.scores, config.topics.dead_letters):
        create_topic(cluster, topic, PARTITIONS, None, {})
    streams = [synthetic_events(seed=number) for number in range(PARTITIONS)]
    filled = _fill(cluster, config.topics.events, schema, streams[LARGE], nodes)
    with tempfile.TemporaryDirectory() as folder:
        model, state = Path(folder) / "model", Path(folder) / "state"
        some_model(schema, WIDTH).save(model)
        with scorer(servers, config, config_file, model, state) as first:
            _wait_until_scored(cluster, config, first)
            (one,) = assignments(cluster, config.score.group)
            trickle = _trickle(cluster, config.topics.events, streams)
            with trickle, scorer(servers, config, config_file, model, state) as second:
                found = _hand_over(cluster, config, one, first, second)
        newest = max(state.glob(f"*-{LARGE}@*/snapshot-*"))
        snapshot_bytes = sum(path.stat().st_size for path in newest.iterdir())
    return {"nodes": filled, "snapshot_mb": snapshot_bytes / 1e6, **found}


def _fill(cluster: Cluster, topic: str, schema: Schema, stream: Iterator[bytes], nodes: int) -> int:
    """Put so many nodes on the large partition, packed; return how many there are."""
    log, count = KafkaLog(cluster, LARGE), 0
    while count < nodes:
        lines = list(islice(stream, PACK * APPEND))
        count += sum(b'"type":"node"' in line for line in lines) - sum(b'"type":"retract"' in line for line in lines)
        records = (Record(i, line, None, JSON, time.time()) for i, line in enumerate(lines))
        log.append(topic, [Message(record.value, None, PACKED) for record in packed(records, schema, PACK)])
    log.close()
    return count


@contextmanager
def _trickle(cluster: Cluster, topic: str, streams: list[Iterator[bytes]]) -> Iterator[None]:
    """Append a few events to each partition, again and again, meanwhile."""
    stop = threading.Event()

    def append() -> None:
        logs = [KafkaLog(cluster, number) for number in range(PARTITIONS)]
        while not stop.wait(EVERY_SECONDS):
            for log, stream in zip(logs, streams, strict=True):
                log.append(topic, [Message(line) for line in islice(stream, AT_ONCE)])
        for log in logs:
            log.close()

    thread = threading.Thread(target=append, name="trickle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _hand_over(cluster: Cluster, config: Config, one: str, first: Scorer, second: Scorer) -> dict[str, float]:
    """Let the second consumer join, then stop who serves the large shard; `one` is the first's name in the group."""
    group = config.score.group
    _wait(first, lambda: sorted(map(len, assignments(cluster, group).values())) == [1, 2])
    _wait_for_scores(cluster, config, first)
    time.sleep(CALM_SECONDS)
    shared = assignments(cluster, group)
    leaver = next(member for member, partitions in shared.items() if LARGE in partitions)
    leaving, staying = (first, second) if leaver == one else (second, first)
    stopped_at = time.time()
    leaving.stop()
    _wait(staying, lambda: list(map(len, assignments(cluster, group).values())) == [PARTITIONS])
    _wait_for_scores(cluster, config, staying)
    time.sleep(CALM_SECONDS)
    instants = [_score_instants(cluster, config, number) for number in range(PARTITIONS)]
    calm_from, stayed = stopped_at - CALM_SECONDS, sorted(set(range(PARTITIONS)) - shared[leaver])
    return {
        MOVED: round(_silence(instants[LARGE], stopped_at, math.inf), 2),
        STAYED: round(max(_silence(instants[number], stopped_at, math.inf) for number in stayed), 2),
        BEFORE: round(max(_silence(found, calm_from, stopped_at) for found in instants), 2),
    }


def _wait_until_scored(cluster: Cluster, config: Config, process: Scorer) -> None:
    log, events = KafkaLog(cluster, LARGE), config.topics.events
    _wait(process, lambda: log.committed(config.score.group, events).position >= log.end(events))
    log.close()


def _wait_for_scores(cluster: Cluster, config: Config, process: Scorer) -> None:
    """Wait until there are new scores of every partition."""
    logs = [KafkaLog(cluster, number) for number in range(PARTITIONS)]
    before = [log.end(config.topics.scores) for log in logs]
    _wait(process, lambda: all(log.end(config.topics.scores) > end for log, end in zip(logs, before, strict=True)))
    for log in logs:
        log.close()


def _wait(process: Scorer, condition: Callable[[], bool]) -> None:
    """LogError if it does not come to pass."""
    failure = f"the hand-over did not come to its end within {WAIT_SECONDS:.0f} s: try fewer nodes"
    process.wait_until(condition, WAIT_SECONDS, failure)


def _score_instants(cluster: Cluster, config: Config, partition: int) -> list[float]:
    log = KafkaLog(cluster, partition)
    try:
        return [record.appended_at for records in read_to_end(log, config.topics.scores) for record in records]
    finally:
        log.close()


def _silence(instants: list[float], begin: float, end: float) -> float:
    """The longest time from one score to the next that falls between two instants."""
    return max(later - earlier for earlier, later in pairwise(instants) if later > begin and earlier < end)
