"""Lists with running sums: the mean over a node's neighbours is one row read, whatever the degree.

    sums   (L, W) float64   one running sum a list: over its members' values, each with its weight

L list capacity, W channels, N row capacity, B entries of a micro-batch, R relations.

Invariant, tested against a slow twin after every kind of event: sums[l] = sum of weight * values over the members of
list l. Every change costs O(W). The sums are float64 because they lose members too: float32 rows added and taken away
ten million times leave an error of about 1e-9, which a float32 sum would exceed within hours. Members leave with the
very values they entered with, so nothing else can drift.

Memory: 8 * L * W bytes.
"""

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled
from pipeline.instructions import add_row, prefetch, read_row
from pipeline.operations import ADD, READ

Floats = npt.NDArray[np.float32]

AHEAD = 10  # operations; six did as well
LINE = 8  # numbers that a line of the processor's cache holds


@compiled
def obey(
    log: npt.NDArray[np.void], sums: npt.NDArray[np.float64], entries: Floats, store: Floats, means: Floats
) -> None:
    """Carry out operations in order, and write the means that were read, 0 for an empty list. Slots come in order.

    entries  (B, W) values of this micro-batch's nodes
    store    (N, W) values of the rows as they were before it
    means    (B, R, W)
    """
    width, slots, written = sums.shape[1], means.reshape(-1, sums.shape[1]), 0
    for i in range(len(log)):
        if i + AHEAD < len(log):
            soon = sums[log[i + AHEAD].list]
            for c in range(0, width, LINE):
                prefetch(soon, c)
        own, weight, source = log[i].list, log[i].weight, log[i].source
        if log[i].kind == ADD:
            if source >= 0:
                add_row(sums, own, weight, store, source)
            else:
                add_row(sums, own, weight, entries, ~source)
        elif log[i].kind == READ:
            slots[written:source] = 0.0
            read_row(sums, own, weight, slots, source)
            written = source + 1
        elif weight == 0.0:  # not by multiplication: an emptied list starts again at exactly 0
            sums[own] = 0.0
        else:
            for c in range(width):
                sums[own, c] *= weight
    slots[written:] = 0.0
