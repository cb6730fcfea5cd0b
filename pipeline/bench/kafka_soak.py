"""`graphsieve bench kafka_soak`: steady load at half of what the scorer reaches, for as long as one likes.

A producer, the deployed scorer and the broker run side by side on an endless synthetic stream, whose nodes expire.
Every half minute: how far the group has come, how far it is behind, and the memory of the scorer's process, all seen
from outside. The topics keep no more than they must, so the broker's disk does not fill either. The peer is the run's
own first third, beside its last.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from pipeline.bench.kafka_brokers import brokers, called
from pipeline.bench.kafka_process import Scorer, measuring, scorer
from pipeline.bench.kafka_serve import Contender, Place, serve
from pipeline.bench.models import some_model, synthetic_schema
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config
from pipeline.kafka_log.bare import paced
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.topics import create_topic
from pipeline.log import Message
from pipeline.memory_limit import resident_bytes
from pipeline.model import Model
from pipeline.page import Table
from producers.synthetic import synthetic_events

MEASURED_EVENTS = 50_000  # to know the speed whose half is the load
RUNS = 3  # a new broker's first is half as fast: its code is not compiled yet
APPEND = 2_000
SAMPLE_SECONDS = 30.0
START_SECONDS = 300.0  # for the first event to be committed; compiled before, where need be
KEPT = {"retention.bytes": str(512 * 2**20), "segment.bytes": str(64 * 2**20)}


class Sample(NamedTuple):
    """What can be seen at one moment."""

    at: float  # monotonic seconds since the first commit
    events: int  # committed
    lag: int  # events that are not
    resident_mb: float


def run(args: argparse.Namespace) -> Report:
    """Run the load; return whether lag and memory stayed what they were."""
    around = surroundings(args, "minutes")
    with brokers(args) as (servers, config):
        most, samples = _measure(servers, config, args.config, args.minutes)
    first, last = _thirds(samples)
    ratio = round(first["resident_mb"] / last["resident_mb"], 3)
    return {
        "broker": called(args), **around, "most_events_per_s": round(most), "load_events_per_s": round(most / 2),
        "ours": {**_whole(samples), "last third": last, "samples": [list(sample) for sample in samples]},
        "peers": {"first third": first}, "ratio": {"first third": ratio},
    }  # fmt: skip


def tables(report: Report) -> list[Table]:
    ours = report["ours"]
    first, last = report["peers"]["first third"], ours["last third"]
    cells = [
        ["seconds", f"{ours['seconds']:,}"],
        ["load, events/s", f"{report['load_events_per_s']:,}"],
        ["committed, events/s", f"{ours['events_per_s']:,}"],
        ["committed, events", f"{ours['events']:,}"],
        ["lag, events: first third, last third", f"{first['lag']:,.0f}, {last['lag']:,.0f}"],
        ["largest lag, events", f"{ours['lag_max']:,}"],
        ["memory: first third, last third", f"{first['resident_mb']:,.1f}, {last['resident_mb']:,.1f} MB"],
    ]
    return [Table("figures", ["", ""], cells)]


def _measure(servers: str, config: Config, config_file: Path | None, minutes: float) -> tuple[float, list[Sample]]:
    """Return the speed whose half is the load, and what was seen under it."""
    model = some_model(synthetic_schema())
    cluster = Cluster(servers, config.kafka)
    for topic in (config.topics.events, config.topics.scores, config.topics.dead_letters):
        create_topic(cluster, topic, 1, None, KEPT)
    most = _most(servers, config, model)
    print(f"{most:.0f} events/s at most; the load is half of it, for {minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        with (
            scorer(servers, config, config_file, Path(folder) / "model", Path(folder) / "state") as process,
            _load(servers, config, most / 2),
        ):
            log = KafkaLog(cluster, 0)
            _wait_for_the_first(log, config, process)
            samples = list(_watch(log, config, process, minutes * 60))
            log.close()
            process.stop()
    return most, samples


def _most(servers: str, config: Config, model: Model) -> float:
    """What the scorer reaches on this stream, when all is there already and the broker has warmed up."""
    topic = f"{config.topics.events}-before"
    cluster = Cluster(servers, config.kafka)
    create_topic(cluster, topic, 1, None, KEPT)
    log = KafkaLog(cluster, 0)
    stream = synthetic_events(seed=1, limit=MEASURED_EVENTS)
    while lines := list(islice(stream, APPEND)):
        log.append(topic, list(map(Message, lines)))
    log.close()
    place = Place(servers, config, {}, {"single": topic}, MEASURED_EVENTS)
    contender = Contender("single", model, config.score.max_batch)
    return max(float(serve(place, contender, f"{topic}-{run}")["events_per_s"]) for run in range(RUNS))


@contextmanager
def _load(servers: str, config: Config, per_second: float) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=_produce, args=(servers, config, per_second), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _produce(servers: str, config: Config, per_second: float) -> None:
    messages = map(Message, synthetic_events(seed=0))
    for _ in paced(measuring(servers, config), config.topics.events, messages, per_second):
        pass


def _wait_for_the_first(log: KafkaLog, config: Config, process: Scorer) -> None:
    """Return once the group has committed an event: until then the processes start, which is no load."""
    failure = f"the scorer has committed nothing in {START_SECONDS:.0f} s: see whether the brokers answer"
    process.wait_until(lambda: _committed(log, config) > 0, START_SECONDS, failure)


def _watch(log: KafkaLog, config: Config, process: Scorer, seconds: float) -> Iterator[Sample]:
    """Yield a sample every half minute, or a dozen where there is less time than that."""
    began, every = time.monotonic(), min(SAMPLE_SECONDS, seconds / 12)
    for number in range(1, round(seconds / every) + 1):
        time.sleep(max(0.0, began + number * every - time.monotonic()))
        process.check()
        committed, end = _committed(log, config), log.end(config.topics.events)
        resident = (resident_bytes(process.process.pid) or math.nan) / 2**20
        sample = Sample(round(time.monotonic() - began, 1), committed, end - committed, round(resident, 1))
        print(
            f"{sample.at:6.0f} s  {sample.events:>10} events  lag {sample.lag:>7}  {sample.resident_mb:7.1f} MB",
            flush=True,
        )
        yield sample


def _committed(log: KafkaLog, config: Config) -> int:
    return log.committed(config.score.group, config.topics.events).position


def _thirds(samples: list[Sample]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians of the first third and of the last."""
    third = max(1, len(samples) // 3)
    first, last = (
        {"lag": median(sample.lag for sample in part), "resident_mb": median(sample.resident_mb for sample in part)}
        for part in (samples[:third], samples[-third:])
    )
    return first, last


def _whole(samples: list[Sample]) -> dict[str, Any]:
    """Return how much there was, and memory by its slope, over what comes after the first third."""
    settled = samples[max(1, len(samples) // 3) :]
    slope = np.polyfit([sample.at / 3600 for sample in settled], [sample.resident_mb for sample in settled], 1)[0]
    first, last = samples[0], samples[-1]
    return {
        "seconds": round(last.at),
        "events": last.events,
        "events_per_s": round((last.events - first.events) / max(1e-9, last.at - first.at)),
        "lag_max": max(sample.lag for sample in samples),
        "resident_mb_an_hour": round(float(slope), 2),
    }
