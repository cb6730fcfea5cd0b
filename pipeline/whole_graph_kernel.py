"""The compiled code of whole-graph inference: a pass over a sparse matrix, and what follows a dense product."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

Floats = npt.NDArray[np.float32]


class Csr(NamedTuple):
    """A sparse matrix: row i stands in start[i] to start[i + 1]."""

    start: npt.NDArray[np.int64]  # (N + 1,)
    column: npt.NDArray[np.int32]  # (E,)
    value: Floats  # (E,)


@compiled
def multiply(
    matrix: Csr, table: Floats, bias: Floats, least: np.float32, out: Floats, first: int, total: Floats
) -> None:
    """Write matrix table + bias, `least` where it is less; `total` (W,) is room for the sum of a row.

    Four rows of the table are added at once, for the sum is in memory too. All W channels are, though fewer may be
    wanted: a row of whole lines leaves no rest to go through number by number.
    """
    start, column, value = matrix
    width = len(total)
    for i in range(len(out)):
        for o in range(width):
            total[o] = np.float32(0.0)
        e, end = start[i], start[i + 1]
        while e + 4 <= end:
            a, b, c, d = table[column[e]], table[column[e + 1]], table[column[e + 2]], table[column[e + 3]]
            of_a, of_b, of_c, of_d = value[e], value[e + 1], value[e + 2], value[e + 3]
            for o in range(width):
                total[o] += (of_a * a[o] + of_b * b[o]) + (of_c * c[o] + of_d * d[o])
            e += 4
        for rest in range(e, end):
            row, of_row = table[column[rest]], value[rest]
            for o in range(width):
                total[o] += of_row * row[o]
        place = out[i, first : first + len(bias)]
        for o in range(len(place)):
            place[o] = max(total[o] + bias[o], least)


@compiled
def finish(product: Floats, bias: Floats, out: Floats, first: int) -> None:
    """Write relu(product + bias), from channel `first` on.  # (N, O), (O,) -> (N, O)"""
    for i in range(len(out)):
        row, total = product[i], out[i, first : first + len(bias)]
        for o in range(len(total)):
            total[o] = max(row[o] + bias[o], np.float32(0.0))
