import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate import (
    auroc,
    average_precision,
    best_f1_threshold,
    f1_scores,
    for_json,
    precision_recall,
    precision_threshold,
    report,
    split_rank,
    summary,
)

oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn (the train extra) is what these are compared with")

# Few distinct scores, so that most of them tie.
pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6).map(lambda n: n / 7)), min_size=1, max_size=60)


def columns(pairs):
    labels, scores = zip(*pairs, strict=True)
    return np.array(labels), np.array(scores)


def both_classes(labels):
    return 0 < labels.sum() < len(labels)


def random_data(seed, count=3000, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.13).astype(int)
    scores = 1 / (1 + np.exp(-rng.normal(labels * 1.2 - 2, 1)))
    return labels, scores if decimals is None else scores.round(decimals)


@given(pairs)
def test_ranking_figures_equal_scikit_learns_on_ties(pairs):
    labels, scores = columns(pairs)
    if both_classes(labels):
        assert auroc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(labels, scores) == pytest.approx(
            oracle.average_precision_score(labels, scores), abs=1e-12
        )


@pytest.mark.parametrize("decimals", [None, 3, 1], ids=["distinct", "some ties", "mostly ties"])
def test_ranking_figures_equal_scikit_learns_on_many_scores(decimals):
    labels, scores = random_data(seed=7, decimals=decimals)
    assert auroc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(oracle.average_precision_score(labels, scores), abs=1e-12)


@given(pairs)
def test_flag_figures_equal_scikit_learns(pairs):
    labels, scores = columns(pairs)
    flagged = scores >= 0.5
    micro, macro = f1_scores(labels, flagged)
    assert micro == pytest.approx(oracle.f1_score(labels, flagged, average="micro"))
    assert macro == pytest.approx(oracle.f1_score(labels, flagged, average="macro"))
    precision, recall = precision_recall(labels, flagged)
    if flagged.any():
        assert precision == pytest.approx(oracle.precision_score(labels, flagged))
    if labels.any():
        assert recall == pytest.approx(oracle.recall_score(labels, flagged))


@given(pairs)
def test_the_best_threshold_beats_every_other(pairs):
    labels, scores = columns(pairs)
    if both_classes(labels):
        best = oracle.f1_score(labels, scores >= best_f1_threshold(labels, scores))
        assert best == pytest.approx(max(oracle.f1_score(labels, scores >= score) for score in scores))


def test_the_best_threshold_lies_halfway_to_the_next_lower_score():
    assert best_f1_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.7]) == pytest.approx(0.4)


def test_a_threshold_between_neighbouring_floats_does_not_flag_the_lower_one():
    for upper in (0.5, math.nextafter(0.5, 1), math.nextafter(0.5, 0)):
        lower = math.nextafter(upper, 0)
        assert lower < best_f1_threshold([0, 1], [lower, upper]) <= upper


def test_the_lowest_score_is_a_threshold_when_flagging_all_is_best():
    assert best_f1_threshold([1, 0, 1], [0.3, 0.5, 0.7]) == 0.3


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]], ids=["nothing", "no spam", "only spam"])
def test_what_one_class_cannot_tell_is_nan(labels):
    scores = np.linspace(0, 1, len(labels))
    assert math.isnan(auroc(labels, scores))
    assert math.isnan(average_precision(labels, scores))
    assert math.isnan(best_f1_threshold(labels, scores))


def test_a_report_of_nothing_is_json_without_nan():
    text = json.dumps(report([], [], threshold=0.5), allow_nan=False)
    assert json.loads(text) == {
        "labelled": 0,
        "spam_share": None,
        "auroc": None,
        "ap": None,
        "precision": None,
        "recall": None,
        "f1_micro": None,
        "f1_macro": None,
        "threshold": 0.5,
    }


def test_precision_is_nan_when_nothing_is_flagged():
    precision, recall = precision_recall([0, 1], [False, False])
    assert math.isnan(precision)
    assert recall == 0


def test_a_report_flags_from_the_threshold_on():
    labels, scores = [0, 1, 0, 1], [0.1, 0.5, 0.6, 0.9]
    assert report(labels, scores, 0.5) == for_json(summary(labels, scores, [0, 1, 1, 1])) | {"threshold": 0.5}
    assert report(labels, scores, 0.5)["precision"] == pytest.approx(2 / 3)


def test_scores_and_labels_of_any_number_type_give_the_same_report():
    labels, scores = random_data(seed=3, count=200, decimals=2)
    expected = report(labels, scores, 0.25)
    assert report(labels.astype(bool), scores.tolist(), 0.25) == expected
    assert report(labels.astype(np.int8), scores, 0.25) == expected


def test_a_split_is_not_moved_by_float_arithmetic():
    assert 0.7 * 90 < 63
    assert split_rank(0.7, 90) == split_rank(1 - 0.3, 90) == 63
    assert [split_rank(0.7, count) for count in (0, 1, 9, 10, 11)] == [0, 0, 6, 7, 7]
    assert all(split_rank(0.7, count) == 7 * count // 10 for count in range(100_000))


@given(pairs)
def test_a_threshold_by_precision_is_the_lowest_that_has_it(pairs):
    labels, scores = columns(pairs)
    threshold = precision_threshold(labels, scores, 0.6)
    if not both_classes(labels):
        assert math.isnan(threshold)
        return
    reached = [t for t in np.unique(scores) if precision_recall(labels, scores >= t)[0] >= 0.6]
    wanted = min(reached) if reached else scores.max()  # where none has it, the highest score alone is flagged
    assert ((scores >= threshold) == (scores >= wanted)).all()
