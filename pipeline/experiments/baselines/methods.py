"""The methods by name: from a trial to scores of its later samples (validation, then test), as probabilities.

What a method leaves open is chosen on validation, for the first seed, and kept for the others.
"""

from collections.abc import Callable
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.experiments.baselines import mlp, ours, sage, trees
from pipeline.experiments.baselines.information import Information, inform
from pipeline.experiments.recordings import open_recording
from pipeline.model import probability
from pipeline.train import TrainOptions

Floats = npt.NDArray[np.float32]
NEVER = "29000d"  # labels after the end of every stream: nobody's input, and the samples are the same
MEMBERS = 5  # boosted models averaged into one, as our model may be several folded into one


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


# ---- what several jobs need, made once ----


@lru_cache(maxsize=1)
def information(trial: Trial) -> Information:
    return _replay(trial, trial.label_delay)


def _replay(trial: Trial, label_delay: str) -> Information:
    options = TrainOptions()
    return inform(open_recording(trial.data, label_delay, trial.seed), options.shares, options.transform)


@lru_cache(maxsize=32)
def scores_of(trial: Trial, method: str) -> Floats:
    return METHODS[method](trial)


@lru_cache(maxsize=16)
def _tree_options(first: Trial) -> dict[str, float]:
    info = information(first)
    return trees.choose_trees(info, info.of_channels("all"))


@lru_cache(maxsize=16)
def _mlp_options(first: Trial) -> dict[str, float]:
    info = information(first)
    return mlp.choose_mlp(info, info.of_channels("one step"))


# ---- the methods: trial -> scores of the later samples ----


def _trees(reads: str) -> Callable[[Trial], Floats]:
    def scores(trial: Trial) -> Floats:
        info = information(trial)
        return trees.fit_trees(info, info.of_channels(reads), _tree_options(trial.first), trial.seed)

    return scores


def _averaged_trees(trial: Trial) -> Floats:
    """Average trees that differ by the columns that their splits may choose from: else all would be the same."""
    info, options = information(trial), _tree_options(trial.first) | {"columns": min(trees.TREE_GRID["columns"])}
    x = info.of_channels("one step")
    members = [trees.fit_trees(info, x, options, MEMBERS * trial.seed + m) for m in range(MEMBERS)]
    return _averaged(members)


def _logistic(trial: Trial) -> Floats:
    info = information(trial)
    return trees.fit_logistic(info, info.of_channels("all"))


def _mlp(trial: Trial) -> Floats:
    info = information(trial)
    return mlp.fit_mlp(info, info.of_channels("one step"), _mlp_options(trial.first), trial.seed)


def _sage(reads: str) -> Callable[[Trial], Floats]:
    def scores(trial: Trial) -> Floats:
        info = information(trial)
        schema = info.recording.schema
        channels = len(schema.own_channels if reads == "own" else schema.channel_names)
        return sage.fit_sage(info, channels, trial.neighbours, trial.seed)

    return scores


def _ours(trial: Trial) -> Floats:
    return ours.fit_ours(information(trial), TrainOptions(), trial.seed)


def _ours_without_labels(trial: Trial) -> Floats:
    return ours.fit_ours(_replay(trial, NEVER), TrainOptions(), trial.seed)


def _ours_with_trees(trial: Trial) -> Floats:
    return _averaged([scores_of(trial, "ours"), scores_of(trial, "trees: one step")])


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
    "ours: labels without graph": lambda trial: ours.fit_without_graph(information(trial), TrainOptions(), trial.seed),
    "ours: graph without labels": _ours_without_labels,
    "ours: one layer": lambda trial: ours.fit_one_layer(information(trial), TrainOptions(), trial.seed),
    "ours": _ours,
    "ours + trees": _ours_with_trees,
}


def _averaged(scores: list[Floats]) -> Floats:
    """Average models as their logits."""
    return probability(np.mean([trees.logit(one) for one in scores], axis=0))
