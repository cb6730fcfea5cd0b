"""Tables and the picture of the experiment on whole graphs, from its JSON alone.

full, batched    F1-micro by graph, budget, method and stage; `mean` is that of the graphs' means
other            F1-macro of the fine-tuned networks, and AUROC and average precision of graphs with two classes
speed            how many times faster the pruned network ran, by graph and budget
pruning          how long the closed form and the paper's procedure took to prune
"""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.experiments.graphs.settings import ALL_METHODS, PAPER, SMALL
from pipeline.experiments.page import Results
from pipeline.experiments.summary import Row, Spread, select
from pipeline.figure import COLOURS, by_factors, new_figure, save
from pipeline.page import Table

NAMES = {
    "lasso": "LASSO, closed form",
    PAPER: "LASSO by the paper's descent",
    "random": "random",
    "first": "first",
    "magnitude": "largest weights",
    SMALL: "small, from scratch",
}
STAGES = (("refitted", "_before"), ("tuned", ""))
SMALL_KEY: dict[str, str | int | float] = {"stage": "trained"}
DEEPEST = 0.06  # below the unpruned network that a panel shows
OTHER = {"f1_macro": "F1-macro", "auroc": "AUROC", "ap": "AP"}
SPEEDS = {
    "full_speedup": "full, torch",
    "full_dgl_speedup": "full, DGL",
    "batched_speedup": "batched, two hops",
    "batched_stored_speedup": "batched, both stored",
    "batched_speedup_by_both": "batched, stored over two hops",
}


def tables(results: Results) -> list[Table]:
    schemes = [scheme for scheme in ("full", "batched") if select(results.rows, scheme=scheme)]
    return [
        *(_accuracy(results.rows, scheme, stage, scheme + name) for scheme in schemes for stage, name in STAGES),
        _other(results.rows, schemes),
        _speed(results.rows),
        _pruning(results.rows),
    ]


def _values(rows: Iterable[Row], name: str) -> list[str | int | float]:
    return list(dict.fromkeys(row.key[name] for row in rows))


def _graphs(rows: Sequence[Row]) -> list[str | int | float]:
    return _values(rows, "data")


def _accuracy(rows: Sequence[Row], scheme: str, stage: str, name: str) -> Table:
    """A line for each budget and method; a column for each graph, their mean, and what that lost to the unpruned."""
    graphs = _graphs(rows)
    base = {graph: _f1(rows, graph, method="unpruned") for graph in graphs}
    lines = [["1x", "unpruned", *_cells(list(base.values()), list(base.values()))]]
    pruned = select(rows, scheme=scheme, stage=stage)
    small = select(rows, method=SMALL) if stage == "tuned" else []
    for budget in _values(pruned, "budget"):
        for method in ALL_METHODS:
            found = select([*pruned, *small], method=method, budget=budget)
            if found:
                spreads = [_f1(found, graph) for graph in graphs]
                lines.append([f"{budget:g}x", NAMES[method], *_cells(spreads, list(base.values()))])
    return Table(name, ["budget", "channels by", *map(str, graphs), "mean", "lost"], lines)


def _other(rows: Sequence[Row], schemes: Sequence[str]) -> Table:
    """A line for each scheme, budget and method; of each graph the figures that it has."""
    columns = [
        (graph, name)
        for name in OTHER
        for graph in _graphs(rows)
        if _figure(select(rows, data=graph, method="unpruned"), name)
    ]

    def cells(found: Sequence[Row]) -> list[str]:
        return [_text(_figure(select(found, data=graph), name)) for graph, name in columns]

    lines = [["any", "1x", "unpruned", *cells(select(rows, method="unpruned"))]]
    small = select(rows, method=SMALL)
    tuned = select(rows, stage="tuned")
    for scheme, budget, method in product(("any", *schemes), _values([*small, *tuned], "budget"), ALL_METHODS):
        if found := select([*small, *tuned], scheme=scheme, budget=budget, method=method):
            lines.append([scheme, f"{budget:g}x", NAMES[method], *cells(found)])
    return Table("other", ["scheme", "budget", "channels by", *(f"{g}, {OTHER[n]}" for g, n in columns)], lines)


def _f1(rows: Sequence[Row], graph: str | int | float, **wanted: str | int | float) -> Spread | None:
    return _figure(select(rows, data=graph, **wanted), "f1_micro")


def _cells(spreads: Sequence[Spread | None], base: Sequence[Spread | None]) -> list[str]:
    """Cells of a line; the mean is told where every graph has one."""
    known = [spread.mean for spread in spreads if spread is not None]
    unpruned = [spread.mean for spread in base if spread is not None]
    whole = len(known) == len(spreads) == len(unpruned)
    last = [f"{fmean(known):.4f}", f"{fmean(unpruned) - fmean(known):+.4f}"] if whole else ["–", "–"]
    return [*map(_text, spreads), *last]


def _figure(rows: Sequence[Row], name: str) -> Spread | None:
    return rows[0].figures.get(name) if rows else None


def _text(spread: Spread | None, digits: int = 3) -> str:
    return "–" if spread is None else spread.text(digits)


def _speed(rows: Sequence[Row]) -> Table:
    graphs, lines = _graphs(rows), []
    for name, words in SPEEDS.items():
        timed = [row for row in rows if name in row.figures]
        for budget in _values(timed, "budget"):
            spreads = [_figure(select(timed, data=graph, budget=budget), name) for graph in graphs]
            known = [spread.mean for spread in spreads if spread is not None]
            mean = [f"{fmean(known):.2f}"] if known else ["–"]
            lines.append([words, f"{budget:g}x", *(_text(spread, 2) for spread in spreads), *mean])
    return Table("speed", ["inference", "budget", *map(str, graphs), "mean"], lines)


def _pruning(rows: Sequence[Row]) -> Table:
    """Seconds of ranking and refitting, without fine-tuning."""
    graphs, lines = _graphs(rows), []
    timed = select(rows, stage="refitted")
    for scheme in _values(timed, "scheme"):
        for budget in _values(timed, "budget"):
            found = select(timed, scheme=scheme, budget=budget)
            pairs = [
                [_figure(select(found, data=graph, method=method), "pruning_seconds") for method in ("lasso", PAPER)]
                for graph in graphs
            ]
            lines.append([f"{scheme}", f"{budget:g}x", *(_pair(*pair) for pair in pairs)])
    return Table("pruning", ["scheme", "budget", *map(str, graphs)], lines)


def _pair(ours: Spread | None, paper: Spread | None) -> str:
    if ours is None or paper is None:
        return _text(ours or paper, 2)
    return f"{ours.mean:.2f} s, {paper.mean:.1f} s: {paper.mean / ours.mean:.0f}x"


def plots(results: Results, folder: Path) -> list[Path]:
    """Draw accuracy against multiply-adds, a column for each graph and a line of panels for each scheme.

    With two classes average precision is drawn: where spam is rare, F1-micro is the share of what is none.
    """
    graphs = _graphs(results.rows)
    schemes = [scheme for scheme in ("full", "batched") if select(results.rows, scheme=scheme)]
    if not schemes:
        return []
    figure, axes = new_figure(len(graphs), len(schemes), width=3.9, height=3.1)
    for line, scheme in zip(axes, schemes, strict=True):
        for axis, graph in zip(line, graphs, strict=True):
            _panel(axis, select(results.rows, data=graph), scheme)
            axis.set_title(f"{graph}, {scheme}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("multiply-adds a node")
    axes[0][0].legend(loc="lower right", fontsize=7)
    return [save(figure, folder / f"{results.name}-accuracy.png")]


def _panel(axis: Any, rows: Sequence[Row], scheme: str) -> None:
    """Draw every method's fine-tuned networks; what falls far below the unpruned one leaves the panel downwards."""
    (unpruned,) = select(rows, method="unpruned")
    name = "ap" if "ap" in unpruned.figures else "f1_micro"
    axis.set_ylabel("average precision" if name == "ap" else "F1-micro", fontsize=9)
    base = unpruned.figures[name]
    axis.axhline(base.mean, color="black", linewidth=0.8, linestyle=":", label="unpruned")
    lowest = base.mean
    for method, colour in zip(ALL_METHODS, COLOURS, strict=False):
        drawn = select(rows, method=method, **(SMALL_KEY if method == SMALL else {"scheme": scheme, "stage": "tuned"}))
        if not drawn:
            continue
        x = [row.figures["multiply_adds"].mean for row in drawn]
        y = [row.figures[name] for row in drawn]
        lowest = min([lowest, *(spread.mean - spread.sd for spread in y)])
        style = {"marker": "o", "markersize": 3, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.8}
        means, deviations = [spread.mean for spread in y], [spread.sd for spread in y]
        axis.errorbar(x, means, yerr=deviations, color=colour, label=NAMES[method], **style)
    by_factors(axis)
    axis.set_ylim(bottom=max(lowest - 0.002, base.mean - DEEPEST))
