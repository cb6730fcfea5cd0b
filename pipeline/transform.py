"""Input transforms: raw channels -> what the model reads, as plain tables.

Channel c has knots x and values z; between knots the transform is linear, beyond them constant. That one form holds
    indicator      0 -> 0, 1 -> 1
    standardised   mean -> 0, a standard deviation -> 1, cut at CLIP
    quantile       a value -> the standard normal quantile of its mid-rank in the training part
and bounds every input: no number a producer can send, however large, can poison a running sum.

    start  (C + 1,) int32     the knots of channel c are start[c] .. start[c + 1]
    x, z   (knots,) float32   x ascending within a channel
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled
from pipeline.operations import ENTRY, NEW

Floats = npt.NDArray[np.float32]

CLIP = 8.0  # standard deviations
KNOTS = 65  # quantiles a channel
APART = 1e-3  # knots differ by at least this share of their value: a float32's error grows a thousandfold at most
KINDS = ("quantile", "standardised")


class Raw(NamedTuple):
    """The raw channels of B entries where they lie: their events' own ones, and the graph's."""

    entries: npt.NDArray[np.void]  # (B,) ENTRY
    own: Floats  # (n, F) of the events
    channels: Floats  # (B, G)

    @staticmethod
    def of(matrix: Floats) -> "Raw":
        """Return raw channels that lie side by side.  # (B, C)"""
        entries = np.zeros(len(matrix), ENTRY)
        entries["event"], entries["previous"] = np.arange(len(matrix)), NEW
        return Raw(entries, matrix, np.zeros((len(matrix), 0), np.float32))

    def matrix(self) -> Floats:
        """Return the channels side by side; nan for own ones that stay as they were.  # (B, C)"""
        own = self.own[self.entries["event"]]
        own[self.entries["previous"] != NEW] = np.nan
        return np.concatenate([own, self.channels], axis=1)

    def copy(self) -> "Raw":
        """Return the channels of the entries alone, for good."""
        entries = self.entries.copy()
        entries["event"] = np.arange(len(entries))
        return Raw(entries, self.own[self.entries["event"]], self.channels.copy())


class Tables(NamedTuple):
    """A transform's arrays, for compiled code."""

    keep: npt.NDArray[np.int32]  # (K,) the raw channels that it is of
    start: npt.NDArray[np.int32]
    x: Floats
    z: Floats


@dataclass
class Transform:
    start: npt.NDArray[np.int32]
    x: Floats
    z: Floats

    def apply(self, raw: Floats, keep: npt.NDArray[np.int32]) -> Floats:
        """Return the transformed channels `keep` of channels that lie side by side.  # (B, C) -> (B, K)"""
        return self.inputs(Raw.of(raw), keep, np.zeros((0, len(keep)), np.float32))

    def inputs(self, raw: Raw, keep: npt.NDArray[np.int32], store: Floats) -> Floats:
        """Return the transformed channels `keep`: what layer 1's self branch reads.  # (B, K)

        store  (N, K) what this returned for each row's latest entry
        """
        out = np.empty((len(raw.entries), len(keep)), np.float32)
        look_up(self.tables(keep), raw, store, out)
        return out

    def tables(self, keep: npt.NDArray[np.int32]) -> Tables:
        """Return the tables of the channels `keep`, for compiled code."""
        return Tables(keep, self.start, self.x, self.z)


def fit_transform(kind: str, raw: Floats, indicators: list[bool]) -> Transform:
    """Fit a transform of `kind` on `raw`, the training part's raw channels; nan is left out.  # (n, C)"""
    tables = [
        (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
        if indicator
        else _table(kind, np.sort(raw[~np.isnan(raw[:, c]), c].astype(np.float64)))
        for c, indicator in enumerate(indicators)
    ]
    start = np.cumsum([0, *(len(x) for x, _ in tables)], dtype=np.int32)
    x, z = (np.concatenate(column).astype(np.float32) for column in zip(*tables, strict=True))
    return Transform(start, x, z)


def _table(kind: str, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Knots of one channel from its sorted values."""
    if values[0] == values[-1]:
        return values[:1], np.zeros(1)
    if kind == "standardised":
        mean, deviation = values.mean(), values.std()
        return np.array([mean - CLIP * deviation, mean + CLIP * deviation]), np.array([-CLIP, CLIP])
    knots = _apart(np.unique(np.quantile(values, np.linspace(0, 1, KNOTS)).astype(np.float32)).astype(np.float64))
    rank = (np.searchsorted(values, knots, "left") + np.searchsorted(values, knots, "right")) / (2 * len(values))
    edge = 0.5 / len(values)
    normal = NormalDist()
    return knots, np.array([normal.inv_cdf(p) for p in np.clip(rank, edge, 1 - edge).tolist()])


def _apart(knots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Drop knots that crowd: between two of them the last digit of a float32 would decide, and scores with it."""
    least = APART * np.maximum(np.abs(knots), APART * np.abs(knots).max())
    kept = [0]
    for i in range(1, len(knots)):
        if knots[i] - knots[kept[-1]] >= least[i]:
            kept.append(i)
    return knots[kept]


@compiled
def look_up(tables: Tables, raw: Raw, store: Floats, out: Floats) -> None:
    """Write the transformed channels of `raw`.  # -> (B, K)

    store  (N, K) what this wrote for each row's latest entry
    """
    width = raw.own.shape[1]
    for b in range(len(raw.entries)):
        before = raw.entries[b].previous
        for k in range(len(tables.keep)):
            c = tables.keep[k]
            first, last = tables.start[c], tables.start[c + 1] - 1
            if c >= width:
                out[b, k] = _between(tables, first, last, raw.channels[b, c - width])
            elif before == NEW:
                out[b, k] = _between(tables, first, last, raw.own[raw.entries[b].event, c])
            else:
                out[b, k] = store[before, k] if before >= 0 else out[~before, k]


@compiled
def _between(tables: Tables, first: int, last: int, value: np.float32) -> float:
    x, z = tables.x, tables.z
    if value <= x[first]:
        return float(z[first])
    if value >= x[last]:
        return float(z[last])
    below = np.int32(0)
    for knot in range(np.uint64(first), np.uint64(last)):  # all of them: eight are compared at once, none is guessed
        below += np.int32(x[knot] <= value)
    low = first + below - 1
    return float(z[low] + (z[low + 1] - z[low]) * (value - x[low]) / (x[low + 1] - x[low]))
