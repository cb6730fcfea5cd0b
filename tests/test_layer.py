"""A layer gives what its formula says, by the compiled loop for few rows and by matrix products for many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import Branch, Layer


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


@given(
    seed=st.integers(0, 10_000),
    rows=st.sampled_from([0, 1, 5]),
    few_rows=st.sampled_from([0, 5]),
    kept=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    outputs=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_both_ways_give_what_the_formula_says(seed, rows, few_rows, kept, outputs):
    rng = np.random.default_rng(seed)
    layer = Layer([
        Branch(
            np.sort(rng.choice(6, k, replace=False)).astype(np.int32),
            rng.normal(size=(k, o)).astype(np.float32),
            rng.normal(size=o).astype(np.float32),
        )
        for k, o in zip(kept, outputs, strict=False)
    ])  # fmt: skip
    layer.few_rows = few_rows
    own = rng.normal(size=(rows, 6)).astype(np.float32) * (rng.uniform(size=(rows, 6)) < 0.7)
    means = rng.normal(size=(rows, len(kept) - 1, 6)).astype(np.float32)
    assert layer.forward(own, means) == pytest.approx(by_formula(layer, own, means), abs=1e-5)


def test_few_rows_and_many_agree():
    rng = np.random.default_rng(0)
    branches = [rng.normal(size=(40, 30)).astype(np.float32) for _ in range(3)]
    layer = Layer([Branch(np.arange(40, dtype=np.int32), w, w[0]) for w in branches])
    own, means = rng.normal(size=(64, 40)).astype(np.float32), rng.normal(size=(64, 2, 40)).astype(np.float32)
    layer.few_rows = 1
    many = layer.forward(own, means)
    few = np.concatenate([layer.forward(own[i : i + 1], means[i : i + 1]) for i in range(64)])
    assert few == pytest.approx(many, abs=2e-5)
