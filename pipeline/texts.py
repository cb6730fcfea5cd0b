"""Texts: a column of names as bytes, without a Python object for each.

    data    (bytes,) uint8   UTF-8, one text behind the other; parts of a column share it
    start   (...,) int64     where each text begins
    length  (...,) int32     its bytes; NONE stands for no text

A column has one axis, or two: the group keys of a micro-batch are a row for each relation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from pipeline import texts_kernel
from pipeline.compiled import direct, is_plain
from pipeline.texts_kernel import PACKED_BYTES, Column, Data, Lengths, Starts

NONE = -1
_BYTE, _START, _LENGTH = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.int32)
# Only for arrays of a `Texts`, which sees to their types.
_lay_out, _gather, _pack = direct(texts_kernel.lay_out), direct(texts_kernel.gather), direct(texts_kernel.pack)
are_within = direct(texts_kernel.are_within)
SPREAD = 256  # bytes a text: where they lie further apart, what lies between them is not taken along
CONTINUES = 0b10  # the upper bits of a byte of UTF-8 that no character begins with


class Texts:
    """n texts, or None in place of one."""

    def __init__(self, data: Data, start: Starts, length: Lengths) -> None:
        """TypeError where an array is of another type, or has gaps: compiled code would read it as if it were right."""
        self.column = Column(data, start, length)  # what compiled code is given
        if not (is_plain(data, _BYTE) and is_plain(start, _START) and is_plain(length, _LENGTH)):
            found = ", ".join(str(array.dtype) for array in (data, start, length))
            raise TypeError(f"texts in arrays of {found}, expected {_BYTE}, {_START}, {_LENGTH} without gaps")

    @property
    def data(self) -> Data:
        return self.column.data

    @property
    def start(self) -> Starts:
        return self.column.start

    @property
    def length(self) -> Lengths:
        return self.column.length

    @staticmethod
    def of(values: Sequence[str | None], rows: int | None = None) -> "Texts":
        """Return a column of these texts, or as many rows of them; TypeError where one is neither a text nor None."""
        known: Any = values
        try:
            said = "".join(known)
        except TypeError:
            known = ["" if value is None else value for value in values]
            said = "".join(known)
        if said.isascii():
            length = np.fromiter(map(len, known), np.int32, len(values))
        else:
            length = np.fromiter((len(value.encode()) for value in known), np.int32, len(values))
        if known is not values:
            length[[value is None for value in values]] = NONE
        start = np.empty(len(length), np.int64)
        _lay_out(length, start)
        if rows is not None:
            shape: tuple[int, ...] = (rows, -1)
            start, length = start.reshape(shape), length.reshape(shape)
        # A copy: bytes cannot be written to, and would make numba compile everything twice.
        return Texts(np.frombuffer(said.encode(), np.uint8).copy(), start, length)

    @staticmethod
    def none(*shape: int) -> "Texts":
        """Return a column without a text."""
        return Texts(np.zeros(0, np.uint8), np.zeros(shape, np.int64), np.full(shape, NONE, np.int32))

    @staticmethod
    def join(parts: "Sequence[Texts]", axis: int = -1) -> "Texts":
        """Return the texts of `parts` one after the other."""
        if len(parts) == 1:
            return parts[0]
        offsets: dict[int, int] = {}  # of data, by its identity: what parts share is taken once
        data: list[Data] = []
        for part in parts:
            if id(part.data) not in offsets:
                offsets[id(part.data)] = sum(map(len, data))
                data.append(part.data)
        return Texts(
            data[0] if len(data) == 1 else np.concatenate(data),
            np.concatenate([part.start + offsets[id(part.data)] for part in parts], axis=axis),
            np.concatenate([part.length for part in parts], axis=axis),
        )

    def __len__(self) -> int:
        return len(self.length)

    @overload
    def __getitem__(self, at: int) -> "str | None": ...
    @overload
    def __getitem__(self, at: Any) -> "Texts": ...
    def __getitem__(self, at: Any) -> Any:
        """Return one text, or those that a slice, a mask or indices choose."""
        start, length = self.start[at], self.length[at]
        if isinstance(length, np.ndarray):
            return Texts(self.data, np.ascontiguousarray(start), np.ascontiguousarray(length))
        return None if length < 0 else self.data[start : start + length].tobytes().decode()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        """Are the texts the same, as a column or as a list?"""
        return bool(self.tolist() == (other.tolist() if isinstance(other, Texts) else other))

    __hash__ = None  # type: ignore[assignment]  # as of all that can be changed

    def tolist(self) -> list[Any]:
        """Return the texts, None in place of one; of two axes, a list for each row."""
        if self.length.ndim > 1:
            return [self[row, :].tolist() for row in range(len(self))]
        near = self if len(self.data) <= SPREAD * len(self) else self.packed()
        said, places = near.data.tobytes(), zip(near.start.tolist(), near.length.tolist(), strict=True)
        if said.isascii():
            text = said.decode("ascii")
            return [None if length < 0 else text[start : start + length] for start, length in places]
        return [None if length < 0 else said[start : start + length].decode() for start, length in places]

    def known(self) -> list[str]:
        """Return the texts of a column in which each is one."""
        return [text for text in self.tolist() if text is not None]

    def packed(self) -> "Texts":
        """Return the texts one behind the other, with nothing between them: what a message is to hold."""
        start, length = self.start.ravel(), self.length.ravel()
        near = np.empty(len(length), np.int64)
        size = _lay_out(length, near)
        if size == len(self.data) and (near == start).all():
            return self
        data = np.empty(size, np.uint8)
        _gather(self.data, start, length, data)
        return Texts(data, near.reshape(self.length.shape), self.length)

    def msgpack(self) -> bytes:
        """Return a column in which each is a text as msgpack's list of them, without an object for each."""
        n = len(self)
        out = np.empty(int(self.length.sum()) + PACKED_BYTES * n, np.uint8)
        used = _pack(self.data, self.start, self.length, out)
        return b"\xdd" + n.to_bytes(4, "big") + out[:used].tobytes()

    def is_text(self) -> bool:
        """Is every text UTF-8?  Of one that came from outside nobody knows."""
        if self.data.max(initial=0) < 128:
            return True
        near = self.packed()
        try:
            near.data.tobytes().decode()
        except UnicodeDecodeError:
            return False
        first = near.data[near.start[near.length > 0]]
        return not bool((first >> 6 == CONTINUES).any())
