"""The compiled code of whole-graph inference: a pass over a sparse matrix, and what follows a dense product."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined
from pipeline.instructions import LANES, row_sum_16, row_sum_32, row_sum_64

Floats = npt.NDArray[np.float32]


class Csr(NamedTuple):
    """A sparse matrix: row i stands in start[i] to start[i + 1]."""

    start: npt.NDArray[np.int64]  # (N + 1,)
    column: npt.NDArray[np.int32]  # (E,)
    value: Floats  # (E,)


@inlined
def _sum_of(matrix: Csr, i: int, table: Floats, total: Floats) -> None:
    """Write row i of matrix table. All W channels, though fewer may be wanted, for whole registers of them."""
    start, column, value = matrix
    first, end, width, c = start[i], start[i + 1], len(total), 0
    while c + 4 * LANES <= width:
        row_sum_64(column, value, first, end, table, c, total)
        c += 4 * LANES
    if c + 2 * LANES <= width:
        row_sum_32(column, value, first, end, table, c, total)
        c += 2 * LANES
    if c + LANES <= width:
        row_sum_16(column, value, first, end, table, c, total)
        c += LANES
    if c < width <= LANES:
        total[:] = np.float32(0.0)
        for e in range(first, end):
            for o in range(width):
                total[o] += value[e] * table[column[e], o]
    elif c < width:  # the last ones once more
        row_sum_16(column, value, first, end, table, width - LANES, total)


@compiled
def multiply(
    matrix: Csr, table: Floats, bias: Floats, least: np.float32, out: Floats, first: int, total: Floats
) -> None:
    """Write matrix table + bias, `least` where it is less; `total` (W,) is room for the sum of a row."""
    for i in range(len(out)):
        _sum_of(matrix, i, table, total)
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
