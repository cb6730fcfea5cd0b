"""`graphsieve bench recovery`: what a snapshot of a million nodes costs, and how soon a consumer is back.

    write     the pause: scoring stands still while a snapshot is written
    load      from the snapshot to a state that scores
    replay    events/s after the snapshot, up to where the group had committed; nothing is published
    peer      recovery without a snapshot: the whole log is replayed

The stream is the synthetic one, whose nodes stay; the model has as many hidden channels as one that was pruned.
"""

import argparse
import tempfile
import time
from itertools import islice
from statistics import median

from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.decoder import Decoder
from pipeline.experiments.recordings import as_records
from pipeline.page import Table
from pipeline.schema import Schema
from pipeline.scorer import Scorer
from pipeline.snapshot_store import SnapshotStore, open_store
from producers.synthetic import synthetic_events

NODES = 1_000_000
TAIL = 100_000  # events that are replayed behind the snapshot


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    schema = synthetic_schema(lasting=True)
    inputs, hidden, outputs = WIDTHS.values()
    model = some_model(schema, outputs, inputs, hidden)
    scorer, stream = Scorer(model), synthetic_events(seed=0)
    began, events = time.perf_counter(), 0
    while scorer.graph.row_count < (args.events or NODES):
        events += apply(scorer, schema, list(islice(stream, 50 * BATCH)))
    filling = time.perf_counter() - began
    tail = list(islice(stream, TAIL))
    write, load, rate = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, "", keep=1)
        for repeat in range(args.repeats):
            began = time.perf_counter()
            manifest = store.write(events + repeat, model.version, scorer.export(), now=0.0)
            write.append(time.perf_counter() - began)
            began = time.perf_counter()
            back = _loaded(store, Scorer(model))
            load.append(time.perf_counter() - began)
            began = time.perf_counter()
            apply(back, schema, tail)
            rate.append(len(tail) / (time.perf_counter() - began))
        store.close()
    ours = {
        "write_pause_s": round(median(write), 3), "megabytes": round(manifest.bytes / 1e6),
        "load_s": round(median(load), 3), "replay_events_per_s": round(median(rate)),
    }  # fmt: skip
    return {
        "nodes": scorer.graph.row_count,
        "lists": scorer.graph.list_count,
        "events": events,
        "repeats": args.repeats,
        **around,
        "ours": ours,
        "peers": {"replay of the whole log": {"load_s": round(filling, 3)}},
        "ratio": {"replay of the whole log": round(filling / median(load), 1)},
    }


def tables(report: Report) -> list[Table]:
    ours, whole = report["ours"], report["peers"]["replay of the whole log"]["load_s"]
    cells = [
        ["nodes, lists", f"{report['nodes']:,}, {report['lists']:,}"],
        ["a snapshot", f"{ours['megabytes']:,} MB"],
        ["pause while it is written", f"{ours['write_pause_s']:.2f} s"],
        ["loading it", f"{ours['load_s']:.2f} s"],
        ["replay behind it", f"{ours['replay_events_per_s']:,} events/s"],
        ["peer: replay of the whole log", f"{whole:.1f} s"],
    ]
    return [Table("figures", ["", ""], cells)]


def apply(scorer: Scorer, schema: Schema, lines: list[bytes]) -> int:
    """Decode and score messages in micro-batches; return how many there were."""
    decoder = Decoder(schema)
    for start in range(0, len(lines), BATCH):
        scorer.score(decoder.decode(as_records(lines[start : start + BATCH]))[0])
    return len(lines)


def _loaded(store: SnapshotStore, scorer: Scorer) -> Scorer:
    name = store.names()[0]
    scorer.restore(store.read_arrays(name, store.read_manifest(name)))
    return scorer
