"""The compiled code of columns of texts (`texts` says how they lie in memory)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined

Data = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]

PACKED_BYTES = 5  # of a text in msgpack, besides its own, at most
BETWEEN, ESCAPE = 0x1F, 0x1E  # two control characters; the second stands for both where a text has one of them


class Column(NamedTuple):
    """A column of texts, for compiled code."""

    data: Data
    start: Starts
    length: Lengths


class Parts(NamedTuple):
    """Which fields a relation's key is made of: relation r of field[first[r]] to field[first[r + 1]]."""

    field: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


@compiled
def gather(data: Data, start: Starts, length: Lengths, out: Data) -> None:
    """Write texts one behind the other."""
    at = 0
    for i in range(len(length)):
        at = copy(data, start[i], length[i], out, at)


@inlined
def copy(data: Data, start: int, length: int, out: Data, at: int) -> int:
    """Write a text, nothing where there is none, behind `at`; return where it ends."""
    for k in range(length):
        out[at + k] = data[start + k]
    return at + max(length, 0)


@compiled
def pack(data: Data, start: Starts, length: Lengths, out: Data) -> int:
    """Write texts as msgpack has them, one behind the other; return how many bytes that takes.

    out  room for all texts, and for PACKED_BYTES more for each
    """
    at = 0
    for i in range(len(length)):
        size = int(length[i])
        out[at] = 0xA0 | size if size < 32 else 0xDB  # of short ones the first byte tells the length
        at += 1
        for shift in (24, 16, 8, 0):
            if size >= 32:
                out[at] = (size >> shift) & 0xFF
                at += 1
        at = copy(data, start[i], length[i], out, at)
    return at


@compiled
def lay_out(length: Lengths, start: Starts) -> int:
    """Write where texts begin that lie one behind the other, return where the last ends.  # (n,) -> (n,)"""
    at = 0
    for i in range(len(length)):
        start[i] = at
        at += max(length[i], 0)
    return at


@compiled
def are_within(length: Lengths, least: int, most: int) -> bool:
    """Has every text at least and at most so many bytes? One that is missing has -1.  # (n,)"""
    good = True
    for i in range(len(length)):
        good &= least <= length[i] <= most
    return good


@compiled
def join(fields: Column, size: int, parts: Parts, keys: Column) -> int:
    """Write the key of each node for each relation; return how many bytes of `keys.data` are used.

    A key of one part lies where the field's text does; those that are joined follow behind the fields' texts.

    fields  (f, n), `size` bytes
    keys    (relations, n); room for the fields' bytes, and for each part that is joined twice as many and one a node
    """
    at, out = size, keys.data
    for k in range(size):
        out[k] = fields.data[k]
    for r in range(len(parts.first) - 1):
        first, last = parts.first[r], parts.first[r + 1]
        for i in range(fields.length.shape[1]):
            if last - first == 1:
                keys.start[r, i] = fields.start[parts.field[first], i]
                keys.length[r, i] = fields.length[parts.field[first], i]
                continue
            begin, known = at, True
            for p in range(first, last):
                if p > first:
                    out[at] = BETWEEN
                    at += 1
                start, length = fields.start[parts.field[p], i], fields.length[parts.field[p], i]
                known = known and length >= 0
                at = _escape(fields.data, start, length, out, at)
            if not known:
                at = begin
            keys.start[r, i], keys.length[r, i] = begin, at - begin if known else -1
    return at


@inlined
def _escape(data: Data, start: int, length: int, out: Data, at: int) -> int:
    """Write a part of a key behind `at`, return where it ends."""
    for k in range(start, start + length):
        byte = data[k]
        if byte in (BETWEEN, ESCAPE):
            out[at] = ESCAPE
            at += 1
            byte = 0x30 + (byte == BETWEEN)  # the digit 1 or 0
        out[at] = byte
        at += 1
    return at
