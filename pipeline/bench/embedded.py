"""`graphsieve bench embedded`: events/s from the embedded log to committed scores, and where the time goes.

One process, exactly-once on SqliteLog, the real consumer: what `graphsieve score` runs. The events are the Chicago
reviews where the data is there, else a synthetic stream. Compared, in turn and on the same events:

    pruned 4x      ours, single JSON messages
    scores packed  the same events; the scores of a micro-batch in one message
    packed         the events too, 512 a message
    unpruned       the same engine, all channels, single messages
    512 at most    as ours, in smaller micro-batches
    one thread     as ours, without the thread that classifies, commits and reads on meanwhile
    bare loop      reads the messages and commits as many of the same size, without looking at them: the log's own speed

Figures are medians over the repeats, with their range; ratios count, absolute times depend on the machine.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from consumers.meanwhile import cores
from consumers.score import ScoreConsumer
from consumers.service import tune_python, warm_up
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config, load_config
from pipeline.durations import parse_duration
from pipeline.errors import DataError
from pipeline.events import REASONS
from pipeline.experiments.recordings import as_records
from pipeline.log import Message, Move
from pipeline.model import Model
from pipeline.page import Table
from pipeline.prune import PruneOptions, prune
from pipeline.schema import Schema, load_schema
from pipeline.snapshot_store import open_store
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import STAGES, ServiceStats
from pipeline.train import TrainOptions, train
from producers.replay import packed
from producers.reviews import read_reviews, review_events
from producers.synthetic import synthetic_events

SCHEMAS = Path("deploy/schemas")
SYNTHETIC_EVENTS = 100_000
PERCENTILES = ("p50_ms", "p99_ms")
SCORES_PACKED, PACKED, ONE_THREAD = "scores packed", "packed", "one thread"
PACK, PACKED_BATCH = 512, 8  # events a message, messages a micro-batch
SMALLER_BATCH = 512  # messages
SCORE_BYTES = 200  # about what a score message takes


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    name, schema, lines = stream(args.events)
    records = as_records(lines)
    whole, _ = train(schema, records, TrainOptions())
    small, _ = prune(whole, records, PruneOptions(budget=4))
    config = load_config(args.config)
    tune_python()  # as consumers do
    with tempfile.TemporaryDirectory() as folder:
        log, packed_log = SqliteLog(Path(folder) / "bench.db"), SqliteLog(Path(folder) / "packed.db")
        log.append(config.topics.events, [Message(line) for line in lines])
        sealed = packed(iter(records), schema, PACK)
        packed_log.append(config.topics.events, [Message(r.value, None, r.content_type) for r in sealed])
        packing = _with(config, "scores", format="packed")
        served: dict[str, tuple[SqliteLog, Model, Config]] = {
            "pruned 4x": (log, small, config),
            SCORES_PACKED: (log, small, packing),
            PACKED: (packed_log, small, _with(packing, "score", max_batch=PACKED_BATCH)),
            "unpruned": (log, whole, config),
            f"{SMALLER_BATCH} at most": (log, small, _with(config, "score", max_batch=SMALLER_BATCH)),
            ONE_THREAD: (log, small, config),
        }
        contenders: dict[str, Callable[[str], dict[str, Any]]] = {
            who: partial(_serve, *what, who != ONE_THREAD, Path(folder), len(records)) for who, what in served.items()
        }
        contenders["bare loop"] = partial(_bare, log, config)
        runs: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
        for repeat in range(args.repeats):
            turns = list(contenders)
            first = repeat % len(turns)  # another one each time: what a turn leaves to be written meets all alike
            for who in turns[first:] + turns[:first]:
                runs[who].append(contenders[who](f"run-{repeat}-{turns.index(who)}"))
        log.close()
        packed_log.close()
    figures = {who: _summary(found) for who, found in runs.items()}
    ours = figures.pop("pruned 4x")
    ours |= {form: figures.pop(form) for form in (SCORES_PACKED, PACKED)}
    ratio = {who: round(ours["events_per_s"] / peer["events_per_s"], 3) for who, peer in figures.items()}
    about = {"data": name, "events": len(records), "repeats": args.repeats, "threads": 1 + (cores() > 1)}
    return {**about, **around, "ours": ours, "peers": figures, "ratio": ratio}


def stream(count: int | None) -> tuple[str, Schema, list[bytes]]:
    """Return name, schema and messages: Chicago's reviews, or so many of a synthetic stream."""
    data = Path(os.environ.get("GRAPHSIEVE_DATA", "../shared/data")) / "reviews" / "yelpchi.txt.gz"
    if not SCHEMAS.is_dir():
        raise DataError(f"no folder {SCHEMAS}: run the bench in the root of the repository")
    if data.exists() and count is None:
        lines = list(review_events(read_reviews(data), parse_duration("30d"), seed=0))
        return "yelpchi", load_schema(SCHEMAS / "reviews.toml"), lines
    return "synthetic", load_schema(SCHEMAS / "synthetic.toml"), list(synthetic_events(0, count or SYNTHETIC_EVENTS))


def _with(config: Config, section: str, **changes: Any) -> Config:
    return msgspec.structs.replace(config, **{section: msgspec.structs.replace(getattr(config, section), **changes)})


def _serve(
    log: SqliteLog, model: Model, config: Config, ahead: bool, folder: Path, events: int, group: str
) -> dict[str, Any]:
    """Run the consumer over the whole log; snapshots are left out, `recovery` measures those.

    ahead  with a thread besides, where there is a core for it
    """
    grouped = _with(config, "score", group=group)
    store = open_store(str(folder / group), "", config.score.snapshots_kept)
    stats = ServiceStats(reasons=REASONS)
    warm_up(model)
    free = ahead and cores() > 1
    consumer = ScoreConsumer(log, store, model, grouped, stats, lambda line: None, core_is_free=lambda: free)
    consumer.recover(threading.Event())
    end = log.end(config.topics.events)
    began = time.perf_counter()
    consumer.run(threading.Event(), end)
    consumer.finish()
    seconds = time.perf_counter() - began - (stats.snapshot_seconds if stats.snapshots else 0.0)
    store.close()
    return {
        "events_per_s": events / seconds,
        "p50_ms": stats.score_latency.percentile(50) * 1e3,
        "p99_ms": stats.score_latency.percentile(99) * 1e3,
        "stage_us_per_event": {stage: stats.stage_seconds[stage].sum / events * 1e6 for stage in STAGES},
    }


def _bare(log: SqliteLog, config: Config, group: str) -> dict[str, Any]:
    """Read the events and commit half as many messages (a review is two events: itself and its label)."""
    topic, end, position = config.topics.events, log.end(config.topics.events), 0
    began = time.perf_counter()
    while position < end:
        read = log.read_batch(topic, position, config.score.max_batch, 0.0)
        out = [Message(b"x" * SCORE_BYTES, "id")] * (len(read.records) // 2)
        log.commit(group, {topic: Move(position, read.position)}, {"bare": out})
        position = read.position
    return {"events_per_s": end / (time.perf_counter() - began)}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the range of the speed."""
    speeds = [run["events_per_s"] for run in runs]
    summary: dict[str, Any] = {"events_per_s": round(median(speeds)), "range": [round(min(speeds)), round(max(speeds))]}
    for name in PERCENTILES:
        if name in runs[0]:
            summary[name] = round(median(run[name] for run in runs), 3)
    if "stage_us_per_event" in runs[0]:
        stages = {stage: median(run["stage_us_per_event"][stage] for run in runs) for stage in STAGES}
        parts = [*stages.items(), ("all", 1e6 / median(speeds))]  # less than their sum where two threads share them
        summary["stage_us_per_event"] = {str(name): round(value, 3) for name, value in parts}
    return summary


def tables(report: Report) -> list[Table]:
    """Speed, and where the time goes, of each contender."""
    ours = report["ours"]
    rows = {"pruned 4x": ours, **{form: ours[form] for form in (SCORES_PACKED, PACKED)}, **report["peers"]}
    speed = [
        [who, f"{row['events_per_s']:,}", "{:,} to {:,}".format(*row["range"]), *(_millis(row, p) for p in PERCENTILES)]
        for who, row in rows.items()
    ]
    staged = {who: row["stage_us_per_event"] for who, row in rows.items() if "stage_us_per_event" in row}
    stages = [[who, *(f"{value:.2f}" for value in found.values())] for who, found in staged.items()]
    return [
        Table("speed", ["", "events/s", "range", "p50 ms", "p99 ms"], speed),
        Table("stages", ["microseconds an event", *next(iter(staged.values()))], stages),
    ]


def _millis(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f}" if name in row else ""
