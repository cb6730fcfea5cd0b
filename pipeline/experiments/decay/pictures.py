"""Quality by calendar quarter as a picture, from the rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.experiments.decay.words import ALL, Pair, pairs, streams
from pipeline.experiments.summary import Row
from pipeline.figure import COLOURS, new_figure, save

LEAST_SPAM = 20  # a quarter with less says nothing


def plots(rows: Sequence[Row], folder: Path, name: str = "decay") -> list[Path]:
    """Draw AUROC and AP by quarter, a column a stream; nothing where no quarter has enough spam."""
    shown = {data: [pair for pair in pairs(rows, data) if _tells(pair)] for data in streams(rows)}
    shown = {data: found for data, found in shown.items() if found}
    if not shown:
        return []
    figure, axes = new_figure(len(shown), 2, width=5.2, height=3.2)
    for column, (data, found) in enumerate(shown.items()):
        for axis, metric, label in zip(axes[:, column], ("auroc", "ap"), ("AUROC", "average precision"), strict=True):
            _by_quarter(axis, found, metric)
            axis.set_ylabel(label)
        axes[0, column].set_title(f"{data}: quality by calendar quarter", fontsize=10)
        axes[0, column].legend(fontsize=8, frameon=False)
    return [save(figure, folder / f"{name}.png")]


def _tells(pair: Pair) -> bool:
    return pair.quarter != ALL and pair.never.figures["spam"].mean >= LEAST_SPAM and "ap" in pair.never.figures


def _by_quarter(axis: Any, found: list[Pair], metric: str) -> None:
    lines = {
        "trained once": [pair.never for pair in found],
        f"retrained every {found[0].again.key['policy']}": [pair.again for pair in found],
    }
    places = np.arange(len(found))
    for (label, rows), colour in zip(lines.items(), COLOURS, strict=False):
        mean, sd = (np.array([getattr(row.figures[metric], name) for row in rows]) for name in ("mean", "sd"))
        axis.plot(places, mean, "o-", color=colour, linewidth=1.4, markersize=4, label=label)
        axis.fill_between(places, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    axis.set_xticks(places, [pair.quarter for pair in found], rotation=45, ha="right", fontsize=8)
