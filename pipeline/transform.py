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

from pipeline.compiled import compiled, inlined
from pipeline.instructions import KNOTS, LEVEL, interpolate
from pipeline.operations import ENTRY, NEW

Floats = npt.NDArray[np.float32]

CLIP = 8.0  # standard deviations
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
    """A transform's channels as compiled code reads them: all of them with as many knots, infinite ones at the end."""

    keep: npt.NDArray[np.int32]  # (K,) the raw channels that it is of
    x: Floats  # (K, KNOTS)
    z: Floats
    slope: Floats  # from a knot to the next; 0 from the last one on
    last: Floats  # (K,) x of the last knot
    level: int  # of the processor


@dataclass
class Transform:
    start: npt.NDArray[np.int32]
    x: Floats
    z: Floats

    def __post_init__(self) -> None:
        most = int(np.diff(self.start).max(initial=0))
        if most > KNOTS:
            raise ValueError(f"a channel with {most} knots, expected at most {KNOTS}")

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
        x, last = np.full((len(keep), KNOTS), np.inf, np.float32), self.x[self.start[keep + 1] - 1]
        z, slope = np.zeros_like(x), np.zeros_like(x)
        for k, c in enumerate(keep.tolist()):
            of_channel = slice(self.start[c], self.start[c + 1])
            count = self.start[c + 1] - self.start[c]
            x[k, :count], z[k, :count] = self.x[of_channel], self.z[of_channel]
            slope[k, : count - 1] = np.diff(z[k, :count]) / np.diff(x[k, :count])
        return Tables(keep, x, z, slope, last, LEVEL)


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
    width, count = np.uint64(raw.own.shape[1]), len(tables.keep)
    for b in range(len(raw.entries)):
        own, channels = raw.own[raw.entries[b].event], raw.channels[b]
        before = raw.entries[b].previous
        if before == NEW:
            for k in range(count):
                c = np.uint64(tables.keep[k])
                out[b, k] = own[c] if c < width else channels[c - width]
            _interpolate(tables, out, b, 0, count)
            continue
        for k in range(count):
            c = np.uint64(tables.keep[k])
            if c < width:  # what is the node's own stays as it was
                out[b, k] = store[before, k] if before >= 0 else out[~before, k]
            else:
                out[b, k] = channels[c - width]
                _interpolate(tables, out, b, k, k + 1)


@inlined
def _interpolate(tables: Tables, out: Floats, b: int, first: int, end: int) -> None:
    interpolate(tables.x, tables.z, tables.slope, tables.last, out, b, first, end, tables.level)
