"""`graphsieve bench kafka`: what the scorer reaches next to a real broker, and how soon a score can be read.

In one run, on one broker of the bench's own (or the one that --log names), in turn and repeated:

    pruned 4x           ours: the real consumer on one thread, single JSON messages, exactly once
    unpruned            the same engine, all channels
    at least once       ours, positions committed behind the acknowledged scores
    confluent           ours with kafka.client = "confluent", where that is installed
    bare loop           kafka-python alone: polls, produces as many messages of the same size in transactions of as many
    packed              ours, 512 events a message, the scores of a micro-batch in one; exactly once
    packed, ...         its twins, and its ceilings: the same bare loop, and scoring without any log

Then the latency from producing an event to the moment at which a reader of committed messages has its score, as
`kafka_latency` measures it, in processes of their own.

The events are the Chicago reviews where the data is there, else a synthetic stream. Figures are medians over the
repeats, with their range; ratios count, absolute times depend on the machine and on what else it does.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from consumers.service import tune_python
from pipeline.bench import embedded, kafka_latency
from pipeline.bench.kafka_brokers import brokers, called
from pipeline.bench.kafka_process import clients
from pipeline.bench.kafka_serve import PARTS, Contender, Place, bare, score_only, serve
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config
from pipeline.experiments.recordings import as_records
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.topics import create_topic
from pipeline.log import Message
from pipeline.model import Model
from pipeline.page import Table
from pipeline.prune import PruneOptions, prune
from pipeline.schema import Schema
from pipeline.train import TrainOptions, train
from producers.replay import packed

PACK = 512  # events a message
PACKED_BATCH = 32  # messages
APPEND = 2000  # messages at once

OURS, PACKED = "pruned 4x", "packed"
Figures = dict[str, dict[str, Any]]


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    name, schema, lines = embedded.stream(args.events)
    records = as_records(lines)
    whole, _ = train(schema, records, TrainOptions())
    small, _ = prune(whole, records, PruneOptions(budget=4))
    with brokers(args) as (servers, config), _calm():
        figures = _throughput(servers, config, schema, lines, (small, whole), args.repeats)
        latency = kafka_latency.run(servers, config, args.config, small, lines, args.repeats)
    ratio = _ratios(figures)
    ours = figures.pop(OURS) | {PACKED: figures.pop(PACKED), "latency": latency}
    about = {"data": name, "events": len(lines), "repeats": args.repeats, "broker": called(args)}
    return {**about, **around, "ours": ours, "peers": figures, "ratio": ratio}


def tables(report: Report) -> list[Table]:
    """Speed and where the time goes, of single messages and of packed ones; the latency."""
    ours, prefix = report["ours"], f"{PACKED}, "
    single: Figures = {OURS: ours} | {who: row for who, row in report["peers"].items() if not who.startswith(prefix)}
    packed: Figures = {OURS: ours[PACKED]} | {
        who.removeprefix(prefix): row for who, row in report["peers"].items() if who.startswith(prefix)
    }
    return [
        Table(name, [words, "events/s", "range", "cpu", *PARTS], [_cells(who, row) for who, row in rows.items()])
        for name, words, rows in (("single", "single messages", single), (PACKED, f"{PACK} events a message", packed))
    ] + [kafka_latency.table(ours["latency"])]


@contextmanager
def _calm() -> Iterator[None]:
    """Collect garbage as the deployed scorer does, for all contenders, the bare loops too."""
    usual = gc.get_threshold()
    tune_python()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


# ---- throughput ----


def _throughput(
    servers: str, config: Config, schema: Schema, lines: list[bytes], models: tuple[Model, Model], repeats: int
) -> Figures:
    place = _place(servers, config, schema, lines)
    contenders = _contenders(place, *models)
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
    for repeat in range(repeats):
        for number, (who, measure) in enumerate(contenders.items()):
            runs[who].append(measure(f"{config.topics.events}-{repeat}-{number}"))
    return {who: _summary(found) for who, found in runs.items()}


def _place(servers: str, config: Config, schema: Schema, lines: list[bytes]) -> Place:
    """Put the events on two topics: single, and packed."""
    records = as_records(lines)
    messages = {
        "single": [Message(line, f"k{i % 1000}") for i, line in enumerate(lines)],
        "packed": [Message(r.value, None, r.content_type) for r in packed(iter(records), schema, PACK)],
    }
    topics = {form: f"{config.topics.events}-{form}" for form in messages}
    cluster = Cluster(servers, config.kafka)
    for topic in (*topics.values(), config.topics.scores, config.topics.dead_letters):
        create_topic(cluster, topic, 1, None, {})
    log = KafkaLog(cluster, 0)
    for form, said in messages.items():
        for start in range(0, len(said), APPEND):
            log.append(topics[form], said[start : start + APPEND])
    log.close()
    return Place(servers, config, messages, topics, len(lines))


def _contenders(place: Place, small: Model, whole: Model) -> dict[str, Callable[[str], dict[str, Any]]]:
    """What is measured, by name, in turn: a bare loop comes after ours, which shows it what a score looks like."""
    single = Contender("single", small, place.config.score.max_batch)
    packed = Contender("packed", small, PACKED_BATCH)
    contenders: dict[str, Callable[[str], dict[str, Any]]] = {}
    for ours, name in ((single, OURS), (packed, PACKED)):
        prefix = "" if ours is single else f"{PACKED}, "
        contenders[name] = partial(serve, place, ours)
        contenders[f"{prefix}bare loop"] = partial(bare, place, ours)
        contenders[f"{prefix}no log"] = partial(score_only, place, ours)
        contenders[f"{prefix}unpruned"] = partial(serve, place, replace(ours, model=whole))
        contenders[f"{prefix}at least once"] = partial(serve, place, replace(ours, delivery="at-least-once"))
        if "confluent" in clients():
            contenders[f"{prefix}confluent"] = partial(serve, place, replace(ours, client="confluent"))
    return contenders


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the range of the speed."""
    speeds = [run["events_per_s"] for run in runs]
    summary: dict[str, Any] = {"events_per_s": round(median(speeds)), "range": [round(min(speeds)), round(max(speeds))]}
    for name in ("cpu_us_per_event", "events_per_batch"):
        if name in runs[0]:
            summary[name] = round(median(run[name] for run in runs), 2)
    if "us_per_event" in runs[0]:
        summary["us_per_event"] = {part: round(median(run["us_per_event"][part] for run in runs), 2) for part in PARTS}
    return summary


def _ratios(figures: Figures) -> dict[str, float]:
    """What ours reaches of each peer, and packed of its own."""
    ratios = {}
    for who, peer in figures.items():
        ours = figures[PACKED if who.startswith(f"{PACKED}, ") else OURS]
        if who not in (OURS, PACKED):
            ratios[who] = round(ours["events_per_s"] / peer["events_per_s"], 3)
    return ratios


def _cells(who: str, row: dict[str, Any]) -> list[str]:
    cpu = f"{row['cpu_us_per_event']:.1f}" if "cpu_us_per_event" in row else ""
    parts = row.get("us_per_event", {})
    spread = "{:,} to {:,}".format(*row["range"])
    return [who, f"{row['events_per_s']:,}", spread, cpu, *(f"{parts[p]:.2f}" if parts else "" for p in PARTS)]
