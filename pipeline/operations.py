"""The operation log: all that passes between the graph and the lists.

    ADD    list += weight * values      a row enters (weight > 0) or leaves (weight < 0) the list
    SCALE  list *= weight               a half-life's reference time moves on; weight 0 empties the list
    READ   means[slot] = weight * list  a node reads the list (weight = 1 / sum of the members' weights)

`source` says whose values an ADD takes: a row of the store if >= 0, entry ~source of this micro-batch if negative.
A READ's source is its slot: entry * relations + relation. Lists know no ids and rows know no sums, and the log says
nothing of what the values are: the same log is obeyed with input channels (stage A) and hidden features (stage C).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ADD, SCALE, READ = 0, 1, 2
NEW = -(2**31)  # a `previous` of an entry whose event brings the node's own channels

ENTRY = np.dtype(  # a node whose values are made in this micro-batch
    [
        ("event", "i4"),  # that made it
        ("row", "i4"),
        ("previous", "i4"),  # NEW, or where the node's own channels stay: a row of the store, or ~entry
    ]
)
KEPT = np.dtype([("entry", "i4"), ("row", "i4")])  # where an entry's values are kept afterwards
OPERATION = np.dtype([("weight", "f8"), ("list", "i4"), ("source", "i4"), ("kind", "i4")], align=True)


class Capacity(NamedTuple):
    """For how many rows and lists there is room."""

    rows: int
    lists: int


class Operations(NamedTuple):
    """The operations of one micro-batch, in order, and how large the lists and the means must be to obey them."""

    log: npt.NDArray[np.void]  # (n,) OPERATION
    entries: int  # B: nodes whose values are made in this micro-batch
    relations: int  # R
    capacity: Capacity
    kept: npt.NDArray[np.void]  # (K,) KEPT: the last entry of each live row

    def copy(self) -> "Operations":
        """Return the operations with arrays of their own."""
        return self._replace(log=self.log.copy(), kept=self.kept.copy())
