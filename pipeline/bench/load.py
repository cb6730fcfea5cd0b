"""`graphsieve bench load`: the embedded log from a quiet stream to more than can be scored.

    offered    events/s that a producer, a process of its own, appends; "all at once": as fast as it can; "half of
               that": of what ours achieved then
    achieved   events/s from the first append to the last commit
    batch      events a micro-batch, on average
    read       from reading an event to committing its score
    append     from appending an event to committing its score

A month of the stream is scored before, untimed: from then on nodes expire as fast as they come, as in a shard that has
served for long. One that still grows is given memory page by page, up to 3 ms each on a machine that shares its memory.

Ours takes what has come while the micro-batch before was scored and committed. The peer lets the oldest event wait for
company, as long as `score.max_wait` says. The ratio is the peer's median since the append by ours, at the lowest rate.
"""

import argparse
import math
import multiprocessing
import tempfile
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from consumers.score import ScoreConsumer
from consumers.service import tune_python, warm_up
from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config, load_config
from pipeline.events import REASONS
from pipeline.experiments.recordings import as_records
from pipeline.figure import by_factors, new_figure, save
from pipeline.log import Record, read_to_end
from pipeline.messages import ScoreReader
from pipeline.model import Model
from pipeline.page import Table
from pipeline.snapshot_store import open_store
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import ServiceStats
from producers.replay import replay
from producers.synthetic import synthetic_events

RATES = (100.0, 1_000.0, 5_000.0, 10_000.0, 20_000.0)  # events/s
ALL_AT_ONCE = "all at once"
BEFORE = 175_000  # events: as long as the schema's ttl
SECONDS = 4.0  # at each rate
HALF_SECONDS = 12.0  # at half of what can be scored: what comes once in two seconds is to count there
AT_ONCE = 100_000  # events, where none is waited for
PERCENTILES = {"p50": 50, "p99": 99}

Figures = dict[str, Any]


class PatientLog(SqliteLog):
    """The peer: its events wait for company."""

    costly_commits = True


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    config = load_config(args.config)
    inputs, hidden, outputs = WIDTHS.values()
    model = some_model(synthetic_schema(), outputs, inputs, hidden)
    warm_up(model)
    tune_python()
    contenders = {"ours": SqliteLog, "waiting": PatientLog}
    before = as_records(synthetic_events(0, min(BEFORE, args.events or BEFORE)))
    found: dict[str, list[Figures]] = {who: [] for who in contenders}

    def measure(rate: float, offered: str, seconds: float = SECONDS) -> None:
        count = AT_ONCE if math.isinf(rate) else round(rate * seconds)
        count = min(count, args.events or count)
        runs: dict[str, list[Figures]] = {who: [] for who in contenders}
        for _ in range(args.repeats):
            for who, kind in contenders.items():
                runs[who].append(_serve(kind, model, config, before, count, rate))
        for who, figures in runs.items():
            found[who].append({"offered": offered, **_medians(figures)})

    for rate in RATES:
        measure(rate, f"{rate:,.0f}")
    measure(math.inf, ALL_AT_ONCE)
    measure(found["ours"][-1]["achieved"] / 2, "half of that", HALF_SECONDS)
    if args.plot:
        _plot(found, args.plot)
    ours, peer = found["ours"], found["waiting"]
    return {
        "before": len(before), "seconds": SECONDS, "half_seconds": HALF_SECONDS,
        "max_wait": config.score.max_wait, "max_batch": config.score.max_batch, "repeats": args.repeats, **around,
        "ours": {"rates": ours}, "peers": {"waiting": {"rates": peer}},
        "ratio": {"waiting": round(peer[0]["append_p50_ms"] / ours[0]["append_p50_ms"], 2)},
    }  # fmt: skip


def tables(report: Report) -> list[Table]:
    header = ["events/s offered", "", "achieved", "events a batch"]
    header += [f"{since}, {name} ms" for since in ("read", "append") for name in PERCENTILES]
    both = zip(report["ours"]["rates"], report["peers"]["waiting"]["rates"], strict=True)
    cells = [
        [one["offered"], who, f"{one['achieved']:,}", f"{one['batch']:,.1f}"]
        + [f"{one[f'{since}_{name}_ms']:,.2f}" for since in ("read", "append") for name in PERCENTILES]
        for pair in both
        for who, one in zip(("ours", f"waiting {report['max_wait']}"), pair, strict=True)
    ]
    return [Table("rates", header, cells)]


def _serve(
    kind: type[SqliteLog], model: Model, config: Config, before: Sequence[Record], count: int, rate: float
) -> Figures:
    """Score what a producer appends meanwhile, when the events `before` are scored."""
    first, topic = len(before), config.topics.events
    with tempfile.TemporaryDirectory() as folder:
        log, store, stats = kind(Path(folder) / "log.db"), open_store(folder, "", keep=1), ServiceStats(REASONS)
        consumer = ScoreConsumer(log, store, model, config, stats, say=lambda line: None)
        consumer.recover(threading.Event())
        replay(before, log, topic, ts_of=lambda record: None)
        consumer.run(threading.Event(), until=first)
        earlier = ServiceStats(REASONS)
        earlier.add_counts(stats)
        producer = multiprocessing.get_context("spawn").Process(
            target=_produce, args=(Path(folder) / "log.db", topic, first, count, rate)
        )
        producer.start()
        consumer.run(threading.Event(), until=first + count)
        consumer.finish()
        producer.join()
        latencies, seconds = _since_append(log, config, first)
        store.close()
        log.close()
    latency = stats.score_latency.since(earlier.score_latency)
    batches = stats.micro_batch_events.since(earlier.micro_batch_events).count
    read = {f"read_{name}_ms": latency.percentile(share) * 1e3 for name, share in PERCENTILES.items()}
    append = {f"append_{name}_ms": float(np.percentile(latencies, share)) for name, share in PERCENTILES.items()}
    return {"achieved": count / seconds, "batch": count / batches, **read, **append}


def _produce(path: Path, topic: str, first: int, count: int, rate: float) -> None:
    log, records = SqliteLog(path), as_records(islice(synthetic_events(0, first + count), first, None))
    tune_python()  # or a collection of garbage among a million records makes it pause for a second, and hurry after it
    replay(records, log, topic, ts_of=lambda record: None, rate=rate)
    log.close()


def _since_append(log: SqliteLog, config: Config, first: int) -> tuple[list[float], float]:
    """Return the milliseconds from the append of each event from `first` on to its score's, and the seconds of all."""
    appended = [record.appended_at for records in read_to_end(log, config.topics.events) for record in records]
    reader, milliseconds, last = ScoreReader(), [], math.nan
    for records in read_to_end(log, config.topics.scores):
        last = records[-1].appended_at
        pairs = zip(records, reader.read(records), strict=True)
        milliseconds += [
            (record.appended_at - appended[score.position]) * 1e3 for record, score in pairs if score.position >= first
        ]
    return milliseconds, last - appended[first]


def _medians(runs: list[Figures]) -> Figures:
    """Return the medians of the runs."""
    figures = {name: round(median(run[name] for run in runs), 3) for name in runs[0]}
    return figures | {"achieved": round(figures["achieved"])}


def _plot(found: dict[str, list[Figures]], path: Path) -> None:
    figure, axes = new_figure(columns=2)
    for axis, name, words in zip(
        axes.flat, ("append_p50_ms", "batch"), ("ms from append to commit, median", "events a micro-batch"), strict=True
    ):
        for who, figures in found.items():
            paced = sorted((one for one in figures if one["offered"] != ALL_AT_ONCE), key=lambda one: one["achieved"])
            axis.plot([one["achieved"] for one in paced], [one[name] for one in paced], "o-", label=who)
        by_factors(axis)
        axis.set_yscale("log")
        axis.set_xlabel("events a second")
        axis.set_ylabel(words)
    axes.flat[0].legend()
    save(figure, path)
