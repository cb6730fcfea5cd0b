"""The compiled code of columns of texts (`texts` says how they lie in memory)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

Data = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

BETWEEN, ESCAPE = 0x1F, 0x1E  # two control characters; the second stands for both where a text has one of them


class Column(NamedTuple):
    """A column of texts, for compiled code."""

    data: Data
    start: Starts
    length: Lengths


@compiled
def gather(data: Data, start: Starts, length: Lengths, out: Data) -> None:
    """Write texts one behind the other."""
    at = 0
    for i in range(len(length)):
        for k in range(length[i]):
            out[at + k] = data[start[i] + k]
        at += max(length[i], 0)


@compiled
def join(data: Data, start: Starts, length: Lengths, out_length: Lengths, out: Data) -> int:
    """Write the key of each column of texts, (parts, n), one behind the other; return how many bytes that were."""
    at = 0
    for i in range(length.shape[1]):
        begin, known = at, True
        for part in range(length.shape[0]):
            if part > 0:
                out[at] = BETWEEN
                at += 1
            known = known and length[part, i] >= 0
            for k in range(start[part, i], start[part, i] + length[part, i]):
                byte = data[k]
                if byte in (BETWEEN, ESCAPE):
                    out[at] = ESCAPE
                    at += 1
                    byte = 0x30 + (byte == BETWEEN)  # the digit 1 or 0
                out[at] = byte
                at += 1
        if not known:
            at = begin
        out_length[i] = at - begin if known else -1
    return at
