"""Baselines on just the information that our model has, in time order; a row a method.

All methods see the same samples, cut at the same times, with labels as late. A seed shuffles the reviews of a day and
starts the model.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.experiments.baselines.methods import METHODS, Trial, information, scores_of
from pipeline.experiments.figures import stream_figures
from pipeline.experiments.page import Results
from pipeline.experiments.run import Job, Key, Record
from pipeline.experiments.summary import Row, select
from pipeline.figure import COLOURS, new_figure, save
from pipeline.page import Table

Floats = npt.NDArray[np.float32]
FIGURES = {
    "auroc": "AUROC", "ap": "AP", "precision_top1": "P@1 %", "precision_top5": "P@5 %",
    "recall_at_fpr1": "recall at 1 % FP", "brier": "Brier",
    "auroc_unseen": "AUROC, new nodes", "ap_unseen": "AP, new nodes",
}  # fmt: skip


class Run(msgspec.Struct, forbid_unknown_fields=True):
    """Methods on a data set, each for the seeds 0 to seeds - 1."""

    data: str
    seeds: int
    methods: list[str]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    runs: list[Run]
    label_delay: str = "30d"
    neighbours: int = 32  # of the explicit graph, a relation


def jobs(settings: Settings) -> list[Job]:
    """Return a job for each method, data set and seed; those on one replay follow one another."""
    for run in settings.runs:
        for method in run.methods:
            if method not in METHODS:
                raise ConfigError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    return [
        _job(Trial(run.data, settings.label_delay, settings.neighbours, seed), method)
        for run in settings.runs
        for seed in range(run.seeds)
        for method in run.methods
    ]


def _job(trial: Trial, method: str) -> Job:
    return Job({"method": method} | msgspec.to_builtins(trial), lambda: [_record(trial, method)])


def _record(trial: Trial, method: str) -> Record:
    info = information(trial)
    validation = info.split.validation.stop - info.split.validation.start
    figures = _figures(info.truth[info.split.test], scores_of(trial, method)[validation:], info.unseen())
    key: Key = {"data": trial.data, "method": method, "delay": trial.label_delay, "seed": trial.seed}
    return Record(key, figures)


def _figures(truth: npt.NDArray[np.int8], scores: Floats, unseen: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the figures of the test part; where nodes are scored again and again, also of those new to it."""
    figures: dict[str, float | None] = dict(stream_figures(truth, scores))
    if not unseen.all():
        of_new = stream_figures(truth[unseen], scores[unseen])
        figures |= {f"{name}_unseen": of_new[name] for name in ("auroc", "ap")}
    return figures


# ---- what a reader sees ----


def tables(results: Results) -> list[Table]:
    """Return a table a data set: methods down, figures across; whoever has the best mean is bold, trees too."""
    return [_table(name, rows) for name, rows in _by_data(results).items()]


def _by_data(results: Results) -> dict[str, list[Row]]:
    """Return each data set's rows, in the order of `METHODS`."""
    place = {method: i for i, method in enumerate(METHODS)}
    names = dict.fromkeys(str(row.key["data"]) for row in results.rows)
    return {name: sorted(select(results.rows, data=name), key=lambda row: place[_method(row)]) for name in names}


def _method(row: Row) -> str:
    return str(row.key["method"])


def _table(name: str, rows: list[Row]) -> Table:
    figures = [figure for figure in FIGURES if any(figure in row.figures for row in rows)]
    header = ["method", "seeds", *(FIGURES[figure] for figure in figures)]
    best = {figure: _best(figure, rows) for figure in figures}
    return Table(name, header, [_cells(row, best) for row in rows])


def _best(figure: str, rows: list[Row]) -> float:
    """Return the best mean of a column: the highest, but for the Brier score."""
    choose = min if figure == "brier" else max
    return choose(row.figures[figure].mean for row in rows if figure in row.figures)


def _cells(row: Row, best: dict[str, float]) -> list[str]:
    seeds = max(spread.n for spread in row.figures.values())
    return [_method(row), str(seeds), *(_cell(row, figure, value) for figure, value in best.items())]


def _cell(row: Row, figure: str, best: float) -> str:
    spread = row.figures.get(figure)
    if spread is None:
        return ""
    return f"**{spread.text()}**" if spread.mean == best else spread.text()


def plots(results: Results, folder: Path) -> list[Path]:
    """Draw AUROC and AP of every method, a row of axes a data set; bars are a standard deviation."""
    found = _by_data(results)
    figure, axes = new_figure(columns=2, rows=len(found), width=5.2, height=3.9)
    for (left, right), (name, rows) in zip(axes, found.items(), strict=True):
        _draw(left, f"{name}: AUROC", rows, "auroc")
        _draw(right, f"{name}: AP", rows, "ap")
        right.set_yticklabels([])
    return [save(figure, folder / f"{results.name}.png")]


def _draw(axis: Any, title: str, rows: list[Row], wanted: str) -> None:
    for y, row in enumerate(rows):
        spread, colour = row.figures[wanted], COLOURS[1] if _method(row).startswith("ours") else COLOURS[0]
        axis.errorbar(spread.mean, y, xerr=spread.sd, fmt="o", color=colour, capsize=3)
    axis.set_yticks(range(len(rows)), [_method(row) for row in rows])
    axis.locator_params(axis="x", nbins=6)
    axis.invert_yaxis()
    axis.set_title(title)
