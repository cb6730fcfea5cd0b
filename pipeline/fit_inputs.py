"""What a fit reads: the samples' own values and means over lists where they lie, standardised batch by batch.

No copy is made of inputs of which every channel is read, the longest arrays of a training: a mini-batch is gathered
from them. Of those of which pruning kept a part that part is copied, for single numbers take long to gather.

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
        self.widths = [len(keep) for keep in reads.keeps]
        relations = [r * reads.means.shape[2] + keep for r, keep in enumerate(reads.keeps[1:])]
        columns = np.concatenate([*relations, np.zeros(0, np.int64)])
        means = reads.means.reshape(len(reads.means), -1)
        self._sources = [_source(reads.own, reads.rows, reads.keeps[0]), _source(means, reads.rows, columns)]
        self._firsts = [0, self.widths[0]]
        statistics = [_statistics(source, rows[train]) for source, rows in self._sources]
        self.mean, self.deviation = (np.concatenate(parts) for parts in zip(*statistics, strict=True))
        self._scale = np.reciprocal(self.deviation)

    def of(self, samples: Integers | slice, out: Floats) -> Floats:
        """Write the inputs of `samples` into the first rows of `out` and return these.  # (b,), (>= b, W) -> (b, W)"""
        for (source, rows), first in zip(self._sources, self._firsts, strict=True):
            wanted = rows[samples]
            place = slice(first, first + source.shape[1])
            gather(source, wanted, first, self.mean[place], self._scale[place], out)
        return out[: len(wanted)]

    def batches(self, part: slice) -> Iterator[Floats]:
        """Yield the inputs of a part of the samples, BATCH at a time; each stays until the next is asked for."""
        room = np.empty((BATCH, sum(self.widths)), np.float32)
        for first in range(part.start, part.stop, BATCH):
            yield self.of(slice(first, min(first + BATCH, part.stop)), room)


def _source(values: Floats, rows: Integers, columns: npt.NDArray[np.integer]) -> tuple[Floats, Integers]:
    """Return an array whose every channel is read, and where the samples lie in it.  # (N, C), (n,), (K,)"""
    if len(columns) == values.shape[1]:
        return values, rows
    return values[np.ix_(rows, columns)], np.arange(len(rows))


def _statistics(source: Floats, rows: Integers) -> tuple[Floats, Floats]:
    """Return the mean and deviation of each channel."""
    origin = source[rows[0]]  # what never varies differs from it by exactly 0
    total, square = np.zeros((2, source.shape[1]))
    add_moments(source, rows, origin, total, square)
    shift = total / len(rows)
    deviation = np.sqrt(np.maximum(square / len(rows) - shift**2, 0.0))
    deviation = np.where(deviation < DEAD, np.inf, np.maximum(deviation, LEAST_DEVIATION))
    return (origin + shift).astype(np.float32), deviation.astype(np.float32)
