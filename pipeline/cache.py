"""The values of every visited node, kept from its event on: input channels for stage A, hidden features for stage C.

    rows   (N, W) float32   row r holds what node r's latest event gave; rows of no live node hold anything

N row capacity, W channels. A stored value is never stale: by the one rule it *is* the node's value, computed on the
graph as it stood when the node's event arrived. A micro-batch reads the store as it was before the batch and writes it
once, afterwards.

Memory: 4 * N * W bytes.
"""

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled
from pipeline.operations import Operations
from pipeline.room import Room

Floats = npt.NDArray[np.float32]


class Cache:
    """Values by row, of one width."""

    def __init__(self, width: int) -> None:
        self._room = Room(np.float32, width)

    @property
    def rows(self) -> Floats:
        return self._room.array

    def restore(self, rows: Floats, capacity: int) -> None:
        """Take up the values that a snapshot holds."""
        self._room = Room.of(rows, capacity, np.float32)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` rows."""
        self._room.reserve(capacity)

    def fill(self, entries: Floats, previous: npt.NDArray[np.int32]) -> None:
        """Give the nan channels of `entries` the row's earlier value: what a `score` event leaves as it was.

        previous  (B,) where that is: a row of the store, or ~entry of an earlier entry of this micro-batch
        """
        _fill(entries, previous, self.rows)

    def keep(self, operations: Operations, entries: Floats) -> None:
        """Store the values of a micro-batch's nodes, the last ones of each."""
        _keep(entries, operations.kept_entry, operations.kept_row, self.rows)


@compiled
def _keep(entries: Floats, kept_entry: npt.NDArray[np.int32], kept_row: npt.NDArray[np.int32], store: Floats) -> None:
    for i in range(len(kept_row)):
        for c in range(entries.shape[1]):
            store[kept_row[i], c] = entries[kept_entry[i], c]


@compiled
def _fill(entries: Floats, previous: npt.NDArray[np.int32], store: Floats) -> None:
    for b in range(len(entries)):
        for c in range(entries.shape[1]):
            if np.isnan(entries[b, c]):
                entries[b, c] = store[previous[b], c] if previous[b] >= 0 else entries[~previous[b], c]
