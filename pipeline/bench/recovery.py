"""`graphsieve bench recovery`: what a snapshot of a million nodes costs, and how soon a consumer is back.

    load      from the snapshot to a state that scores
    replay    events/s after the snapshot, up to where the group had committed; nothing is published
    fork      the pause when a child process begins to write one
    beside    micro-batches while it is at work, one upon the other: what changes is copied then, page by page

Load and replay are those of a consumer on the embedded log that starts after another one has died.

Peers: serving the very events that are replayed, by the consumer that died; recovery by a replay of the whole log,
without a snapshot; scoring that stands still while one is written, of which the ratio compares the longest silence with
that of scoring beside (the fork, or the longest micro-batch).

The stream is the synthetic one, whose nodes stay; the model has as many hidden channels as one that was pruned.
"""

import argparse
import gc
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from consumers.score import ScoreConsumer
from consumers.service import tune_python
from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.config import Config, load_config
from pipeline.decoder import Decoder
from pipeline.events import REASONS
from pipeline.experiments.recordings import as_records
from pipeline.log import Message
from pipeline.model import Model
from pipeline.page import Table
from pipeline.scorer import Scorer
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_store import SnapshotStore, open_store
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import ServiceStats
from producers.synthetic import synthetic_events

NODES = 920_000  # the table of names doubles at 786,432, and not again with what a repeat adds
TAIL = 100_000  # events that are served, and replayed, behind the snapshot
ALONE = 50_000  # events that are scored before another snapshot begins
MEANWHILE = 200_000  # events that are there to be scored while one is written
LIMIT_SECONDS = 600


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    schema = synthetic_schema(lasting=True)
    inputs, hidden, outputs = WIDTHS.values()
    model = some_model(schema, outputs, inputs, hidden)
    scorer, stream = Scorer(model), synthetic_events(seed=0)
    began, events = time.perf_counter(), 0
    while scorer.graph.row_count < (args.events or NODES):
        events += BATCH * len(list(_batches(scorer, list(islice(stream, 50 * BATCH)))))
    filling = time.perf_counter() - began
    tune_python()  # as consumers do: a walk over all objects copies every page of theirs
    tail, alone, meanwhile = (list(islice(stream, count)) for count in (TAIL, ALONE, MEANWHILE))
    config = load_config(args.config)
    nodes, lists = scorer.graph.row_count, scorer.graph.list_count
    with tempfile.TemporaryDirectory() as folder:
        filled = open_store(folder, "", keep=1)
        filled.write(0, model.version, scorer.export(), now=0.0)
        del scorer  # a consumer that forks holds one state, not two
        found = [_die_and_return(filled, model, config, tail) for _ in range(args.repeats)]
        pauses = [_write_beside(filled, model, alone, meanwhile) for _ in range(args.repeats)]
        filled.close()
    load, served, replayed = (median(times) for times in zip(*found, strict=True))
    still, fork, write = (median(times) for times in zip(*(pause.seconds for pause in pauses), strict=True))
    silence = median(max(pause.seconds.fork, *pause.beside) for pause in pauses)
    ours = {
        "megabytes": round(pauses[0].bytes / 1e6), "fork_ms": round(fork * 1e3, 2), "write_s": round(write, 3),
        "batch_ms": {
            "alone": _spread([pause.alone for pause in pauses]), "beside": _spread([pause.beside for pause in pauses])
        },
        "load_s": round(load, 3), "replay_events_per_s": round(replayed),
    }  # fmt: skip
    return {
        "nodes": nodes,
        "lists": lists,
        "events": events,
        "repeats": args.repeats,
        **around,
        "ours": ours,
        "peers": {
            "serving": {"events_per_s": round(served)},
            "replay of the whole log": {"load_s": round(filling, 3)},
            "standing still": {"write_s": round(still, 3)},
        },
        "ratio": {
            "serving": round(replayed / served, 2),
            "replay of the whole log": round(filling / load, 1),
            "standing still": round(still / silence, 1),
        },
    }


def tables(report: Report) -> list[Table]:
    ours, peers = report["ours"], report["peers"]
    alone, beside = ours["batch_ms"]["alone"], ours["batch_ms"]["beside"]
    cells = [
        ["nodes, lists", f"{report['nodes']:,}, {report['lists']:,}"],
        ["a snapshot", f"{ours['megabytes']:,} MB"],
        ["pause when one begins", f"{ours['fork_ms']:.1f} ms"],
        ["it is written in", f"{ours['write_s']:.2f} s"],
        [f"{BATCH} events meanwhile: median, longest", f"{beside['median']:.1f}, {beside['longest']:.1f} ms"],
        [f"{BATCH} events before: median, longest", f"{alone['median']:.1f}, {alone['longest']:.1f} ms"],
        ["peer: pause where scoring stands still", f"{peers['standing still']['write_s']:.2f} s"],
        ["loading it", f"{ours['load_s']:.2f} s"],
        ["replay behind it", f"{ours['replay_events_per_s']:,} events/s"],
        ["peer: serving the same events", f"{peers['serving']['events_per_s']:,} events/s"],
        ["peer: replay of the whole log", f"{peers['replay of the whole log']['load_s']:.1f} s"],
    ]
    return [Table("figures", ["", ""], cells)]


# ---- back after a crash ----


def _die_and_return(
    filled: SnapshotStore, model: Model, config: Config, tail: list[bytes]
) -> tuple[float, float, float]:
    """Serve `tail` behind a snapshot, and replay it; return the seconds of the load, and events/s of both."""
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db")
        log.append(config.topics.events, [Message(line) for line in tail])
        dies, comes_back = (
            ScoreConsumer(log, filled, model, config, ServiceStats(REASONS), lambda line: None) for _ in range(2)
        )
        began = time.perf_counter()
        dies.recover(threading.Event())
        load = time.perf_counter() - began
        began = time.perf_counter()
        dies.run(threading.Event(), until=len(tail))
        served = len(tail) / (time.perf_counter() - began)
        times: list[tuple[float, int]] = []
        comes_back.recover(threading.Event(), lambda done, total: times.append((time.perf_counter(), done)))
        log.close()
    (first, before), (last, after) = times[0], times[-1]
    return load, served, (after - before) / (last - first)


# ---- snapshots beside the scoring ----


class _Seconds(NamedTuple):
    still: float
    fork: float
    write: float


class _Pauses(NamedTuple):
    """What one snapshot cost; seconds of each micro-batch before it, and while it was written."""

    seconds: _Seconds
    bytes: int
    alone: list[float]
    beside: list[float]


def _write_beside(filled: SnapshotStore, model: Model, before: list[bytes], meanwhile: list[bytes]) -> _Pauses:
    """Load a state, write it while nothing is scored, and write it beside the scoring of `meanwhile`."""
    gc.collect()  # the states of earlier repeats
    back, name = Scorer(model), filled.names()[0]
    back.restore(filled.read_arrays(name, filled.read_manifest(name)))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, "", keep=1)
        began = time.perf_counter()
        manifest = store.write(1, model.version, back.export(), now=0.0)
        still = time.perf_counter() - began
        alone = list(_batches(back, before))
        began = time.perf_counter()
        snapshot = SnapshotBeside(store, 2, model.version, back.export, 0.0, LIMIT_SECONDS)
        fork = time.perf_counter() - began
        beside = _until_written(snapshot, _batches(back, meanwhile))
        write = time.perf_counter() - began
        store.close()
    return _Pauses(_Seconds(still, fork, write), manifest.bytes, alone, beside)


def _batches(scorer: Scorer, lines: list[bytes]) -> Iterator[float]:
    """Decode and score messages in micro-batches; yield the seconds of each."""
    decoder = Decoder(scorer.model.schema)
    for start in range(0, len(lines), BATCH):
        began = time.perf_counter()
        scorer.score(decoder.decode(as_records(lines[start : start + BATCH]))[0])
        yield time.perf_counter() - began


def _until_written(snapshot: SnapshotBeside, batches: Iterator[float]) -> list[float]:
    """Score until the snapshot is written; return the seconds of the micro-batches."""
    seconds = []
    for each in batches:
        seconds.append(each)
        if snapshot.poll() is not None:
            return seconds
    snapshot.wait()
    return seconds


def _spread(runs: list[list[float]]) -> dict[str, float]:
    """Return the median and the longest micro-batch of the runs, each the median over them."""
    return {"median": _ms(map(median, runs)), "longest": _ms(map(max, runs))}


def _ms(seconds: Iterable[float]) -> float:
    return round(median(seconds) * 1e3, 2)
