"""Pictures of the family `streams`, from the rows alone.

NAME-accuracy.png      AP and AUROC against multiply-adds, a line for each way to make a model small
NAME-roc.png           ROC and precision-recall
NAME-calibration.png   what share of the nodes with a score is spam
NAME-kept.png          which input channels survive, branch by branch
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.experiments.figures import BINS
from pipeline.experiments.run import Key
from pipeline.experiments.streams.words import OWN_DELAY, models, places
from pipeline.experiments.summary import Row, select
from pipeline.figure import COLOURS, new_figure, save

METHODS = ("lasso", "magnitude", "random")  # `first` lies so far below that all else would be one line: see the table
INK = "#1a202c"
MOST_STREAMS = 4  # of a picture
LINES = {"linewidth": 1.4, "markersize": 4, "capsize": 2}


def plots(rows: Sequence[Row], folder: Path, name: str = "streams") -> list[Path]:
    """Draw what the rows hold; a picture that would be empty is left out."""
    made = [
        (f"{name}-accuracy.png", accuracy(rows)),
        (f"{name}-roc.png", curves(rows)),
        (f"{name}-calibration.png", calibration(rows)),
        (f"{name}-kept.png", kept(rows)),
    ]
    return [save(figure, folder / file) for file, figure in made if figure is not None]


def accuracy(rows: Sequence[Row]) -> Any:
    """Each stream's place that was pruned in the most ways; the bars are a standard deviation over seeds."""
    chosen = _richest(rows)
    if not chosen:
        return None
    figure, axes = new_figure(len(chosen) + 1, 2, width=4.2, height=3.4)
    for column, place in enumerate(chosen):
        for axis, name, label in zip(axes[:, column], ("ap", "auroc"), ("average precision", "AUROC"), strict=True):
            _against_work(axis, select(models(rows), **place), name)
            axis.set_xlabel("multiply-adds a target")
            axis.set_ylabel(label)
        axes[0, column].set_title(_title(place), fontsize=10)
    told = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[0, -1].legend(told.values(), told.keys(), loc="upper left", fontsize=9, frameon=False)
    for axis in axes[:, -1]:
        axis.set_axis_off()
    return figure


def _against_work(axis: Any, rows: list[Row], figure: str) -> None:
    ways = list(_ways(rows, figure))
    for i, (label, style, colour, line) in enumerate(ways):
        apart = 1 + 0.012 * (i - len(ways) / 2)  # so that the bars of one budget stand side by side
        x, y = ([row.figures[name].mean for row in line] for name in ("multiply_adds", figure))
        sd = [row.figures[figure].sd for row in line]
        axis.errorbar(np.array(x) * apart, y, sd, fmt=style, color=colour, label=label, elinewidth=0.6, **LINES)
    axis.set_xscale("log", base=2)
    ticks = sorted({_work(row) for row in select(rows, method="unpruned") + select(rows, method="lasso")})
    shown = [x for x, after in zip(ticks, [*ticks[1:], math.inf], strict=True) if after > 1.3 * x]
    axis.set_xticks(shown, [f"{x:,.0f}" for x in shown])
    axis.minorticks_off()


def _ways(rows: list[Row], figure: str) -> Iterator[tuple[str, str, str, list[Row]]]:
    """Yield label, style, colour and the rows of a line, cheapest model first."""
    lines = [("unpruned", "*", INK, select(rows, method="unpruned"))]
    for method, colour in zip(METHODS, COLOURS, strict=False):
        for scheme, style in (("batched", "o-"), ("full", "^--")):
            lines.append(
                (f"{method}, {scheme}", style, colour, select(rows, method=method, scheme=scheme, stage="tuned"))
            )
    lines.append(("trained small", "s:", INK, select(rows, method="small")))
    for label, style, colour, line in lines:
        known = sorted((row for row in line if figure in row.figures), key=_work)
        if known:
            yield label, style, colour, known


def _work(row: Row) -> float:
    return row.figures["multiply_adds"].mean


def curves(rows: Sequence[Row]) -> Any:
    chosen = places(select(rows, curve="roc"))[:MOST_STREAMS]
    if not chosen:
        return None
    figure, axes = new_figure(len(chosen), 2, width=4.2, height=3.4)
    labels = {"roc": ("false positives", "recall"), "precision_recall": ("recall", "precision")}
    for column, place in enumerate(chosen):
        for axis, (curve, (x, y)) in zip(axes[:, column], labels.items(), strict=True):
            for colour, row in zip(COLOURS, _told(select(rows, **place, curve=curve)), strict=False):
                points = [(float(at), spread.mean) for at, spread in row.figures.items()]
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.3, label=_model(row.key))
            axis.set_xlabel(x)
            axis.set_ylabel(y)
            axis.legend(fontsize=8, frameon=False)
        axes[0, column].set_title(_title(place), fontsize=10)
    return figure


def calibration(rows: Sequence[Row]) -> Any:
    chosen = places(select(rows, curve="reliability"))[:MOST_STREAMS]
    if not chosen:
        return None
    figure, axes = new_figure(len(chosen), 1, width=4.2, height=3.8)
    for axis, place in zip(axes[0], chosen, strict=True):
        axis.plot([0, 1], [0, 1], color="#a0aec0", linewidth=1, linestyle="--", label="scores are probabilities")
        for colour, row in zip(COLOURS, _told(select(rows, **place, curve="reliability")), strict=False):
            bins = [b for b in range(BINS) if f"score_{b}" in row.figures]
            x, y = ([row.figures[f"{name}_{b}"].mean for b in bins] for name in ("score", "spam"))
            axis.errorbar(x, y, [row.figures[f"spam_{b}"].sd for b in bins], fmt="o-", color=colour,
                          label=_model(row.key), **LINES)  # fmt: skip
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("mean score of a tenth of the scale")
        axis.set_ylabel("share of spam in it")
        axis.set_title(_title(place), fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    return figure


def kept(rows: Sequence[Row]) -> Any:
    """Of the richest place: channels down, branches across, dark where all seeds kept the channel; a panel a budget."""
    found = [row for row in rows if "kept" in row.key and row.key["scheme"] == "batched"]
    place = next((p for p in _richest(rows) if select(found, **p)), None)
    found = select(found, **place) if place else []
    if not found:
        return None
    budgets = list(dict.fromkeys(row.key["budget"] for row in found))
    names = _most_kept(found)
    figure, axes = new_figure(len(budgets), 1, width=4.6, height=1.4 + 0.16 * len(names))
    for axis, budget in zip(axes[0], budgets, strict=True):
        branches = select(found, budget=budget)
        share = np.array([[row.figures[name].mean for row in branches] for name in names])
        axis.imshow(share, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(branches)), [str(row.key["kept"]) for row in branches], rotation=35, ha="right")
        axis.set_yticks(range(len(names)), names, fontsize=6.5)
        axis.set_title(f"pruned {budget:g}x", fontsize=10)
        axis.grid(False)
    figure.suptitle(f"How many seeds kept a channel: {_title(place or {})}", fontsize=10)
    return figure


def _most_kept(rows: list[Row], most: int = 60) -> list[str]:
    """The channels in the model's order, without those that are kept least often where they are too many to show."""
    names = list(rows[0].figures)
    often = {name: sum(row.figures[name].mean for row in rows) for name in names}
    shown = set(sorted(names, key=lambda name: -often[name])[:most])
    return [name for name in names if name in shown]


def _richest(rows: Sequence[Row]) -> list[Key]:
    """For each stream the place with the most models; the first of equals."""
    best: dict[str, tuple[int, Key]] = {}
    for place in places(rows):
        count, data = len(select(models(rows), **place)), str(place["data"])
        if count > best.get(data, (1, {}))[0]:
            best[data] = count, place
    return [place for _, place in best.values()][:MOST_STREAMS]


def _told(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.key.get("scheme", "batched") == "batched"]


def _model(key: Key) -> str:
    return f"pruned {key['budget']:g}x" if "budget" in key else str(key["method"])


def _title(place: Key) -> str:
    late = "" if place["delay"] == OWN_DELAY else f", labels after {place['delay']}"
    return f"{place['data']}{late}, width {place['width']}"
