"""Drift: how far a stream has moved from what its model was trained on.

    PSI = sum over bins of (a - e) * ln(a / e)      e: the bin's share of the reference, a: of the newest values

This is the population stability index, 0 where nothing has moved. By custom a value below 0.1 is little, one up to 0.25
moderate, and one beyond it a change to act on (Siddiqi, Intelligent Credit Scoring, 2nd ed., Wiley 2017, p. 369).

    Bins         the bins of one channel, and the reference's share of each
    Reference    the bins of every channel, as a checkpoint holds them
    DriftWindow  the bins of the newest values, and their PSI

A channel of few distinct values has a bin for each and one for all others; one of many has ten, with about as many
reference values each. One more is for what is missing (nan). A bin whose share is below LEAST_SHARE counts as
having it: the logarithm of 0 would drown all else.

Where nothing has moved, n values give a PSI of about chi-square(bins - 1) / n (Yurdakul and Naranjo, Statistical
properties of the population stability index, Journal of Risk Model Validation 14(4), 2020): with LEAST_VALUES of them
it stays below 0.1 in 99 cases of 100, even with the most bins that `fit_bins` makes.

C channels, B bins of the channel that has the most, n values a channel.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import CheckpointError
from pipeline.schema import Schema
from pipeline.sections import Vector

MOST_VALUES = 20  # distinct ones that have a bin each
DECILES = np.arange(1, 10) / 10
LEAST_SHARE = 1e-4
LEAST_VALUES = 500
MOST_POINTS = 250  # of a channel in a checkpoint: a bin's number is a byte
VECTOR_CHANNELS = 32  # watched of a vector: a metric for each of its thousands would help nobody

Shares = npt.NDArray[np.float64]


class Bins(Struct, frozen=True, omit_defaults=True):
    """One channel. With `edges`, bin i holds what lies above edge i - 1 and up to edge i; with `values`, value i alone.

    Either way one bin follows for all that is beyond (above the last edge; none of the values), then the missing.
    """

    shares: list[float]
    edges: list[float] = []
    values: list[float] = []

    def __post_init__(self) -> None:
        points = self.edges or self.values
        if self.edges and self.values:
            raise ValueError("edges and values, expected one of them")
        if len(points) > MOST_POINTS or any(a >= b for a, b in pairwise(points)):
            raise ValueError(f"{len(points)} edges or values, expected at most {MOST_POINTS}, rising")
        if len(self.shares) != len(points) + 2:
            raise ValueError(f"{len(self.shares)} shares, expected {len(points) + 2}")

    def place(self, values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the number of each value's bin.  # (n,)"""
        points, found = np.array(self.edges or self.values), np.asarray(values, np.float64)
        number = np.searchsorted(points, found)
        if self.values:
            known = points[np.minimum(number, len(points) - 1)] == found
            number = np.where(known, number, len(points))
        return np.where(np.isnan(found), len(points) + 1, number).astype(np.uint8)


class Reference(Struct, frozen=True):
    """What drift is measured against."""

    features: dict[str, Bins]  # own channels of node events, in the training part
    scores: Bins  # of the model, from the test part on


def fit_bins(values: npt.ArrayLike, by_value: bool = True) -> Bins:
    """Return the bins of a channel and the shares of `values` in them.

    `by_value` lets a channel of few values have a bin for each. Scores have none: they differ in their last digits.
    Edges lie halfway between two neighbouring values, so that such a digit moves nothing across.
    """
    found = np.asarray(values, np.float64)
    distinct = np.unique(found[~np.isnan(found)])
    if by_value and len(distinct) <= MOST_VALUES:
        return _with_shares(Bins([0.0] * (len(distinct) + 2), values=distinct.tolist()), found)
    tenths = np.unique(np.nanquantile(found, DECILES, method="inverted_cdf"))
    tenths = tenths[tenths < distinct[-1]]
    edges = (tenths + distinct[np.searchsorted(distinct, tenths, "right")]) / 2
    return _with_shares(Bins([0.0] * (len(edges) + 2), edges=edges.tolist()), found)


def _with_shares(bins: Bins, values: Shares) -> Bins:
    counts = np.bincount(bins.place(values), minlength=len(bins.shares))
    return msgspec.structs.replace(bins, shares=(counts / max(1, len(values))).round(6).tolist())


def psi(expected: Shares, actual: Shares) -> Shares:
    """Return the population stability index of each channel.  # (C, B), (C, B) -> (C,)"""
    e, a = np.maximum(expected, LEAST_SHARE), np.maximum(actual, LEAST_SHARE)
    index: Shares = ((a - e) * np.log(a / e)).sum(axis=1)
    return index


class DriftWindow:
    """The newest `size` values of each channel, as the numbers of their bins.

        _ring    (size, C) uint8    the next row goes to _next, where the oldest is once all are in use
        _counts  (C, B)             how many of the ring's rows are in each bin
        _shares  (C, B)             the reference; 0 for bins that a channel does not have

    A row costs a binary search a channel, the index nothing but its sum; memory is size * C bytes, whatever comes.
    """

    def __init__(self, bins: Sequence[Bins], size: int) -> None:
        self.rows = 0  # in use
        self._bins = bins
        most = max(len(one.shares) for one in bins)
        self._shares: Shares = np.array([one.shares + [0.0] * (most - len(one.shares)) for one in bins])
        self._counts = np.zeros((len(bins), most), np.int64)
        self._ring = np.zeros((size, len(bins)), np.uint8)
        self._next = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take up rows of values; the oldest rows leave.  # (n, C)"""
        size = len(self._ring)
        values = values[-size:]
        rows = np.stack([one.place(values[:, c]) for c, one in enumerate(self._bins)], axis=1)
        slots = (self._next + np.arange(len(rows))) % size
        leaving = slots[size - self.rows :]  # those before have never been in use
        self._counts += self._tally(rows) - self._tally(self._ring[leaving])
        self._ring[slots] = rows
        self._next = (self._next + len(rows)) % size
        self.rows = min(size, self.rows + len(rows))

    def psi(self) -> list[float]:
        """Return each channel's PSI against its reference; nan as long as too few values have come."""
        if self.rows < LEAST_VALUES:
            return [math.nan] * len(self._bins)
        index: list[float] = psi(self._shares, self._counts / self.rows).tolist()
        return index

    def _tally(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        channels, most = self._counts.shape
        places = rows + np.arange(channels) * most
        return np.bincount(places.ravel(), minlength=channels * most).reshape(channels, most)


def watched(schema: Schema) -> list[int]:
    """Return the own channels whose drift is watched: all, but of a vector the first VECTOR_CHANNELS."""
    found: list[int] = []
    for name, place in schema.own_slices.items():
        most = VECTOR_CHANNELS if isinstance(schema.features[name], Vector) else place.stop - place.start
        found += range(place.start, min(place.stop, place.start + most))
    return found


def reference_of(report: dict[str, Any], schema: Schema) -> Reference | None:
    """Return the reference in a checkpoint's report; None where an older version trained it."""
    if "reference" not in report:
        return None
    try:
        reference = msgspec.convert(report["reference"], Reference)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"the model's reference is damaged: {error}; train it again") from None
    if not reference.features or not reference.features.keys() <= set(schema.own_channels):
        raise CheckpointError("the model's reference is damaged: its channels are not the schema's; train it again")
    return reference
