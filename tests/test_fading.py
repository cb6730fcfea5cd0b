"""What is left of 1 after a time, as compiled code has it for all half-lives at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compiled import compiled
from pipeline.instructions import CHANNELS, fade

HALF_LIVES = (1.0, 3600.0, 86400.0, 1e9)


@compiled
def _fade(rates, seconds, left):
    fade(rates, seconds, left, 1)


def faded(seconds: float, rates: np.ndarray) -> np.ndarray:
    left = np.full((3, len(rates)), np.nan)
    _fade(rates, seconds, left)
    assert np.isnan(left[[0, 2]]).all()
    return left[1]


def rates_of(groups: int) -> np.ndarray:
    """Several, one of them 0: what stands behind a schema's half-lives."""
    return np.resize(np.array([*(1.0 / half_life for half_life in HALF_LIVES), 0.0]), groups * CHANNELS)


@given(st.floats(0.0, 1e11) | st.sampled_from([0.5, 1.0, 1.5, 3600.0, 1e-300]), st.integers(1, 3))
def test_powers_are_those_of_the_library_to_fourteen_digits(seconds, groups):
    rates = rates_of(groups)
    wanted = [math.exp2(-seconds * rate) if seconds * rate < 1000.0 else 0.0 for rate in rates.tolist()]
    np.testing.assert_allclose(faded(seconds, rates), wanted, rtol=2e-14, atol=1e-300)


def test_after_no_time_all_is_left_and_after_a_half_life_half_of_it():
    rates = rates_of(1)
    assert (faded(0.0, rates) == 1.0).all()
    assert faded(1.0, rates)[0] == 0.5


@pytest.mark.parametrize("seconds", [1e13, 1e300, math.inf])
def test_after_ever_so_long_as_good_as_nothing_is_left(seconds):
    left = faded(seconds, rates_of(1))[: len(HALF_LIVES)]
    assert ((left >= 0.0) & (left < 1e-299)).all()
