"""The compiled code of fields: what stands at which place of each of many messages (`fields` says how they come here).

It reads msgpack that our own encoder has just written, so nothing is checked; https://github.com/msgpack/msgpack/blob/
master/spec.md gives the bytes.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined
from pipeline.texts_kernel import Column, Data, copy

# What may stand at a place. INTEGER, REAL and the two that are larger are numbers; MAP stands at none that is read.
MISSING, FALSE, TRUE, INTEGER, UNSIGNED, LARGE, REAL, TEXT, LIST, MAP = range(10)
FOUND = np.dtype(
    {
        "names": ["number", "bits", "start", "length", "kind"],
        "formats": ["f8", "i8", "i8", "i4", "i4"],
        "offsets": [0, 0, 8, 16, 20],  # `bits` are those of `number`
    }
)  # number: nan where there is none; start: of a text, or of what is in a list; an INTEGER itself; length: of these two
MOST_DIGITS = 20  # of an INTEGER, with its sign; true and false have fewer letters
MINUS, ZERO, TRUE_TEXT, FALSE_TEXT = ord("-"), ord("0"), tuple(b"true"), tuple(b"false")


class Places(NamedTuple):
    """The places that are read of a message, in its order: a map stands before what it holds."""

    key: Column  # (P,)
    depth: npt.NDArray[np.int64]  # (P,) in how many maps, that of the message itself left out
    is_map: npt.NDArray[np.bool_]  # (P,)


@compiled
def read_fields(
    packed: Data, places: Places, piece: int, left: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64],
    found: npt.NDArray[np.void], texts: Column,
) -> tuple[int, bool]:  # fmt: skip
    """Write what stands at each place in each message, and the texts at some places, one behind the other.

    Return the bytes of the texts, and whether a value stands for another writer: a text is what `sections.text_of`
    makes of it; of a number that is no whole one or a large one it takes more.

    packed  lists of `piece` messages, the last may be shorter; a message is a map that leaves out what is missing
    left    (the largest depth + 2,) room
    chosen  (f,) places
    found   (n, P) FOUND
    texts   (f, n); room for all of `packed`, and for MOST_DIGITS for each
    """
    _scan(packed, places, piece, left, found)
    at, others = 0, False
    for f in range(len(chosen)):
        for i in range(len(found)):
            one = found[i, chosen[f]]
            end = write_text(packed, one, texts.data, at)
            texts.start[f, i], texts.length[f, i] = at, end - at if end >= 0 else -1
            others |= end < 0 and one.kind in (REAL, UNSIGNED, LARGE)
            at = max(at, end)
    return at, others


@inlined
def _scan(packed: Data, places: Places, piece: int, left: npt.NDArray[np.int64], found: npt.NDArray[np.void]) -> None:
    at = 0
    for i in range(len(found)):
        if i % piece == 0:
            _, _, at = head(packed, at)
        _, left[0], at = head(packed, at)
        for p in range(len(places.depth)):
            depth, one = places.depth[p], found[i, p]
            one.kind, one.number, one.length = MISSING, np.nan, 0
            key = _key(packed, at, places.key, p) if left[depth] else -1
            if key < 0:
                continue
            left[depth] -= 1
            if places.is_map[p]:
                _, left[depth + 1], at = head(packed, key)
            else:
                at = note(packed, key, one)


@inlined
def _key(packed: Data, at: int, keys: Column, p: int) -> int:
    """Return where the key at `at` ends if it is that of a place, else -1."""
    _, length, start = head(packed, at)
    if length != keys.length[p]:
        return -1
    same = 0
    while same < length and packed[start + same] == keys.data[keys.start[p] + same]:
        same += 1
    return start + length if same == length else -1


@inlined
def note(packed: Data, at: int, one: Any) -> int:
    """Note the value at `at`; return where it ends."""
    kind, value, at = head(packed, at)
    one.kind = kind
    if kind == INTEGER:
        one.start, one.number = value, value
    elif kind == UNSIGNED:
        one.number = np.uint64(value)
    elif kind in (REAL, LARGE):
        one.bits = value
    elif kind == TEXT:
        one.start, one.length = at, value
        at += value
    elif kind == LIST:
        one.start, one.length = at, value
        at = _end(packed, at, value)
    return at


@inlined
def _end(packed: Data, at: int, values: int) -> int:
    """Return where so many values end, with all that is in them."""
    while values:
        kind, value, at = head(packed, at)
        values -= 1
        if kind == TEXT:
            at += value
        elif kind == LIST:
            values += value
    return at


@inlined
def head(packed: Data, at: int) -> tuple[int, int, int]:
    """Return the kind of a value; its number, its bits, or how much it holds; and where it ends, or that begins."""
    byte: Any = np.int64(packed[at])  # with a sign
    after = at + 1
    if byte < 0x80:
        return INTEGER, byte, after
    if byte < 0x90:
        return MAP, byte & 15, after
    if byte < 0xA0:
        return LIST, byte & 15, after
    if byte < 0xC0:
        return TEXT, byte & 31, after
    if byte >= 0xE0:
        return INTEGER, byte - 256, after
    if byte == 0xCB:
        return REAL, _big(packed, after, 8), after + 8
    if byte in (0xC2, 0xC3):
        return FALSE if byte == 0xC2 else TRUE, 0, after
    if byte >= 0xDE:
        size = 2 << (byte - 0xDE)
        return MAP, _big(packed, after, size), after + size
    if byte >= 0xDC:
        size = 2 << (byte - 0xDC)
        return LIST, _big(packed, after, size), after + size
    if byte >= 0xD9:
        size = 1 << (byte - 0xD9)
        return TEXT, _big(packed, after, size), after + size
    if 0xCC <= byte < 0xD0:
        size = 1 << (byte - 0xCC)
        value = _big(packed, after, size)
        return INTEGER if value >= 0 else UNSIGNED, value, after + size
    if 0xD0 <= byte < 0xD4:
        size = 1 << (byte - 0xD0)
        spare = 64 - 8 * size
        return INTEGER, (_big(packed, after, size) << spare) >> spare, after + size  # with its sign
    if byte == 0xD7:  # an extension of eight bytes: ours
        return LARGE, _big(packed, after + 1, 8), after + 9
    return MISSING, 0, after


@inlined
def _big(packed: Data, at: int, size: int) -> int:
    """Return a big-endian number of at most 64 bits."""
    value: Any = np.int64(0)
    for k in range(size):
        value = (value << 8) | np.int64(packed[at + k])
    return value  # type: ignore[no-any-return]


@inlined
def write_text(packed: Data, one: Any, out: Data, at: int) -> int:
    """Write a value as text behind `at`; return where it ends, -1 where it is none or takes another writer."""
    if one.kind == TEXT:
        return copy(packed, one.start, one.length, out, at)
    if one.kind == INTEGER:
        return _write_digits(one.start, out, at)
    if one.kind == REAL and abs(one.number) < 2.0**63 and np.floor(one.number) == one.number:
        return _write_digits(int(one.number), out, at)
    if one.kind == TRUE:
        return _write(TRUE_TEXT, out, at)
    if one.kind == FALSE:
        return _write(FALSE_TEXT, out, at)
    return -1


@inlined
def _write_digits(value: int, out: Data, at: int) -> int:
    """Write an integer as text behind `at`; return where it ends."""
    if value < 0:
        out[at] = MINUS
        at += 1
    size, rest = 1, _tenth(value)
    while rest != 0:
        size, rest = size + 1, _tenth(rest)
    for k in range(at + size - 1, at - 1, -1):
        out[k] = ZERO + abs(value - 10 * _tenth(value))
        value = _tenth(value)
    return at + size


@inlined
def _tenth(value: int) -> int:
    """Return a tenth, without its fraction. The smallest integer has no opposite, so signs are not changed first."""
    return value // 10 if value >= 0 else -(value // -10)


@inlined
def _write(text: tuple[int, ...], out: Data, at: int) -> int:
    for k in range(len(text)):
        out[at + k] = text[k]
    return at + len(text)


@inlined
def read_vector(
    packed: Data, one: Any, largest: float, room: npt.NDArray[np.void], out: npt.NDArray[np.float32]
) -> bool:
    """Write a list of numbers; return whether it is as long as it should be, and no number beyond `largest`. If not: 0.

    room  (1,) FOUND
    """
    good, at = bool(one.length == len(out)), one.start
    for c in range(len(out)):
        if good:
            _, room[0].bits, at = head(packed, at)
            good = bool(abs(room[0].number) <= largest)
            out[c] = room[0].number
    if not good:
        out[:] = 0.0
    return good
