"""`graphsieve bench recovery`: what a snapshot of a million nodes costs, and how soon a consumer is back.

    load      from the snapshot to a state that scores
    replay    events/s after the snapshot, up to where the group had committed; nothing is published
    fork      the pause when a child process begins to write one
    beside    micro-batches while it is at work, one upon the other: what changes is copied then, page by page

Peers: recovery by a replay of the whole log, without a snapshot; scoring that stands still while one is written, of
which the ratio compares the longest silence with that of scoring beside (the fork, or the longest micro-batch).

The stream is the synthetic one, whose nodes stay; the model has as many hidden channels as one that was pruned.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from statistics import median

from consumers.service import tune_python
from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.decoder import Decoder
from pipeline.experiments.recordings import as_records
from pipeline.page import Table
from pipeline.schema import Schema
from pipeline.scorer import Scorer
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_store import SnapshotStore, open_store
from producers.synthetic import synthetic_events

NODES = 920_000  # the table of names doubles at 786,432, and not again with what a repeat adds
TAIL = 50_000  # events that are replayed behind the snapshot
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
        events += BATCH * len(list(batches(scorer, schema, list(islice(stream, 50 * BATCH)))))
    filling = time.perf_counter() - began
    tune_python()  # as consumers do: a walk over all objects copies every page of theirs
    tail, meanwhile = list(islice(stream, TAIL)), list(islice(stream, MEANWHILE))
    still, load, alone, fork, beside, write = [], [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, "", keep=1)
        for repeat in range(args.repeats):
            began = time.perf_counter()
            manifest = store.write(events + repeat, model.version, scorer.export(), now=0.0)
            still.append(time.perf_counter() - began)
            began = time.perf_counter()
            back = _loaded(store, Scorer(model))
            load.append(time.perf_counter() - began)
            alone.append(list(batches(back, schema, tail)))
            began = time.perf_counter()
            snapshot = SnapshotBeside(store, events + repeat, model.version, back.export, 0.0, LIMIT_SECONDS)
            fork.append(time.perf_counter() - began)
            beside.append(_until_written(snapshot, batches(back, schema, meanwhile)))
            write.append(time.perf_counter() - began)
        store.close()
    silence = median(max(pause, *seconds) for pause, seconds in zip(fork, beside, strict=True))
    ours = {
        "megabytes": round(manifest.bytes / 1e6), "fork_ms": _ms(fork), "write_s": round(median(write), 3),
        "batch_ms": {"alone": _spread(alone), "beside": _spread(beside)},
        "load_s": round(median(load), 3), "replay_events_per_s": round(TAIL / median(map(sum, alone))),
    }  # fmt: skip
    return {
        "nodes": scorer.graph.row_count,
        "lists": scorer.graph.list_count,
        "events": events,
        "repeats": args.repeats,
        **around,
        "ours": ours,
        "peers": {
            "replay of the whole log": {"load_s": round(filling, 3)},
            "standing still": {"write_s": round(median(still), 3)},
        },
        "ratio": {
            "replay of the whole log": round(filling / median(load), 1),
            "standing still": round(median(still) / silence, 1),
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
        ["peer: replay of the whole log", f"{peers['replay of the whole log']['load_s']:.1f} s"],
    ]
    return [Table("figures", ["", ""], cells)]


def batches(scorer: Scorer, schema: Schema, lines: list[bytes]) -> Iterator[float]:
    """Decode and score messages in micro-batches; yield the seconds of each."""
    decoder = Decoder(schema)
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


def _loaded(store: SnapshotStore, scorer: Scorer) -> Scorer:
    name = store.names()[0]
    scorer.restore(store.read_arrays(name, store.read_manifest(name)))
    return scorer


def _spread(runs: list[list[float]]) -> dict[str, float]:
    """Return the median and the longest micro-batch of the runs, each the median over them."""
    return {"median": _ms(map(median, runs)), "longest": _ms(map(max, runs))}


def _ms(seconds: Iterable[float]) -> float:
    return round(median(seconds) * 1e3, 2)
