"""What is remembered of one stage's values, input channels for stage A and hidden features for stage C: those of every
visited node, from its event on, and their sums over every list.

    rows   (N, W) float32   row r holds what node r's latest event gave; rows of no live node hold anything
    sums   (L, W) float64   see `lists`

N row capacity, L list capacity, W channels. A stored value is never stale: by the one rule it *is* the node's value,
computed on the graph as it stood when the node's event arrived. A micro-batch reads the rows as they were before it and
writes them once, afterwards.

Memory: 4 * N * W + 8 * L * W bytes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled
from pipeline.operations import Capacity
from pipeline.room import Room

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]


class Values(NamedTuple):
    """A cache's arrays, for compiled code."""

    rows: Floats  # (N, W)
    sums: Sums  # (L, W)


class Cache:
    """One stage's values. Its arrays never move, they become longer (see `room`)."""

    def __init__(self, width: int) -> None:
        self._rows, self._sums = Room(np.float32, width), Room(np.float64, width)
        self._take(Capacity(0, 0))

    def with_room(self, capacity: Capacity) -> Values:
        """Return its arrays, with room for so many rows and lists."""
        if capacity != self._capacity:
            self._take(capacity)
        return self.values

    def restore(self, rows: Floats, sums: Sums, capacity: Capacity) -> None:
        """Take up what a snapshot holds."""
        self._rows = Room.of(rows, capacity.rows, np.float32)
        self._sums = Room.of(sums, capacity.lists, np.float64)
        self._take(capacity)

    def _take(self, capacity: Capacity) -> None:
        rows, sums = self._rows.reserve(capacity.rows).array, self._sums.reserve(capacity.lists).array
        self.values, self._capacity = Values(rows, sums), capacity


@compiled
def keep(entries: Floats, kept: npt.NDArray[np.void], store: Floats) -> None:
    """Store the values of a micro-batch's nodes, the last ones of each.

    entries  (B, W)
    kept     (K,) KEPT
    """
    for i in range(len(kept)):
        entry, row = kept[i].entry, kept[i].row
        for c in range(entries.shape[1]):
            store[row, c] = entries[entry, c]
