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
from pipeline.instructions import prefetch
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
        operation = log[i]
        total, weight, source = sums[operation.list], operation.weight, operation.source
        if operation.kind == ADD:
            values = store[source] if source >= 0 else entries[~source]
            for c in range(width):
                total[c] += weight * values[c]
        elif operation.kind == READ:
            slots[written:source] = 0.0
            mean, written = slots[source], source + 1
            for c in range(width):
                mean[c] = weight * total[c]
        elif weight == 0.0:  # not by multiplication: an emptied list starts again at exactly 0
            total[:] = 0.0
        else:
            for c in range(width):
                total[c] *= weight
    slots[written:] = 0.0
