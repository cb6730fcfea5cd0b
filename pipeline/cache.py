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
