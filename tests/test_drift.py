"""Bins and the population stability index; the slow twin below keeps all values and counts them one by one."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import random_model, world

from pipeline.drift import (
    LEAST_SHARE,
    LEAST_VALUES,
    MOST_VALUES,
    VECTOR_CHANNELS,
    Bins,
    DriftWindow,
    fit_bins,
    psi,
    reference_of,
    watched,
)
from pipeline.errors import CheckpointError
from pipeline.schema import parse_schema

numbers = st.floats(allow_infinity=False, allow_nan=True, width=32)
few = st.sampled_from([0.0, 1.0, 2.5, math.nan])
columns = st.lists(numbers, min_size=1, max_size=80) | st.lists(few, min_size=1, max_size=80)


anything = st.lists(st.floats() | few, min_size=1, max_size=80)


def naive_place(bins, value):
    """The number of a value's bin, as docs/checkpoint.md says it."""
    points = bins.edges or bins.values
    if math.isnan(value):
        return len(points) + 1
    if bins.values:
        return bins.values.index(value) if value in bins.values else len(points)
    return next((i for i, edge in enumerate(bins.edges) if value <= edge), len(points))


def naive_psi(bins, values):
    """PSI of `values` against the reference, in plain Python."""
    counts = [0] * len(bins.shares)
    for value in values:
        counts[naive_place(bins, value)] += 1
    index = 0.0
    for expected, count in zip(bins.shares, counts, strict=True):
        e, a = max(expected, LEAST_SHARE), max(count / len(values), LEAST_SHARE)
        index += (a - e) * math.log(a / e)
    return index


@given(columns, st.booleans(), anything)
def test_every_value_has_the_bin_that_the_page_says(values, by_value, others):
    bins = fit_bins(values, by_value or all(map(math.isnan, values)))
    assert bins.place(others).tolist() == [naive_place(bins, value) for value in others]
    assert sum(bins.shares) == pytest.approx(1, abs=1e-5)


def test_a_channel_of_few_values_has_a_bin_for_each_one_of_many_has_ten_of_equal_share():
    stars = fit_bins([1, 1, 2, 5, 5, 5, 5, math.nan])
    assert (stars.values, stars.edges) == ([1, 2, 5], [])
    assert stars.shares == [0.25, 0.125, 0.5, 0.0, 0.125]  # 1, 2, 5, any other, missing
    amounts = fit_bins(np.arange(1000) / 10)
    assert len(amounts.edges) == 9
    assert amounts.shares == [0.1] * 10 + [0.0]
    assert len(fit_bins(np.arange(MOST_VALUES)).values) == MOST_VALUES


def test_edges_lie_between_values_so_that_the_last_digit_of_a_score_moves_nothing():
    scores = np.repeat(np.linspace(0.1, 0.9, 5), 20)
    bins = fit_bins(scores, by_value=False)
    for noise in (-1e-6, 1e-6):
        assert (bins.place(scores + noise) == bins.place(scores)).all()


def test_a_channel_that_is_nearly_constant_has_as_few_bins_as_it_can_fill():
    bins = fit_bins([0.0] * 950 + list(range(1, 51)))
    assert bins.edges == [0.5]
    assert bins.shares == [0.95, 0.05, 0.0]
    assert fit_bins([7.0] * 30, by_value=False).shares == [1.0, 0.0]
    assert fit_bins([math.nan] * 3).shares == [0.0, 1.0]


shares = st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any).map(lambda c: [n / sum(c) for n in c])


@given(shares, shares)
def test_psi_is_symmetric_and_nothing_only_where_nothing_moved(expected, actual):
    there, back = (float(psi(np.array([a]), np.array([b]))[0]) for a, b in ((expected, actual), (actual, expected)))
    assert there == pytest.approx(back)
    assert there >= 0
    assert (there < 1e-12) == (expected == pytest.approx(actual))


def test_psi_by_hand():
    found = psi(np.array([[0.5, 0.5]]), np.array([[0.8, 0.2]]))[0]
    assert found == pytest.approx(0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5))  # 0.416: far beyond 0.25
    emptied = psi(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0]  # the furthest that anything can go
    assert emptied == pytest.approx(2 * (1 - LEAST_SHARE) * math.log(1 / LEAST_SHARE))


@given(st.data(), columns, columns, st.lists(st.integers(0, 900), min_size=1, max_size=6))
def test_a_window_says_what_the_newest_values_say_however_they_came(data, first, second, sizes):
    bins = [fit_bins(first), fit_bins(second)]
    window, size = DriftWindow(bins, 600), 600
    rng = np.random.default_rng(data.draw(st.integers(0, 5)))
    pool = np.array([*first, *second, 0.0, 1.0, math.nan])
    seen = np.zeros((0, 2))
    for count in sizes:
        values = rng.choice(pool, (count, 2))
        seen = np.concatenate([seen, values])
        window.add(values)
        assert window.rows == min(size, len(seen))
        newest = seen[-size:]
        if len(seen) < LEAST_VALUES:
            assert all(map(math.isnan, window.psi()))
        else:
            expected = [naive_psi(one, newest[:, c].tolist()) for c, one in enumerate(bins)]
            assert window.psi() == pytest.approx(expected)


def test_a_window_of_a_stream_that_stays_tells_little_and_one_that_moved_much():
    rng = np.random.default_rng(0)
    bins = [fit_bins(rng.normal(size=20_000)), fit_bins(rng.integers(0, MOST_VALUES, 20_000).astype(float))]
    for _ in range(200):  # with the fewest values that tell anything
        window = DriftWindow(bins, LEAST_VALUES)
        window.add(np.column_stack([rng.normal(size=LEAST_VALUES), rng.integers(0, MOST_VALUES, LEAST_VALUES)]))
        assert max(window.psi()) < 0.15
    window.add(np.column_stack([rng.normal(1, 1, LEAST_VALUES), rng.integers(5, 25, LEAST_VALUES)]))
    assert min(window.psi()) > 0.25


def test_of_a_vector_the_first_channels_are_watched():
    features = {
        "amount": {"kind": "numeric"},
        "embedding": {"kind": "vector", "length": 1000},
        "stars": {"kind": "one_hot", "values": list(range(50))},
    }
    schema = parse_schema({"name": "x", "features": features, "relations": {"user": {"group_by": ["user"]}}}, "x")
    names = [schema.own_channels[c] for c in watched(schema)]
    assert names[:3] == ["amount", "embedding[0]", "embedding[1]"]
    assert names[VECTOR_CHANNELS] == f"embedding[{VECTOR_CHANNELS - 1}]"
    assert names[1 + VECTOR_CHANNELS :] == [f"stars={i}" for i in range(50)]


# ---- in a checkpoint ----

SOUND = {"values": [0.0, 1.0], "shares": [0.6, 0.4, 0.0, 0.0]}


def damaged():
    yield {"features": {"stars=1": SOUND}}, "Object missing required field `scores`"
    yield {"features": {}, "scores": SOUND}, "its channels are not the schema's"
    yield {"features": {"moons": SOUND}, "scores": SOUND}, "its channels are not the schema's"
    for bins, problem in (
        ({"values": [0.0], "shares": [1.0]}, "1 shares, expected 3"),
        ({"edges": [0.5, 0.2], "shares": [0.2] * 4}, "2 edges or values, expected at most 250, rising"),
        ({"edges": list(range(300)), "shares": [0.0] * 302}, "300 edges or values, expected at most 250"),
        ({"edges": [0.5], "values": [0.0], "shares": [0.2] * 3}, "edges and values, expected one of them"),
        ({"edges": [0.5], "shares": ["much", 0.0, 0.0]}, "Expected `float`, got `str`"),
    ):
        yield {"features": {"stars=1": bins}, "scores": SOUND}, problem


@pytest.mark.parametrize(("reference", "problem"), list(damaged()))
def test_a_damaged_reference_is_refused_in_one_line(reference, problem):
    with pytest.raises(CheckpointError, match="the model's reference is damaged: ") as refused:
        reference_of({"reference": reference}, world())
    assert problem in str(refused.value)
    assert str(refused.value).endswith("train it again")


def test_a_checkpoint_without_a_reference_has_none_and_the_same_version(tmp_path):
    model = random_model(world())
    assert reference_of(model.report, model.schema) is None
    without = model.version
    model.report["reference"] = {"features": {"stars=1": SOUND}, "scores": SOUND}
    assert model.version == without
    model.save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["reference"] == model.report["reference"]
    assert reference_of(model.report, model.schema).features["stars=1"] == Bins(**SOUND)
