"""What is measured on a stream's scores: figures, by calendar quarter, curves, and whether scores are probabilities.

    truth    (n,)  1 spam, 0 not
    scores   (n,)  between 0 and 1
    ts       (n,)  event time, seconds since the epoch

Scores that tie count as scikit-learn counts them. Where a share of the stream ends within a tie, the tied ones count
by their mean: any order among them would be luck. A figure that the data cannot tell is None.
"""

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from pipeline.evaluate import auroc, average_precision, for_json, sweep

Figures = dict[str, float | None]
Doubles = npt.NDArray[np.float64]
POINTS = 101  # of a curve
BINS = 10


def stream_figures(truth: ArrayLike, scores: ArrayLike) -> Figures:
    """Return auroc, ap, precision at the top 1 % and 5 %, recall at 1 % false positives, and the Brier score."""
    wanted, given = np.asarray(truth, np.float64), np.asarray(scores, np.float64)
    return for_json({
        "auroc": auroc(truth, scores),
        "ap": average_precision(truth, scores),
        "precision_top1": precision_at(0.01, truth, scores),
        "precision_top5": precision_at(0.05, truth, scores),
        "recall_at_fpr1": recall_at(0.01, truth, scores),
        "brier": float(((given - wanted) ** 2).mean()) if len(given) else np.nan,
    })  # fmt: skip


def precision_at(share: float, truth: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of spam among the highest scores, `share` of all (rounded, one at least); nan of nothing."""
    hits, flagged, _ = sweep(truth, scores)
    if not flagged[-1]:
        return np.nan
    count = max(1, round(share * int(flagged[-1])))
    return float(np.interp(count, flagged, hits) / count)


def recall_at(false_positives: float, truth: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of spam above the lowest threshold with at most so many false positives; nan of one class."""
    hits, flagged, _ = sweep(truth, scores)
    spam, rest = hits[-1], flagged[-1] - hits[-1]
    if not spam or not rest:
        return np.nan
    allowed = np.flatnonzero(flagged - hits <= false_positives * rest)
    return float(hits[allowed[-1]] / spam)


def by_quarter(truth: ArrayLike, scores: ArrayLike, ts: ArrayLike) -> list[tuple[str, Figures]]:
    """Return ("2011Q3", figures and count) for each calendar quarter, UTC, with samples in it, in order of time."""
    truth, scores = np.asarray(truth), np.asarray(scores)
    quarter = quarters(ts)
    parts = {number: quarter == number for number in np.unique(quarter).tolist()}
    return [(quarter_name(n), counted_figures(truth[chosen], scores[chosen])) for n, chosen in parts.items()]


def counted_figures(truth: ArrayLike, scores: ArrayLike) -> Figures:
    """Return the figures, and of how many samples and how much spam they are."""
    counts: Figures = {"count": float(np.size(truth)), "spam": float(np.count_nonzero(np.asarray(truth) == 1))}
    return counts | stream_figures(truth, scores)


def quarters(ts: ArrayLike) -> npt.NDArray[np.int64]:
    """Return the number of each time's quarter, counted from the epoch.  # (n,)"""
    months = np.asarray(ts, np.float64).astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    return np.floor_divide(months, 3)


def quarter_name(number: int) -> str:
    return f"{1970 + number // 4}Q{number % 4 + 1}"


def roc_curve(truth: ArrayLike, scores: ArrayLike) -> Figures:
    """Return the recall at POINTS false-positive rates from 0 to 1, keyed by the rate."""
    hits, flagged, _ = sweep(truth, scores)
    false = flagged - hits
    grid = np.linspace(0.0, 1.0, POINTS)
    if not hits[-1] or not false[-1]:
        return _curve(grid, np.full(POINTS, np.nan))
    return _curve(grid, np.interp(grid, false / false[-1], hits / hits[-1]))


def precision_recall_curve(truth: ArrayLike, scores: ArrayLike) -> Figures:
    """Return the precision at the highest threshold that reaches each of POINTS - 1 recalls, keyed by the recall."""
    hits, flagged, _ = sweep(truth, scores)
    grid = np.linspace(0.0, 1.0, POINTS)[1:]
    if not hits[-1]:
        return _curve(grid, np.full(POINTS - 1, np.nan))
    first = np.searchsorted(hits, np.ceil(grid * hits[-1] - 1e-9))
    return _curve(grid, hits[first] / flagged[first])


def reliability(truth: ArrayLike, scores: ArrayLike) -> Figures:
    """Return for each bin b of BINS equal ones: count_b, the mean score_b, and spam_b, the share of spam in it."""
    truth, scores = np.asarray(truth), np.asarray(scores, np.float64)
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    figures: Figures = {}
    for b in range(BINS):
        inside = place == b
        count = int(inside.sum())
        figures[f"count_{b}"] = count
        figures[f"score_{b}"] = float(scores[inside].mean()) if count else None
        figures[f"spam_{b}"] = float((truth[inside] == 1).mean()) if count else None
    return figures


def _curve(grid: Doubles, values: Doubles) -> Figures:
    return for_json({f"{x:.2f}": float(y) for x, y in zip(grid.tolist(), values.tolist(), strict=True)})
