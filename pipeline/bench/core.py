"""`graphsieve bench core`: targets/s of the stages A to D, and of all else that gives the same scores.

    ours             from decoded events to scores, labels and all
    ours, given      the same without what peers are given as well: the input channels, and who stands in which list
    ours, unpruned   all channels, 128 a branch; likewise with and without what is given

Events are decoded beforehand and nothing is read or committed: what is timed is `Scorer.score`, the code that serves,
on a state that holds the first part of the stream. The rest is cut into slices, and each slice into micro-batches of
one size; ours and the peers (`core_peers`) score a slice in turn, and the sizes take turns from slice to slice, so
that whatever else the machine does meets them all alike. Before a slice each scores its lead, untimed: else the time is
also that of fetching what another one drove out of the processor's caches, which hits the fastest hardest. Labels are
among our events, as they are in a stream.

The events are the first reviews of Chicago where the data is there, else a synthetic stream; weights are drawn by lot,
for no speed depends on them. Outputs are compared before anything is timed; a difference above 1e-4 ends the bench.
Figures are medians over the slices, with their quartiles; ratios count, absolute times depend on the machine. Of ours
to ours, unpruned, at 512 events, they are medians of single slices' ratios, which the machine's pace does not move.
"""

import argparse
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from consumers.service import tune_python
from pipeline.bench.core_given import Given
from pipeline.bench.core_peers import FAN_OUT, MessagePassing, TorchCached, Trees, one_thread
from pipeline.bench.embedded import stream
from pipeline.bench.explicit_lists import explicit_lists
from pipeline.bench.models import WIDTHS, random_model
from pipeline.bench.surroundings import Report, surroundings
from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.events import EventBatch
from pipeline.experiments.recordings import as_records
from pipeline.figure import COLOURS, new_figure, save
from pipeline.history import Floats, History
from pipeline.model import Model
from pipeline.page import Table
from pipeline.schema import Schema
from pipeline.scorer import Scorer
from pipeline.transform import Transform, fit_transform

EVENTS = 40_000  # half of them reviews; lists are as long as a peer's memory allows
WARM = 0.6  # of the events are in the state before anything is timed
SLICE, LEAD = 2048, 512  # events that are timed together, and those before them that are not
SIZES = (1, 8, 32, 128, 512, 2048)  # events a micro-batch
TOLD = 512  # the size that ratios take of ours
GIVEN, UNPRUNED, UNPRUNED_GIVEN = "ours, given", "ours, unpruned", "ours, unpruned, given"
ENGINES = ("ours", GIVEN, UNPRUNED, UNPRUNED_GIVEN)
# The smallest batch that is told of: DGL's take long, and of few events ours is one call, which cannot be parted.
LEAST = dict.fromkeys((*ENGINES, "torch, cached", "boosted trees"), 1)
LEAST |= {GIVEN: 128, UNPRUNED_GIVEN: 128, "DGL, 32 and 32": 128, "DGL, all": SIZES[-1]}
ALIKE = 1e-4
UNPRUNED_WIDTH = 128  # channels a branch of both layers, over all input channels

Engine = TypeVar("Engine", Scorer, Given)


class Cut(NamedTuple):
    """Some of the events, for all contenders."""

    batches: list[EventBatch]
    stretches: list[slice]  # the entries that are their targets, none empty
    targets: int  # of all


class Stream(NamedTuple):
    schema: Schema
    events: EventBatch
    history: History
    transform: Transform
    entries: npt.NDArray[np.int64]  # (n + 1,) of the stream, before each event
    warm: int  # the first event that is timed

    @property
    def slices(self) -> range:
        """The first event of each slice's lead."""
        return range(self.warm, len(self.events) - LEAD - SLICE + 1, LEAD + SLICE)

    @property
    def first(self) -> int:
        """The entry of the first event that is timed."""
        return int(self.entries[self.warm])

    def cut(self, start: int, count: int, size: int) -> Cut:
        """Return the `count` events from `start` on, in micro-batches of `size`."""
        ends = [*range(start, start + count, size), start + count]
        batches = [self.events.part(a, b) for a, b in pairwise(ends)]
        entries = self.entries[ends].tolist()
        return Cut(batches, [slice(a, b) for a, b in pairwise(entries) if a < b], entries[-1] - entries[0])


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    one_thread()
    tune_python()  # as consumers do
    name, made = _stream(args.events)
    inputs, hidden, outputs = WIDTHS.values()
    model = random_model(made.schema, made.transform, outputs, inputs, hidden)
    unpruned = random_model(made.schema, made.transform, UNPRUNED_WIDTH)
    x, means = made.history.inputs(model.transform, model.input_keep)
    h, _ = made.history.hidden(model.layers[0], x, means)
    lists = explicit_lists(made.history)
    peers: dict[str, Callable[[slice], Floats]] = {
        "torch, cached": TorchCached(model, x, h, lists).scores,
        "boosted trees": Trees(x, means, made.first).scores,
    }
    try:
        peers |= {
            "DGL, 32 and 32": MessagePassing(model, x, lists, fan_out=FAN_OUT).scores,
            "DGL, all": MessagePassing(model, x, lists).scores,
        }
    except ConfigError as error:
        print(error)
    _compare(made, model, x, {who: peers[who] for who in ("torch, cached", "DGL, all") if who in peers})
    speeds = _measure(made, model, unpruned, x, peers, args.repeats)
    if args.plot:
        _plot(speeds, args.plot)
    about = {
        "data": name,
        "events": len(made.events),
        "slices": len(made.slices) * args.repeats,
        "members_a_list": round(float(np.mean([len(one.source) / (len(one.start) - 1) for one in lists])), 1),
    }
    return about | around | _report(speeds)


def _stream(count: int | None) -> tuple[str, Stream]:
    name, schema, lines = stream(count)
    least = math.ceil((LEAD + SLICE) * len(SIZES) / (1 - WARM))
    if count is not None and count < least:
        raise ConfigError(f"--events {count}: the bench needs at least {least:,}, a slice for each size of a batch")
    records = as_records(lines[: count or EVENTS])
    events, _ = Decoder(schema).decode(records)
    history = History(schema, records)
    warm = int(len(events) * WARM)
    entries = np.cumsum(np.append(0, events.target))
    if entries[-1] != history.entries:
        raise ConfigError("the bench counts on a stream in which every node is scored once")
    transform = fit_transform("quantile", history.raw_until(int(entries[warm])), schema.indicators)
    return name, Stream(schema, events, history, transform, entries, warm)


# ---- outputs are equal ----


def _compare(made: Stream, model: Model, x: Floats, peers: dict[str, Callable[[slice], Floats]]) -> None:
    """RuntimeError where a peer's scores are not ours."""
    scorer, events = _warm(made, Scorer(model)), made.events.part(made.warm, made.warm + SLICE)
    ours = scorer.score(events).score
    targets = slice(made.first, made.first + len(ours))
    found = {who: scores(targets) for who, scores in peers.items()}
    found[GIVEN] = _warm(made, Given(model, x)).score(events)
    for who, scores in found.items():
        apart = float(np.abs(scores - ours).max())
        if apart > ALIKE:
            raise RuntimeError(f"{who} differs from ours by {apart:g}: it computes something else")


def _warm(made: Stream, engine: Engine) -> Engine:
    """Give it what is in the state before anything is timed; return it."""
    for start in range(0, made.warm, SLICE):
        engine.score(made.events.part(start, min(start + SLICE, made.warm)))
    return engine


# ---- speed ----

Speeds = dict[str, dict[int, list[float]]]  # who -> events a micro-batch -> targets/s, a slice each
Contender = Callable[[Cut], float]  # -> seconds


def _measure(
    made: Stream, model: Model, unpruned: Model, x: Floats, peers: dict[str, Callable[[slice], Floats]], repeats: int
) -> Speeds:
    speeds: Speeds = {}
    for repeat in tqdm(range(repeats), unit="repeat", disable=None):
        contenders = _engines(made, model, unpruned, x) | {who: _of_stretches(peers[who]) for who in peers}
        for number, start in enumerate(made.slices):
            size = SIZES[(number + repeat) % len(SIZES)]
            lead, timed = made.cut(start, LEAD, LEAD), made.cut(start + LEAD, SLICE, size)
            for who, seconds in contenders.items():
                if who in ENGINES or size >= LEAST[who]:
                    seconds(lead)
                    speeds.setdefault(who, {}).setdefault(size, []).append(timed.targets / seconds(timed))
    return {who: {size: by_size[size] for size in SIZES if size >= LEAST[who]} for who, by_size in speeds.items()}


def _engines(made: Stream, model: Model, unpruned: Model, x: Floats) -> dict[str, Contender]:
    """Return ours, which need all events before those that are timed."""
    ours, other = _warm(made, Scorer(model)), _warm(made, Scorer(unpruned))
    given = _warm(made, Given(model, x))
    all_inputs, _ = made.history.inputs(unpruned.transform, unpruned.input_keep)
    other_given = _warm(made, Given(unpruned, all_inputs))
    return {
        "ours": lambda cut: _seconds(ours.score, cut.batches),
        GIVEN: lambda cut: _seconds_given(given, cut.batches),
        UNPRUNED: lambda cut: _seconds(other.score, cut.batches),
        UNPRUNED_GIVEN: lambda cut: _seconds_given(other_given, cut.batches),
    }


def _seconds_given(given: Given, batches: list[EventBatch]) -> float:
    before = given.seconds
    for batch in batches:
        given.score(batch)
    return given.seconds - before


def _of_stretches(scores: Callable[[slice], Floats]) -> Contender:
    return lambda cut: _seconds(scores, cut.stretches)


def _seconds(score: Callable[[Any], Any], batches: list[Any]) -> float:
    began = time.perf_counter()
    for batch in batches:
        score(batch)
    return time.perf_counter() - began


def _spread(speeds: list[float]) -> dict[str, int]:
    low, middle, high = quantiles(speeds, n=4) if len(speeds) > 1 else speeds * 3
    return {"median": round(middle), "low": round(low), "high": round(high), "slices": len(speeds)}


# ---- what is told ----


def _report(speeds: Speeds) -> Report:
    figures = {who: {str(size): _spread(found) for size, found in by_size.items()} for who, by_size in speeds.items()}
    ours, given = figures.pop("ours"), figures.pop(GIVEN)
    best = {who: _best(by_size) for who, by_size in figures.items() if who not in ENGINES}
    ratio = {who: _in_pairs(speeds["ours"], speeds[who]) for who in (UNPRUNED, UNPRUNED_GIVEN)}
    ratio |= {who: round(ours[str(TOLD)]["median"] / found, 2) for who, found in best.items()}
    of_given = {who: round(_best(given) / found, 2) for who, found in best.items()}
    return {
        "widths": WIDTHS,
        "threads": 1,
        "ours": {"targets_per_s": ours},
        "given": {"targets_per_s": given},
        "peers": {who: {"targets_per_s": by_size} for who, by_size in figures.items()},
        "ratio": ratio,
        "ratio_of_given": {UNPRUNED_GIVEN: _in_pairs(speeds[GIVEN], speeds[UNPRUNED_GIVEN])} | of_given,
    }


def _best(by_size: dict[str, dict[str, int]]) -> int:
    return max(found["median"] for found in by_size.values())


def _in_pairs(ours: dict[int, list[float]], other: dict[int, list[float]]) -> float:
    return round(median(a / b for a, b in zip(ours[TOLD], other[TOLD], strict=True)), 2)


def tables(report: Report) -> list[Table]:
    """Targets/s by the size of a micro-batch; over a peer's best: ours at 512 events, and ours, given, at its best."""
    rows = {"ours": report["ours"], "ours, given": report["given"], **report["peers"]}
    ratios = report["ratio"], report["ratio_of_given"]
    cells = [
        [who, *_cells(row["targets_per_s"]), *(f"{ratio[who]:.2f}" if who in ratio else "" for ratio in ratios)]
        for who, row in rows.items()
    ]
    return [Table("targets", ["targets/s, events a batch", *map(str, SIZES), "ours over it", "given, over it"], cells)]


def _cells(by_size: dict[str, dict[str, int]]) -> list[str]:
    return [f"{by_size[str(size)]['median']:,}" if str(size) in by_size else "" for size in SIZES]


def _plot(speeds: Speeds, path: Path) -> None:
    """Draw targets/s by the size of a micro-batch, with quartiles."""
    figure, axes = new_figure(width=7.0, height=4.4)
    (axis,) = axes.flat
    for (who, by_size), colour in zip(speeds.items(), COLOURS, strict=False):
        sizes = sorted(by_size)
        spreads = [_spread(by_size[size]) for size in sizes]
        axis.plot(sizes, [s["median"] for s in spreads], "o-", color=colour, label=who, markersize=4)
        axis.fill_between(sizes, [s["low"] for s in spreads], [s["high"] for s in spreads], color=colour, alpha=0.15)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(SIZES, [str(size) for size in SIZES])
    axis.set_xlabel("events a micro-batch")
    axis.set_ylabel("targets/s, one thread")
    axis.legend(fontsize=8)
    save(figure, path)
