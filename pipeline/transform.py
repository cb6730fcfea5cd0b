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

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

Floats = npt.NDArray[np.float32]

CLIP = 8.0  # standard deviations
KNOTS = 65  # quantiles a channel
APART = 1e-3  # knots differ by at least this share of their value: a float32's error grows a thousandfold at most
KINDS = ("quantile", "standardised")


@dataclass
class Transform:
    start: npt.NDArray[np.int32]
    x: Floats
    z: Floats

    def apply(self, raw: Floats, keep: npt.NDArray[np.int32]) -> Floats:
        """Return the transformed channels `keep`; nan stays nan.  # (B, C) -> (B, K)"""
        out = np.empty((len(raw), len(keep)), np.float32)
        _apply(raw, keep, self.start, self.x, self.z, out)
        return out


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
def side_by_side(
    own: Floats, event: npt.NDArray[np.int32], stays: npt.NDArray[np.bool_], channels: Floats, raw: Floats
) -> None:
    """Write entries' raw channels: those of its event, nan where they stay as they were, and the graph's."""
    width = own.shape[1]
    for b in range(len(event)):
        for c in range(width):
            raw[b, c] = np.nan if stays[event[b]] else own[event[b], c]
        for c in range(channels.shape[1]):
            raw[b, width + c] = channels[b, c]


@compiled
def _apply(
    raw: Floats, keep: npt.NDArray[np.int32], start: npt.NDArray[np.int32], x: Floats, z: Floats, out: Floats
) -> None:
    for k in range(len(keep)):
        first, last = start[keep[k]], start[keep[k] + 1] - 1
        for b in range(len(raw)):
            value = raw[b, keep[k]]
            if value <= x[first]:
                out[b, k] = z[first]
            elif value >= x[last]:
                out[b, k] = z[last]
            elif np.isnan(value):
                out[b, k] = value
            else:
                low, knots = first, last - first  # x[low] <= value < x[low + knots]
                while knots > 1:  # without a branch that the processor would have to guess
                    half = knots // 2
                    low += half * (x[low + half] <= value)
                    knots -= half
                out[b, k] = z[low] + (z[low + 1] - z[low]) * (value - x[low]) / (x[low + 1] - x[low])
