"""The transform of inputs: compiled code beside what numpy finds, to the bit, on every level of processors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.instructions import KNOTS, LEVEL
from pipeline.operations import ENTRY, NEW
from pipeline.transform import Floats, Raw, Transform, look_up

EXTREMES = [0.0, -0.0, 1e-30, 3e38, -3e38]


def slow(transform: Transform, c: int, raw: Floats) -> Floats:
    """Channel c of it, one number after the other."""
    of_channel = slice(transform.start[c], transform.start[c + 1])
    x, z = transform.x[of_channel], transform.z[of_channel]
    slope = np.append(np.diff(z) / np.diff(x), np.float32(0))
    found = []
    for value in np.clip(raw, x[0], x[-1]):
        low = int(np.searchsorted(x, value, side="right")) - 1
        found.append(z[low] + slope[low] * (value - x[low]))
    return np.array(found, np.float32)


def random_transform(rng: np.random.Generator, channels: int) -> Transform:
    counts = rng.integers(1, KNOTS + 1, channels)
    counts[rng.integers(0, channels)] = KNOTS
    x = [np.unique(rng.normal(0, 10, count).astype(np.float32)) for count in counts]
    start = np.cumsum([0, *map(len, x)], dtype=np.int32)
    return Transform(start, np.concatenate(x), rng.normal(size=start[-1]).astype(np.float32))


def random_raw(rng: np.random.Generator, transform: Transform, rows: int) -> Floats:
    """Numbers anywhere, on knots and far beyond them."""
    channels = len(transform.start) - 1
    raw = rng.normal(0, 12, (rows, channels)).astype(np.float32)
    for c in range(channels):
        raw[::3, c] = rng.choice(transform.x[transform.start[c] : transform.start[c + 1]], len(raw[::3]))
    raw[1::5] = rng.choice(EXTREMES, raw[1::5].shape)
    return raw


@given(st.integers(0, 10_000), st.integers(0, LEVEL), st.integers(1, 40), st.integers(0, 20))
@settings(deadline=None)
def test_a_number_lies_on_the_line_between_its_knots(seed, level, channels, rows):
    rng = np.random.default_rng(seed)
    transform = random_transform(rng, channels)
    raw = random_raw(rng, transform, rows)
    keep = rng.permutation(channels)[: rng.integers(1, channels + 1)].astype(np.int32)
    out = np.full((rows, len(keep)), np.nan, np.float32)
    look_up(transform.tables(keep)._replace(level=level), Raw.of(raw), np.zeros((0, len(keep)), np.float32), out)
    for k, c in enumerate(keep.tolist()):
        np.testing.assert_array_equal(out[:, k], slow(transform, c, raw[:, c]))


@pytest.mark.parametrize("keep", [[0, 1, 2, 3], [3, 0, 2, 1], [2, 3]])
def test_own_channels_of_a_node_that_is_scored_again_stay_as_they_were_made(keep):
    rng = np.random.default_rng(0)
    transform = random_transform(rng, 4)
    raw = random_raw(rng, transform, 3)
    entries = np.zeros(3, ENTRY)
    entries["previous"] = [NEW, 5, ~0]  # its own event, a row of the store, the entry before
    store = rng.normal(size=(6, len(keep))).astype(np.float32)
    out = np.zeros((3, len(keep)), np.float32)
    look_up(transform.tables(np.array(keep, np.int32)), Raw(entries, raw[:1, :2].copy(), raw[:, 2:].copy()), store, out)
    for k, c in enumerate(keep):
        of_new = slow(transform, c, raw[:1, c])
        own = [of_new[0], store[5, k], of_new[0]]
        np.testing.assert_array_equal(out[:, k], own if c < 2 else slow(transform, c, raw[:, c]))
