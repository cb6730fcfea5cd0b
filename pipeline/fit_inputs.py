"""What a fit reads: the samples' own values and means over lists where they lie, standardised batch by batch.

No copy of the inputs is made, which are the longest arrays of a training: a mini-batch is gathered from them.

N entries, n samples among them, K channels an entry, R relations, W channels of all branches side by side.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.fit_kernel import add_moments, gather

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
LEAST_DEVIATION = 0.05  # a channel that hardly varies in training is not blown up: later it may
BATCH = 1024  # samples; a matter of speed only
DEAD = 1e-6  # one that does not vary at all taught nothing and is left out


class Reads(NamedTuple):
    """What the branches of a layer read of the samples."""

    own: Floats  # (N, K)
    means: Floats  # (N, R, K)
    rows: Integers  # (n,) the samples' entries
    keeps: Sequence[npt.NDArray[np.int32]]  # a branch each: channels, ascending

    @staticmethod
    def every(values: tuple[Floats, Floats], rows: Integers) -> "Reads":
        """Let all branches read all channels."""
        own, means = values
        return Reads(own, means, rows, [np.arange(own.shape[1], dtype=np.int32)] * (1 + means.shape[1]))


class Inputs:
    """Standardised inputs of samples, by statistics of the training part.

    mean       (W,)
    deviation  (W,)  infinite, so that nothing is left, for a channel that never varies
    """

    def __init__(self, reads: Reads, train: slice) -> None:
        self.rows = reads.rows
        self.widths = [len(keep) for keep in reads.keeps]
        starts = np.cumsum([0, *self.widths])
        means = reads.means.reshape(len(reads.means), -1)
        columns = [r * reads.means.shape[2] + keep for r, keep in enumerate(reads.keeps[1:])]
        columns = np.concatenate([*columns, np.zeros(0, np.int64)])
        self._sources = [(reads.own, runs(reads.keeps[0], 0)), (means, runs(columns, int(starts[1])))]
        self.mean, self.deviation = self._statistics(train, int(starts[-1]))
        self._scale = np.float32(1.0) / self.deviation

    def of(self, samples: Integers | slice, out: Floats) -> Floats:
        """Write the inputs of `samples` into the first rows of `out` and return these.  # (b,), (>= b, W) -> (b, W)"""
        rows = self.rows[samples]
        for source, runs in self._sources:
            gather(source, rows, runs, self.mean, self._scale, out)
        return out[: len(rows)]

    def batches(self, part: slice) -> Iterator[Floats]:
        """Yield the inputs of a part of the samples, BATCH at a time; each stays until the next is asked for."""
        room = np.empty((BATCH, sum(self.widths)), np.float32)
        for first in range(part.start, part.stop, BATCH):
            yield self.of(slice(first, min(first + BATCH, part.stop)), room)

    def _statistics(self, train: slice, width: int) -> tuple[Floats, Floats]:
        rows = self.rows[train]
        origin = np.zeros(width, np.float32)  # the first sample: what never varies differs from it by exactly 0
        total, square = np.zeros(width), np.zeros(width)
        for source, runs in self._sources:
            gather(source, rows[:1], runs, np.zeros_like(origin), np.ones_like(origin), origin[None])
            add_moments(source, rows, runs, origin, total, square)
        shift = total / len(rows)
        deviation = np.sqrt(np.maximum(square / len(rows) - shift**2, 0.0))
        deviation = np.where(deviation < DEAD, np.inf, np.maximum(deviation, LEAST_DEVIATION))
        return (origin + shift).astype(np.float32), deviation.astype(np.float32)


def runs(columns: npt.NDArray[np.integer], to: int) -> Integers:
    """Return `columns`, which go to places from `to` on, as runs of neighbours.  # (S, 3): from, to, how many"""
    starts = np.flatnonzero(np.diff(columns, prepend=-2) != 1)
    counts = np.diff(starts, append=len(columns))
    return np.stack([columns[starts], to + starts, counts], axis=1).astype(np.int64)
