"""How well scores tell spam from the rest: numpy only, because `quality` serves where scikit-learn is not installed.

    labels   (N,)  1 = spam, 0 = not
    scores   (N,)  higher = more like spam; ties are exact, as scikit-learn's are
    is_spam  (N,)  what the scores were taken for: score >= threshold

A figure that the data cannot tell (one class only, nothing flagged, nothing at all) is nan, None in a report, never an
exception.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the chance that a spam scores higher than what is none, a tie counting half."""
    hits, flagged, _ = sweep(labels, scores)
    spam, rest = hits[-1], flagged[-1] - hits[-1]
    if not spam or not rest:
        return math.nan
    false_alarms = np.diff(flagged - hits)
    # Twice the area under the curve in whole numbers: exact.
    return int((false_alarms * (hits[1:] + hits[:-1])).sum()) / (2 * int(spam) * int(rest))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean, over the spam, of the precision at the threshold that just flags it."""
    hits, flagged, _ = sweep(labels, scores)
    spam = hits[-1]
    if not spam or spam == flagged[-1]:
        return math.nan
    return float((np.diff(hits) * (hits[1:] / flagged[1:])).sum() / spam)


def best_f1_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold with the best F1 of the spam; of equals the highest; nan if there is one class only.

    It lies halfway between the lowest score that it flags and the next lower one, so that a score which differs in its
    last digit stays on its side.
    """
    hits, flagged, values = sweep(labels, scores)
    spam = hits[-1]
    if not spam or spam == flagged[-1]:
        return math.nan
    return _between(values, int(np.argmax(2 * hits[1:] / (flagged[1:] + spam))))


def precision_threshold(labels: ArrayLike, scores: ArrayLike, wanted: float) -> float:
    """Return the lowest threshold whose spam is right as often as `wanted`; the highest score where none is.

    nan if there is one class only. As `best_f1_threshold` does, it lies halfway to the next lower score.
    """
    hits, flagged, values = sweep(labels, scores)
    spam = hits[-1]
    if not spam or spam == flagged[-1]:
        return math.nan
    right = np.flatnonzero(hits[1:] / flagged[1:] >= wanted)
    return _between(values, int(right[-1]) if len(right) else 0)


def precision_recall(labels: ArrayLike, is_spam: ArrayLike) -> tuple[float, float]:
    """Return the share of the flagged that is spam, and the share of the spam that is flagged."""
    spam, flagged = np.asarray(labels) == 1, np.asarray(is_spam, dtype=bool)
    hits = _count(spam & flagged)
    return _share(hits, _count(flagged)), _share(hits, _count(spam))


def f1_scores(labels: ArrayLike, is_spam: ArrayLike) -> tuple[float, float]:
    """Return F1 micro (for two classes the accuracy) and macro (the mean of both classes' F1).

    A class that neither occurs nor is predicted has no F1 and is left out of the mean.
    """
    spam, flagged = np.asarray(labels) == 1, np.asarray(is_spam, dtype=bool)
    both, neither = _count(spam & flagged), _count(~spam & ~flagged)
    wrong = len(spam) - both - neither
    of_classes = [2 * right / (2 * right + wrong) for right in (both, neither) if right + wrong]
    return _share(both + neither, len(spam)), _share(sum(of_classes), len(of_classes))


def summary(labels: ArrayLike, scores: ArrayLike, is_spam: ArrayLike) -> dict[str, float]:
    """Return every figure by its name in reports."""
    precision, recall = precision_recall(labels, is_spam)
    f1_micro, f1_macro = f1_scores(labels, is_spam)
    return {
        "labelled": np.size(labels),
        "spam_share": _share(_count(np.asarray(labels) == 1), np.size(labels)),
        "auroc": auroc(labels, scores),
        "ap": average_precision(labels, scores),
        "precision": precision,
        "recall": recall,
        "f1_micro": f1_micro,
        "f1_macro": f1_macro,
    }


def report(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Return every figure for scores that are spam from `threshold` on, ready for JSON."""
    figures = summary(labels, scores, np.asarray(scores) >= threshold)
    return for_json(figures | {"threshold": threshold})


def for_json(figures: dict[str, float]) -> dict[str, float | None]:
    """Return `figures` as JSON can say them: it knows no nan."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def split_rank(share: float, count: int) -> int:
    """Return the rank of the first of `count` items behind the leading `share` of them: floor(share * count).

    The one place where a share becomes a rank, for `train` and `quality` to cut at the same item. A product that only
    float arithmetic keeps below a whole number counts as that number: 0.7 * 90 is 62.99999999999999.
    """
    return math.floor(share * count + 1e-9)


def sweep(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return, for thresholds from above the highest score down to each distinct one, the spam flagged and all flagged.

    hits, flagged (T+1,), both starting with 0; the T distinct scores, falling.
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)[: len(falling)]
    hits = np.cumsum(np.asarray(labels)[order] == 1, dtype=np.int64)[last_of_tie]
    flagged = last_of_tie + 1
    return np.append(0, hits), np.append(0, flagged), falling[last_of_tie]


def _between(values: NDArray[np.float64], last: int) -> float:
    """Return a threshold that flags the falling `values` up to number `last`, and no further."""
    lowest = float(values[last])
    below = float(values[last + 1]) if last + 1 < len(values) else lowest
    # Between neighbouring floats there is no halfway: the mean may round to the lower one, which must not be flagged.
    halfway = (lowest + below) / 2
    return halfway if halfway > below else lowest


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
