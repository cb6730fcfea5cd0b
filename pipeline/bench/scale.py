"""`graphsieve bench scale`: time a target and bytes a node, from ten thousand nodes to as many as are asked for.

A process of its own scores the synthetic stream, whose nodes stay. At each size the last micro-batches are timed, and
its memory is what the system tells of it, from outside; what it took before the first event is subtracted. A bucket of
a Python dict or a growing array doubles now and then: at some sizes there is more room than nodes.
"""

import argparse
import multiprocessing
import os
import time
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.decoder import Decoder
from pipeline.errors import DataError
from pipeline.experiments.recordings import as_records
from pipeline.figure import by_factors, new_figure, save
from pipeline.page import Table
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

NODES = 3_000_000
SMALLEST = 10_000
TIMED = 40  # micro-batches at each size

Step = dict[str, Any]


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    sizes = _sizes(args.events or NODES)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_grow, args=(there, sizes), daemon=True)
    process.start()
    there.close()
    steps: list[Step] = []
    empty = _step(here, process.pid)["bytes"]
    for _ in sizes:
        step = _step(here, process.pid)
        step["bytes_a_node"] = round((step.pop("bytes") - empty) / step["nodes"])
        steps.append(step)
    process.join()
    if args.plot:
        _plot(steps, args.plot)
    return {
        "repeats": 1,
        "widths": WIDTHS,
        **around,
        "ours": {"steps": steps},
        "peers": {"ours, the smallest": {"us_a_target": steps[0]["us_a_target"]}},
        "ratio": {"ours, the smallest": round(steps[0]["us_a_target"] / steps[-1]["us_a_target"], 2)},
    }


def tables(report: Report) -> list[Table]:
    cells = [
        [f"{s['nodes']:,}", f"{s['lists']:,}", f"{s['us_a_target']:.1f}", f"{s['bytes_a_node']:,}"]
        for s in report["ours"]["steps"]
    ]
    return [Table("steps", ["nodes", "lists", "microseconds a target", "bytes a node, all told"], cells)]


def _sizes(most: int) -> list[int]:
    if most <= SMALLEST:
        raise DataError(f"--events {most}: the bench begins at {SMALLEST:,} nodes; give more")
    powers = [SMALLEST]
    while powers[-1] * 10 < most:
        powers.append(powers[-1] * 10)
    return [*powers, most]


def _step(here: Connection, pid: int | None) -> Step:
    """Return what the process tells, with its memory as of then; let it go on."""
    step: Step = here.recv()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    here.send(None)
    return step | {"bytes": pages * os.sysconf("SC_PAGESIZE")}


# ---- the process ----


def _grow(there: Connection, sizes: list[int]) -> None:
    schema = synthetic_schema(lasting=True)
    inputs, hidden, outputs = WIDTHS.values()
    scorer, decoder, stream = Scorer(some_model(schema, outputs, inputs, hidden)), Decoder(schema), synthetic_events(0)
    _tell(there, {})
    taken: list[float] = []
    for size in sizes:
        while scorer.graph.row_count < size:
            lines = islice(stream, BATCH)
            events, _ = decoder.decode(as_records(lines))
            began = time.perf_counter()
            targets = len(scorer.score(events).score)
            taken.append((time.perf_counter() - began) / max(targets, 1))
        us = round(float(np.median(taken[-TIMED:])) * 1e6, 2)
        _tell(there, {"nodes": scorer.graph.row_count, "lists": scorer.graph.list_count, "us_a_target": us})


def _tell(there: Connection, step: Step) -> None:
    there.send(step)
    there.recv()


def _plot(steps: list[Step], path: Path) -> None:
    figure, axes = new_figure(columns=2)
    nodes = [step["nodes"] for step in steps]
    for axis, name, words in zip(
        axes.flat, ("us_a_target", "bytes_a_node"), ("microseconds a target", "bytes a node"), strict=True
    ):
        axis.plot(nodes, [step[name] for step in steps], "o-")
        by_factors(axis)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("nodes")
        axis.set_ylabel(words)
    save(figure, path)
