"""The figures of a stream's scores (a stand-in until that of the streams is merged)."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.evaluate import auroc, average_precision


def stream_figures(truth: ArrayLike, scores: ArrayLike) -> dict[str, float | None]:
    truth, scores = np.asarray(truth), np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    hits = truth[order] == 1

    def precision(share: float) -> float:
        return float(hits[: max(1, round(share * len(hits)))].mean())

    false = np.cumsum(~hits) <= 0.01 * (~hits).sum()
    return {
        "auroc": auroc(truth, scores), "ap": average_precision(truth, scores), "precision_top1": precision(0.01),
        "precision_top5": precision(0.05), "recall_at_fpr1": float(hits[false].sum() / hits.sum()),
        "brier": float(np.mean((scores - truth) ** 2)),
    }  # fmt: skip
