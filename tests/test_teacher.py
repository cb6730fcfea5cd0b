"""The teacher: what the layers learn instead of bare labels."""

import numpy as np
import pytest

from pipeline.teacher import FOLDS, soften

TRAIN = slice(0, 600)


@pytest.fixture(scope="module")
def likely():
    """Return channels of which the first says how likely spam is, and labels drawn by that."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1000, 4)).astype(np.float32)
    return x, (rng.uniform(size=1000) < 0.1 + 0.6 * (x[:, 0] > 0.5)).astype(np.int8)


def test_the_teacher_is_closer_to_how_likely_spam_was_than_labels_are(likely):
    x, truth = likely
    chance = 0.1 + 0.6 * (x[TRAIN, 0] > 0.5)
    errors = [np.mean((soften(truth, x, TRAIN, share, 0)[TRAIN] - chance) ** 2) for share in (0.0, 0.5, 1.0)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < errors[0] / 5


def test_the_share_mixes_the_teachers_word_and_the_label(likely):
    x, truth = likely
    labels, half, whole = (soften(truth, x, TRAIN, share, 0) for share in (0.0, 0.5, 1.0))
    assert (labels == truth).all()
    assert half[TRAIN] == pytest.approx((truth[TRAIN] + whole[TRAIN]) / 2, abs=1e-6)


def test_nothing_is_read_or_changed_behind_the_training_part(likely):
    x, truth = likely
    other_x, other = x.copy(), truth.copy()
    other_x[600:], other[600:] = np.nan, 1 - other[600:]
    found, again = soften(truth, x, TRAIN, 1.0, 0), soften(other, other_x, TRAIN, 1.0, 0)
    assert (found[TRAIN] == again[TRAIN]).all()
    assert (found[600:] == truth[600:]).all()
    assert (again[600:] == other[600:]).all()


def test_no_sample_teaches_itself(likely):
    """A label that contradicts its channels hardly moves what is said of its own sample."""
    x, truth = likely
    i = int(np.flatnonzero((x[TRAIN, 0] < 0.4) & (truth[TRAIN] == 0))[0])
    turned = truth.copy()
    turned[i] = 1
    moved = abs(soften(turned, x, TRAIN, 1.0, 0)[i] - soften(truth, x, TRAIN, 1.0, 0)[i])
    assert moved < 0.3  # folds are drawn anew by class; learnt by heart it would be near 1


@pytest.mark.parametrize("spam", range(FOLDS))
def test_too_few_of_a_class_are_learned_as_they_are(likely, spam):
    x, _ = likely
    truth = np.zeros(1000, np.int8)
    truth[:spam] = 1
    assert (soften(truth, x, TRAIN, 1.0, 0) == truth).all()
