"""A layer gives what its formula says, bit by bit the same whichever rows are computed together."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import random_model, world

from pipeline.compiled import compiled
from pipeline.instructions import LEVEL, dot
from pipeline.model import Branch, Layer

CHANNELS = 6


def by_formula(layer: Layer, own: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The slow twin: one row, one branch, one output at a time, in float64."""
    rows = []
    for i in range(len(own)):
        row = []
        for b, branch in enumerate(layer.branches):
            values = own[i] if b == 0 else means[i, b - 1]
            for o in range(len(branch.bias)):
                terms = (
                    float(values[c]) * float(w) for c, w in zip(branch.keep, branch.weight[:, o], strict=True)
                )  # fmt: skip
                row.append(max(0.0, sum(terms) + float(branch.bias[o])))
        rows.append(row)
    return np.array(rows, np.float64).reshape(len(own), layer.width)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Branches with as many outputs as fit into registers, and more, and fewer, and none."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kept = draw(st.lists(st.integers(0, CHANNELS), min_size=1, max_size=4))
    outputs = draw(st.lists(st.integers(0, 70) | st.sampled_from([16, 32, 48]), min_size=4, max_size=4))
    return Layer([
        Branch(
            np.sort(rng.choice(CHANNELS, k, replace=False)).astype(np.int32),
            rng.normal(size=(k, o)).astype(np.float32),
            rng.normal(size=o).astype(np.float32),
        )
        for k, o in zip(kept, outputs, strict=False)
    ])  # fmt: skip


@given(layer=layers(), rows=st.integers(0, 60), level=st.integers(0, LEVEL), seed=st.integers(0, 10_000))
def test_a_layer_gives_what_its_formula_says_however_many_rows(layer, rows, level, seed):
    """On every level of processors that this one is of, as an image's code finds them."""
    layer.packed = layer.packed._replace(level=level)
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(rows, CHANNELS)).astype(np.float32) * (rng.uniform(size=(rows, CHANNELS)) < 0.7)
    means = rng.normal(size=(rows, len(layer.branches) - 1, CHANNELS)).astype(np.float32)
    together = layer.forward(own, means)
    assert together == pytest.approx(by_formula(layer, own, means), abs=1e-5)
    for i in range(rows):
        np.testing.assert_array_equal(layer.forward(own[i : i + 1], means[i : i + 1])[0], together[i])


@compiled
def _dot(rows, i, weight):
    return dot(rows, i, weight)


@given(st.integers(0, 70) | st.sampled_from([16, 160]), st.integers(0, 10_000))
def test_a_sum_of_products_is_that_of_one_row_with_the_weights(width, seed):
    rng = np.random.default_rng(seed)
    rows, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((3, width), width))
    exact = rows[1].astype(np.float64) @ weight.astype(np.float64)
    assert _dot(rows, 1, weight) == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_what_is_no_number_does_not_become_one():
    layer = Layer([Branch(np.arange(1, dtype=np.int32), np.ones((1, 3), np.float32), np.zeros(3, np.float32))])
    assert np.isnan(layer.forward(np.full((2, 1), np.nan, np.float32), np.zeros((2, 0, 1), np.float32))).all()


def test_the_shards_of_a_process_may_use_one_model_at_once():
    model, rng = random_model(world(), width=20), np.random.default_rng(0)
    width, relations = model.layers[0].width, len(model.schema.relations)
    read = [
        (
            rng.normal(size=(rows, width)).astype(np.float32),
            rng.normal(size=(rows, relations, width)).astype(np.float32),
        )
        for rows in rng.integers(1, 40, 200)
    ]
    alone = [model.scores(*what) for what in read]
    with ThreadPoolExecutor(4) as threads:
        for scores, expected in zip(threads.map(lambda what: model.scores(*what), read), alone, strict=True):
            np.testing.assert_array_equal(scores, expected)
