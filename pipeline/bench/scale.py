"""`graphsieve bench scale`: time a target and bytes a node, from ten thousand nodes to as many as are asked for.

A process of its own scores the synthetic stream, whose nodes stay. At each size the last micro-batches are timed, and
its memory is what the system tells of it, from outside; what it took before the first event is subtracted.

Nothing that a target asks for is more work in a larger graph, but what it reads lies farther apart. So each size is
also asked for new nodes of FEW users, whose lists stay in the processor's cache, and for as many whose users, products
and devices are those of reviews drawn from the whole past: what these take longer is the way to memory.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.bench.watched import Step, Tell, steps_of
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
PAST = 12 * BATCH  # reviews that are drawn from all that came
DRAWN = 4  # of a micro-batch are candidates for it
FEW = 16
EMBEDDING = [0.1 * c for c in range(8)]
MICROSECONDS = ("us_a_target", "us_in_few_lists", "us_in_any_lists")


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    sizes = _sizes(args.events or NODES)
    (_, empty), *told = steps_of(_grow, sizes)
    sizes_told, touched = told[::2], told[1::2]
    steps = [
        size | lists | {"bytes_a_node": round((resident - empty) / size["nodes"])}
        for (size, resident), (lists, _) in zip(sizes_told, touched, strict=True)
    ]
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
        [f"{s['nodes']:,}", f"{s['lists']:,}", *(f"{s[us]:.1f}" for us in MICROSECONDS), f"{s['bytes_a_node']:,}"]
        for s in report["ours"]["steps"]
    ]
    header = ["nodes", "lists", "microseconds a target", "in few lists", "in any lists", "bytes a node, all told"]
    return [Table("steps", header, cells)]


def _sizes(most: int) -> list[int]:
    if most <= SMALLEST:
        raise DataError(f"--events {most}: the bench begins at {SMALLEST:,} nodes; give more")
    powers = [SMALLEST]
    while powers[-1] * 10 < most:
        powers.append(powers[-1] * 10)
    return sorted({size for power in powers for size in (power, 3 * power) if size < most} | {most})


# ---- the process ----


def _grow(tell: Tell, sizes: list[int]) -> None:
    schema = synthetic_schema(lasting=True)
    inputs, hidden, outputs = WIDTHS.values()
    scorer, decoder, stream = Scorer(some_model(schema, outputs, inputs, hidden)), Decoder(schema), synthetic_events(0)
    past = _Past()
    tell({})
    taken: list[float] = []

    def seconds_a_target(lines: list[bytes]) -> float:
        events, _ = decoder.decode(as_records(lines))
        began = time.perf_counter()
        targets = len(scorer.score(events).score)
        return (time.perf_counter() - began) / max(targets, 1)

    for size in sizes:
        while scorer.graph.row_count < size:
            lines = list(islice(stream, BATCH))
            past.note(lines)
            taken.append(seconds_a_target(lines))
        counts = {"nodes": scorer.graph.row_count, "lists": scorer.graph.list_count}
        tell(counts | {"us_a_target": _micros(taken[-TIMED:])})
        pairs = zip(past.new_reviews(FEW), past.new_reviews(PAST), strict=True)  # in turn: others' load meets both
        few_lists, any_lists = zip(*[tuple(map(seconds_a_target, pair)) for pair in pairs], strict=True)
        tell({"us_in_few_lists": _micros(few_lists), "us_in_any_lists": _micros(any_lists)})


class _Past:
    """Reviews drawn from all that came, each equally likely; as numbers, which take no memory that grows."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._drawn = np.zeros((PAST, 3), np.int64)  # user, product, device
        self._seen = self._made = 0
        self._ts = 0.0

    def note(self, lines: list[bytes]) -> None:
        for line in lines[:: max(1, len(lines) // DRAWN)]:
            event = msgspec.json.decode(line)
            self._ts = event.get("ts", self._ts)
            if "device" not in event:
                continue
            place = self._seen if self._seen < PAST else int(self._rng.integers(self._seen + 1))
            self._seen += 1
            if place < PAST:
                self._drawn[place] = [int(event[name][1:]) for name in ("user", "product", "device")]

    def new_reviews(self, few: int) -> Iterator[list[bytes]]:
        """Yield micro-batches of new reviews that fall where `few` of the drawn ones did."""
        drawn = self._drawn[: min(self._seen, few)]
        for _ in range(PAST // BATCH):
            lines = []
            for user, product, device in drawn[self._rng.integers(len(drawn), size=BATCH)].tolist():
                self._made += 1
                event = {"type": "node", "id": f"again{self._made}", "ts": self._ts, "user": f"u{user}"}
                event |= {"product": f"p{product}", "device": f"d{device}", "stars": 5, "text_length": 100}
                lines.append(msgspec.json.encode(event | {"embedding": EMBEDDING}))
            yield lines


def _micros(seconds: Sequence[float]) -> float:
    return round(float(np.median(seconds)) * 1e6, 2)


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
