"""Boosted trees and logistic regression: what scikit-learn has for tables, given the same care as our model.

Boosting stops when the validation loss no longer falls, and is cut back to the round with the best validation average
precision. Scores are of the `later` samples (validation, then test), as probabilities.
"""

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from pipeline.experiments.baselines.information import Information, best_by_validation
from pipeline.model import probability

Floats = npt.NDArray[np.float32]
TREE_GRID: dict[str, tuple[float, ...]] = {
    "leaves": (15.0, 7.0, 31.0, 63.0),
    "learning_rate": (0.05, 0.1),
    "l2": (1.0, 0.0, 10.0),
    "columns": (1.0, 0.3),  # the share of them that a split may choose from
}
ROUNDS = 400
PATIENCE = 30  # rounds without a lower validation loss
EVERY = 5  # rounds between two looks at validation
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)


def fit_trees(info: Information, x: Floats, options: dict[str, float], seed: int) -> Floats:
    """Boost trees on the training part of `x`; return the scores of the best round.  # (n, width) -> (later,)"""
    train, validation = info.split.train, info.split.validation
    model = HistGradientBoostingClassifier(
        learning_rate=options["learning_rate"], max_leaf_nodes=int(options["leaves"]), l2_regularization=options["l2"],
        max_features=options["columns"], max_iter=ROUNDS, early_stopping=True, scoring="loss",
        n_iter_no_change=PATIENCE, random_state=seed,
    )  # fmt: skip
    model.fit(x[train], info.truth[train], X_val=x[validation], y_val=info.truth[validation])
    best_ap, best = -1.0, np.zeros(0, np.float32)
    for number, logits in enumerate(model.staged_decision_function(x[info.later]), start=1):
        if number % EVERY:
            continue
        ap = info.validation_ap(logits)
        if ap > best_ap:
            best_ap, best = ap, logits.astype(np.float32)
    return probability(best)


def choose_trees(info: Information, x: Floats) -> dict[str, float]:
    """Choose from `TREE_GRID` by validation."""
    return best_by_validation(TREE_GRID, lambda options: info.validation_ap(fit_trees(info, x, options, seed=0)))


def fit_logistic(info: Information, x: Floats) -> Floats:
    """Return the scores of a logistic regression whose penalty validation chose.  # (n, width) -> (later,)"""
    x = standardised(x, info.split.train)
    fits: list[Floats] = [_logistic(info, x, c) for c in INVERSE_PENALTIES]
    return max(fits, key=info.validation_ap)


def _logistic(info: Information, x: Floats, inverse_penalty: float) -> Floats:
    train = info.split.train
    model = LogisticRegression(C=inverse_penalty, max_iter=500).fit(x[train], info.truth[train])
    return probability(model.decision_function(x[info.later]).astype(np.float32))


def standardised(x: Floats, train: slice) -> Floats:
    """Return `x` with mean 0 and deviation 1 on the training part; 0 where a column never varies there."""
    deviation = x[train].std(axis=0)
    scale = np.where(deviation < 1e-6, np.inf, np.maximum(deviation, 0.05)).astype(np.float32)
    scaled: Floats = ((x - x[train].mean(axis=0)) / scale).astype(np.float32)
    return scaled


def logit(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-7, 1.0 - 1e-7)
    found: Floats = np.log(clipped / (1.0 - clipped))
    return found
