"""Scores that mean probabilities: a stretch and a shift of the logits, folded into the classifier.

n samples.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = 50  # Newton's method needs about ten
LONGEST = 1.0  # of a step: far from the minimum the curvature is no guide


def fit_platt(labels: ArrayLike, logits: ArrayLike) -> tuple[float, float]:
    """Return (a, c), a > 0, for which sigmoid(a * logit + c) has the least log loss; (1, 0) where no such a has.

    Source: Platt, Probabilistic outputs for support vector machines, 1999, with its targets: (spam + 1) / (spam + 2)
    for the spam and 1 / (rest + 2) for the rest, so that labels which the logits separate do not lead to infinity.

    labels, logits  (n,)
    """
    spam, z = np.asarray(labels) == 1, np.asarray(logits, np.float64)
    target = np.where(spam, (spam.sum() + 1) / (spam.sum() + 2), 1 / ((~spam).sum() + 2))
    x, found = np.stack([z, np.ones_like(z)], axis=1), np.array([1.0, 0.0])
    for _ in range(STEPS):
        step = _newton_step(x, target, found)
        found -= step * min(1.0, LONGEST / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    # A stretch of zero or less would level the scores or turn their order round: such logits say nothing.
    return (float(found[0]), float(found[1])) if found[0] > 0 else (1.0, 0.0)


def _newton_step(x: NDArray[np.float64], target: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[Any]:
    p = 1 / (1 + np.exp(-np.clip(x @ at, -40, 40)))
    curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
    step: NDArray[Any] = np.linalg.solve(curvature, x.T @ (p - target))
    return step
