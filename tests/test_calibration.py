"""Calibrated scores mean probabilities, and keep their order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from pipeline.calibration import fit_platt


def drawn(seed: int, stretch: float, shift: float, count: int = 20_000):
    """Logits of whose truth we know the chances: sigmoid(stretch * logit + shift)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 2, count)
    return rng.random(count) < 1 / (1 + np.exp(-(stretch * z + shift))), z


@pytest.mark.parametrize(("stretch", "shift"), [(1.0, 0.0), (0.4, -1.0), (2.5, 1.5)])
def test_the_stretch_and_the_shift_that_the_truth_was_drawn_with_are_found(stretch, shift):
    assert fit_platt(*drawn(0, stretch, shift)) == pytest.approx((stretch, shift), abs=0.1)


def test_it_is_a_logistic_regression_on_the_logit():
    labels, z = drawn(1, 0.7, -0.5)
    wanted = LogisticRegression(C=1e9).fit(z[:, None], labels)
    assert fit_platt(labels, z) == pytest.approx((wanted.coef_[0, 0], wanted.intercept_[0]), abs=2e-3)


def test_logits_that_separate_the_classes_lead_to_no_infinity():
    labels, z = np.array([0] * 50 + [1] * 50), np.array([-1.0] * 50 + [1.0] * 50)
    stretch, shift = fit_platt(labels, z)
    assert 1.0 < stretch < 20.0
    assert shift == pytest.approx(0.0, abs=1e-6)


def test_logits_that_say_the_reverse_stay_as_they_are():
    labels, z = drawn(2, 1.0, 0.0)
    assert fit_platt(~labels, z) == (1.0, 0.0)


def test_logits_that_say_nothing_become_the_share_of_spam():
    labels, z = drawn(3, 1.0, 0.0)
    stretch, shift = fit_platt(labels, np.zeros(len(z)))
    assert stretch > 0
    assert 1 / (1 + np.exp(-shift)) == pytest.approx(labels.mean(), abs=1e-3)


@given(st.lists(st.tuples(st.booleans(), st.floats(-1e4, 1e4, width=32)), min_size=1, max_size=50))
def test_whatever_the_logits_are_the_stretch_is_above_zero_and_finite(pairs):
    labels, z = (np.array(column) for column in zip(*pairs, strict=True))
    stretch, shift = fit_platt(labels, z)
    assert stretch > 0
    assert np.isfinite([stretch, shift]).all()
