"""Baselines on just the information that our model has, in time order; a row a method.

All methods see the same samples, cut at the same times, with labels as late. What is chosen is chosen on validation, for
the first seed, and kept for the others. A seed shuffles the reviews of a day and starts the model.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.experiments.baselines import mlp, ours, sage, trees
from pipeline.experiments.baselines.information import Information, inform
from pipeline.experiments.figures import stream_figures
from pipeline.experiments.page import Results, Table
from pipeline.experiments.recordings import open_recording
from pipeline.experiments.run import Job, Key, Record
from pipeline.experiments.summary import Row, select
from pipeline.figure import COLOURS, new_figure, save
from pipeline.train import TrainOptions

Floats = npt.NDArray[np.float32]
NEVER = "29000d"  # labels after the end of every stream: nobody's input, and the samples are the same
MEMBERS = 5  # boosted models averaged into one, as our model may be several folded into one
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


class Trial(msgspec.Struct, frozen=True):
    """All that a method's scores depend on, besides the code."""

    data: str
    label_delay: str
    neighbours: int
    seed: int

    @property
    def first(self) -> "Trial":
        """The trial on which settings are chosen for all seeds."""
        return msgspec.structs.replace(self, seed=0)


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
    info = _information(trial)
    validation = info.split.validation.stop - info.split.validation.start
    figures = _figures(info.truth[info.split.test], _scores(trial, method)[validation:], info.unseen())
    key: Key = {"data": trial.data, "method": method, "delay": trial.label_delay, "seed": trial.seed}
    return Record(key, figures)


def _figures(truth: npt.NDArray[np.int8], scores: Floats, unseen: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the figures of the test part; where nodes are scored again and again, also of those new to it."""
    figures: dict[str, float | None] = dict(stream_figures(truth, scores))
    if not unseen.all():
        of_new = stream_figures(truth[unseen], scores[unseen])
        figures |= {f"{name}_unseen": of_new[name] for name in ("auroc", "ap")}
    return figures


# ---- what several jobs need, made once ----


@lru_cache(maxsize=1)
def _information(trial: Trial) -> Information:
    options = TrainOptions()
    recording = open_recording(trial.data, trial.label_delay, trial.seed)
    return inform(recording, options.shares, options.transform)


@lru_cache(maxsize=2 * len(METHODS))
def _scores(trial: Trial, method: str) -> Floats:
    return METHODS[method](trial)


@lru_cache(maxsize=16)
def _tree_options(first: Trial) -> dict[str, float]:
    info = _information(first)
    return trees.choose_trees(info, info.of_channels("all"))


@lru_cache(maxsize=16)
def _mlp_options(first: Trial) -> dict[str, float]:
    info = _information(first)
    return mlp.choose_mlp(info, info.of_channels("one step"))


# ---- the methods: trial -> scores of the later samples ----


def _trees(reads: str) -> Callable[[Trial], Floats]:
    def scores(trial: Trial) -> Floats:
        info = _information(trial)
        return trees.fit_trees(info, info.of_channels(reads), _tree_options(trial.first), trial.seed)

    return scores


def _averaged_trees(trial: Trial) -> Floats:
    """Average trees that differ by the columns that their splits may choose from: else all would be the same."""
    info, options = _information(trial), _tree_options(trial.first) | {"columns": min(trees.TREE_GRID["columns"])}
    x = info.of_channels("one step")
    members = [trees.fit_trees(info, x, options, MEMBERS * trial.seed + m) for m in range(MEMBERS)]
    return _averaged(members)


def _logistic(trial: Trial) -> Floats:
    info = _information(trial)
    return trees.fit_logistic(info, info.of_channels("all"))


def _mlp(trial: Trial) -> Floats:
    info = _information(trial)
    return mlp.fit_mlp(info, info.of_channels("one step"), _mlp_options(trial.first), trial.seed)


def _sage(reads: str) -> Callable[[Trial], Floats]:
    def scores(trial: Trial) -> Floats:
        info = _information(trial)
        schema = info.recording.schema
        channels = len(schema.own_channels if reads == "own" else schema.channel_names)
        return sage.fit_sage(info, channels, trial.neighbours, trial.seed)

    return scores


def _ours(trial: Trial) -> Floats:
    info = _information(trial)
    return ours.fit_ours(info, info.recording, TrainOptions(), trial.seed)


def _ours_without_labels(trial: Trial) -> Floats:
    silent = open_recording(trial.data, NEVER, trial.seed)
    return ours.fit_ours(_information(trial), silent, TrainOptions(), trial.seed)


def _ours_with_trees(trial: Trial) -> Floats:
    return _averaged([_scores(trial, "ours"), _scores(trial, "trees: one step")])


METHODS: dict[str, Callable[[Trial], Floats]] = {
    "logistic regression": _logistic,
    "trees: own features": _trees("own"),
    "trees: all channels": _trees("all"),
    "trees: one step": _trees("one step"),
    "trees: two steps": _trees("two steps"),
    "trees: one step, averaged": _averaged_trees,
    "MLP: one step": _mlp,
    "GraphSAGE: own features": _sage("own"),
    "GraphSAGE: all channels": _sage("all"),
    "ours: labels without graph": lambda trial: ours.fit_without_graph(_information(trial), TrainOptions(), trial.seed),
    "ours: graph without labels": _ours_without_labels,
    "ours: one layer": lambda trial: ours.fit_one_layer(_information(trial), TrainOptions(), trial.seed),
    "ours": _ours,
    "ours + trees": _ours_with_trees,
}


def _averaged(scores: list[Floats]) -> Floats:
    """Average models as their logits."""
    return trees.probability(np.mean([trees.logit(one) for one in scores], axis=0))


# ---- what a reader sees ----


def tables(results: Results) -> list[Table]:
    """Return a table a data set: methods down, figures across."""
    names = dict.fromkeys(str(row.key["data"]) for row in results.rows)
    return [_table(name, select(results.rows, data=name)) for name in names]


def _table(name: str, rows: list[Row]) -> Table:
    figures = [figure for figure in FIGURES if any(figure in row.figures for row in rows)]
    header = ["method", "seeds", *(FIGURES[figure] for figure in figures)]
    return Table(name, header, [_cells(row, figures) for row in rows])


def _cells(row: Row, figures: list[str]) -> list[str]:
    found = [row.figures[figure].text() if figure in row.figures else "" for figure in figures]
    return [str(row.key["method"]), str(max(spread.n for spread in row.figures.values())), *found]


def plots(results: Results, folder: Path) -> list[Path]:
    """Draw AUROC and AP of every method, a row of axes a data set; bars are a standard deviation."""
    names = list(dict.fromkeys(str(row.key["data"]) for row in results.rows))
    figure, axes = new_figure(columns=2, rows=len(names), width=5.2, height=4.2)
    for line, name in zip(axes, names, strict=True):
        for axis, wanted in zip(line, ("auroc", "ap"), strict=True):
            _draw(axis, f"{name}: {FIGURES[wanted]}", select(results.rows, data=name), wanted)
        line[1].set_yticklabels([])
    return [save(figure, folder / f"{results.name}.png")]


def _draw(axis: Any, title: str, rows: list[Row], wanted: str) -> None:
    for y, row in enumerate(rows):
        method, spread = str(row.key["method"]), row.figures[wanted]
        colour = COLOURS[1] if method.startswith("ours") else COLOURS[0]
        axis.errorbar(spread.mean, y, xerr=spread.sd, fmt="o", color=colour, capsize=3)
    axis.set_yticks(range(len(rows)), [str(row.key["method"]) for row in rows])
    axis.invert_yaxis()
    axis.set_title(title)
