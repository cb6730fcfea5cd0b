"""Figures of a stream's scores agree with scikit-learn's, ties and all."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn import metrics

from pipeline.experiments.figures import (
    by_quarter,
    precision_at,
    precision_recall_curve,
    recall_at,
    reliability,
    roc_curve,
    stream_figures,
)


def scored(seed: int, n: int = 800, values: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that know something of them; of only so many values, so that they tie, or all different."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.15).astype(np.int8)
    scores = np.clip(0.15 + 0.2 * truth + rng.normal(0, 0.15, n), 0, 1)
    return truth, (scores * values).round() / values if values else scores


@pytest.mark.parametrize("values", [0, 5, 40])
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed, values):
    truth, scores = scored(seed, values=values)
    found = stream_figures(truth, scores)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert found["ap"] == pytest.approx(metrics.average_precision_score(truth, scores))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, scores))
    false, recall, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert found["recall_at_fpr1"] == pytest.approx(recall[false <= 0.01].max())


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_precision_at_the_top_is_the_share_of_spam_among_the_highest_scores(share):
    truth, scores = scored(1)
    highest = truth[np.argsort(-scores)][: round(share * len(truth))]
    assert precision_at(share, truth, scores) == pytest.approx(highest.mean())


def test_scores_that_tie_at_the_end_of_the_top_count_by_their_mean():
    truth, scores = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 0]), np.array([0.9] + [0.5] * 4 + [0.1] * 5)
    assert precision_at(0.3, truth, scores) == pytest.approx((1 + 2 * 0.25) / 3)
    order = np.random.default_rng(0).permutation(10)
    assert precision_at(0.3, truth[order], scores[order]) == precision_at(0.3, truth, scores)


def test_recall_at_few_false_positives_takes_no_part_of_a_tie():
    truth, scores = np.array([1, 0, 1] + [0] * 99), np.array([0.9, 0.5, 0.5] + [0.1] * 99)
    assert recall_at(0.01, truth, scores) == 1.0  # one false positive of a hundred
    assert recall_at(0.009, truth, scores) == 0.5


def test_what_one_class_cannot_tell_is_none():
    found = stream_figures([0, 0, 0], [0.1, 0.2, 0.3])
    assert found["auroc"] is found["ap"] is found["recall_at_fpr1"] is None
    assert found["precision_top1"] == 0.0
    assert set(stream_figures([], []).values()) == {None}


def test_a_quarter_has_the_figures_of_its_own_samples():
    truth, scores = scored(2, n=900)
    days = [
        datetime(2011, 3, 31, 23, 59, tzinfo=UTC),
        datetime(2011, 4, 1, tzinfo=UTC),
        datetime(2012, 1, 1, tzinfo=UTC),
    ]
    ts = np.repeat([day.timestamp() for day in days], 300)
    found = by_quarter(truth, scores, ts)
    assert [name for name, _ in found] == ["2011Q1", "2011Q2", "2012Q1"]
    for i, (_, figures) in enumerate(found):
        part = slice(300 * i, 300 * (i + 1))
        assert figures["count"] == 300 and figures["spam"] == truth[part].sum()
        assert {name: figures[name] for name in ("auroc", "ap")} == {
            name: pytest.approx(value) for name, value in stream_figures(truth[part], scores[part]).items()
            if name in ("auroc", "ap")
        }  # fmt: skip


def test_thinned_curves_lie_on_those_of_scikit_learn():
    truth, scores = scored(3, n=5000)
    false, recall, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    ours = roc_curve(truth, scores)
    assert list(ours)[:2] == ["0.00", "0.01"] and len(ours) == 101
    area = np.trapezoid(list(ours.values()), [float(x) for x in ours])
    assert area == pytest.approx(metrics.auc(false, recall), abs=0.005)
    precision, reached, _ = metrics.precision_recall_curve(truth, scores)
    for wanted, found in precision_recall_curve(truth, scores).items():
        first = np.flatnonzero(reached >= float(wanted) - 1e-9)[-1]  # they go from all flagged to nothing flagged
        assert found == pytest.approx(precision[first])


def test_reliability_bins_hold_every_score_once():
    truth, scores = scored(4)
    scores[:2] = 0.0, 1.0
    found = reliability(truth, scores)
    assert sum(found[f"count_{b}"] for b in range(10)) == len(truth)
    told = sum(found[f"count_{b}"] * found[f"spam_{b}"] for b in range(10) if found[f"count_{b}"])
    assert told == pytest.approx(truth.sum())
    for b in range(10):
        if found[f"count_{b}"]:
            assert b / 10 <= found[f"score_{b}"] <= (b + 1) / 10
        else:
            assert found[f"score_{b}"] is None
    assert not any(math.isnan(value) for value in found.values() if value is not None)
