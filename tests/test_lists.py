"""Lists with running sums: compiled code beside numpy, one operation after the other, to the bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lists import obey
from pipeline.operations import ADD, OPERATION, READ, SCALE

ROWS, LISTS, ENTRIES, RELATIONS = 5, 4, 6, 3


def random_log(rng: np.random.Generator, operations: int) -> np.ndarray:
    log = np.zeros(operations, OPERATION)
    log["kind"], log["list"] = rng.choice([ADD, SCALE, READ], operations), rng.integers(0, LISTS, operations)
    log["weight"] = np.where(rng.random(operations) < 0.2, 0.0, rng.normal(size=operations))
    log["source"] = rng.integers(-ENTRIES, ROWS, operations)
    reads = log["kind"] == READ
    reads &= np.cumsum(reads) <= ENTRIES * RELATIONS
    log["kind"][(log["kind"] == READ) & ~reads] = SCALE
    log["source"][reads] = np.sort(rng.choice(ENTRIES * RELATIONS, reads.sum(), replace=False))
    return log


def slow(log: np.ndarray, sums: np.ndarray, entries: np.ndarray, store: np.ndarray) -> np.ndarray:
    means = np.zeros((ENTRIES * RELATIONS, sums.shape[1]), np.float32)
    for weight, own, source, kind in log.tolist():
        if kind == ADD:
            sums[own] += weight * (store[source] if source >= 0 else entries[~source]).astype(np.float64)
        elif kind == READ:
            means[source] = (weight * sums[own]).astype(np.float32)
        else:
            sums[own] = sums[own] * weight if weight != 0.0 else 0.0
    return means.reshape(ENTRIES, RELATIONS, -1)


@given(st.integers(0, 10_000), st.integers(1, 70), st.integers(0, 60))
@settings(deadline=None)
def test_lists_obey_as_numpy_would_whatever_their_width(seed, width, operations):
    rng = np.random.default_rng(seed)
    log = random_log(rng, operations)
    sums, guard = rng.normal(size=(LISTS + 1, width)), rng.normal(size=width)
    sums[LISTS] = guard
    entries, store = (rng.normal(size=(n, width)).astype(np.float32) for n in (ENTRIES, ROWS))
    means, wanted = np.full((ENTRIES, RELATIONS, width), np.nan, np.float32), sums.copy()
    obey(log, sums, entries, store, means)
    np.testing.assert_array_equal(means, slow(log, wanted, entries, store))
    np.testing.assert_array_equal(sums, wanted)
