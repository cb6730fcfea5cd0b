"""Durations as people write them."""

import doctest

import pytest

from pipeline import durations
from pipeline.durations import parse_duration


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(durations)
    assert (results.attempted, results.failed) == (1, 0)


def test_white_space_is_no_matter():
    assert parse_duration(" 1.5 h ") == 5400.0


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1e3s", "1.d", ".5d", "1d2h", "1 day", "\u0663d", "nan", "infs"]
)
def test_what_is_no_duration_is_refused_with_the_form_that_is_expected(text):
    with pytest.raises(ValueError) as error:
        parse_duration(text)
    assert str(error.value) == f"{text!r} is no duration: write a number and one of ms, s, m, h, d, w, like '30d'"
