"""The compiled code of names: one name at a time, in a table of plain arrays (`names` says what they mean)."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined
from pipeline.instructions import folded, prefetch, word
from pipeline.texts_kernel import Data

LONGEST_NAME = 1024  # characters of an id or a group key; they are kept in memory as long as the node
SLOT = np.dtype([("tag", "u4"), ("index", "i4")])  # the hash; -1: free
ENTRY = np.dtype([("start", "i8"), ("length", "i2"), ("space", "i2")])  # a name has four LONGEST_NAME bytes at most
# Names; bytes of text used, and in holes; the hash's key; how many of the next slots may be taken, and how many slots
# have moved there.
META = np.dtype(
    [("count", "i8"), ("used", "i8"), ("lost", "i8"), ("key", "u8"), ("freed", "i8"), ("moved", "i8")]
)  # fmt: skip

WORD = 8  # bytes that are looked at together
LINK, NOWHERE = 4, 0xFFFFFFFF  # bytes in a hole that tell where the next one is, and what they tell if there is none
LONGEST_HOLE = 255  # bytes: longer ones are few, and wait until all holes are closed
PACE = 32  # slots that are moved for a name: from 11/16 full to 3/4 takes a sixteenth as many names as there are slots
FREED = 4  # next slots that are made free in place of one that is moved

Numbers = npt.NDArray[Any]
Slots = npt.NDArray[np.void]  # of SLOT


class Table(NamedTuple):
    slots: Slots
    next: Slots  # twice as many slots, where the names move
    entries: npt.NDArray[np.void]
    text: Data
    holes: npt.NDArray[np.int64]  # (LONGEST_HOLE + 1,) by length, where the latest hole is, or NOWHERE
    meta: npt.NDArray[np.void]  # (1,)


@compiled
def is_full(names: int, slots: int) -> bool:
    """Are so many names too many for so many slots?"""
    return 4 * names > 3 * slots


@compiled
def has_slots(table: Table, names: int) -> bool:
    """Are there slots for so many more names, and are next ones, where it is time for them, at hand and not ready?"""
    meta, slots = table.meta[0], len(table.slots)
    if len(table.next):
        return bool(meta.moved < slots and not is_full(meta.count + names, slots))
    return bool(16 * (meta.count + names) <= 11 * slots)


@inlined
def hash_of(data: Data, start: int, length: int, space: int, key: int) -> int:
    """Return 32 bits of a keyed hash: eight bytes at a time are folded in by a long product."""
    state, end = np.uint64(key) ^ np.uint64(space + 1), start + length
    for at in range(start, end + 1, WORD):  # + 1: one round at least, and a text of 8 bytes is not its first 7
        state = folded(
            state ^ _up_to_word(data, at, end), (np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)) | np.uint64(1)
        )
    state = folded(state ^ np.uint64(length), np.uint64(0xD6E8FEB86659FD93))
    return np.int64(state & np.uint64(0xFFFFFFFF))  # type: ignore[return-value]


@inlined
def _up_to_word(data: Data, start: int, end: int) -> np.uint64:
    """Return the bytes from `start` to `end` as a number, the first eight of them if there are more."""
    if start + WORD <= end:
        return word(data, start)
    found = np.uint64(0)
    if start < end and end >= WORD:  # and what stands before them, which is shifted out
        return word(data, end - WORD) >> np.uint64(8 * (WORD - (end - start)))
    for at in range(start, end):
        found |= np.uint64(data[at]) << np.uint64(8 * (at - start))
    return found


@inlined
def hash_all(table: Table, data: Data, start: Numbers, length: Numbers, space: int, tags: Numbers) -> None:
    """Write the hashes of names, and have fetched what `find` will read of the table.  # (n,)

    A look-up waits for memory for its slot, then for its entry, then for its text; here all names wait together.
    """
    mask = len(table.slots) - 1
    for i in range(len(start)):
        if length[i] >= 0:
            tags[i] = hash_of(data, start[i], length[i], space, table.meta[0].key)
            prefetch(table.slots, tags[i] & mask)
    for i in range(len(start)):
        if length[i] >= 0:
            index = table.slots[tags[i] & mask].index
            if index >= 0:
                prefetch(table.entries, index)
    for i in range(len(start)):
        if length[i] >= 0:
            index = table.slots[tags[i] & mask].index
            if index >= 0:
                prefetch(table.text, table.entries[index].start)


@inlined
def find(table: Table, data: Data, start: int, length: int, space: int, tag: int) -> int:
    """Return the slot of a name; of one that is not known, ~ the slot that it would take."""
    mask = len(table.slots) - 1
    at = tag & mask
    while table.slots[at].index >= 0:
        if table.slots[at].tag == tag and _is(table, table.slots[at].index, data, start, length, space):
            return at
        at = (at + 1) & mask
    return ~at


@inlined
def _is(table: Table, index: int, data: Data, start: int, length: int, space: int) -> bool:
    entry = table.entries[index]
    if entry.length != length or entry.space != space:
        return False
    ours, at = entry.start, 0
    while at < length:
        left = min(at + WORD, length)
        if _up_to_word(table.text, ours + at, ours + left) != _up_to_word(data, start + at, start + left):
            return False
        at = left
    return True


@inlined
def put(table: Table, slot: int, index: int, data: Data, start: int, length: int, space: int, tag: int) -> None:
    """Give a new name an index; there must be room for its text."""
    meta, entry = table.meta[0], table.entries[index]
    at = _filled_hole(table, length)
    if at < 0:
        at = meta.used
        meta.used += length
    entry.start, entry.length, entry.space = at, length, space
    for k in range(length):
        table.text[at + k] = data[start + k]
    meta.count += 1
    table.slots[slot].tag, table.slots[slot].index = tag, index
    if _is_moving(table):
        _take_slot(table.next, tag, index)


@inlined
def release(table: Table, index: int) -> None:
    """Forget the name of an index, if it has one."""
    entry = table.entries[index]
    if entry.length < 0:
        return
    tag = hash_of(table.text, entry.start, entry.length, entry.space, table.meta[0].key)
    _leave_hole(table, entry.start, entry.length)
    table.meta[0].count -= 1
    entry.length = -1
    moving = _is_moving(table)
    _leave_slot(table.slots, tag, index, table.next, moving)
    if moving:
        _leave_slot(table.next, tag, index, table.next, False)


# ---- holes: what a name leaves is for the next one that is as long ----


@inlined
def _leave_hole(table: Table, at: int, length: int) -> None:
    table.meta[0].lost += length
    if LINK <= length <= LONGEST_HOLE and at < NOWHERE:
        for k in range(LINK):
            table.text[at + k] = (table.holes[length] >> (8 * k)) & 0xFF
        table.holes[length] = at


@inlined
def _filled_hole(table: Table, length: int) -> int:
    """Return where a hole of that length was, -1 where there is none."""
    if not LINK <= length <= LONGEST_HOLE or table.holes[length] == NOWHERE:
        return -1
    at, before = table.holes[length], np.int64(0)
    for k in range(LINK):
        before |= np.int64(table.text[at + k]) << (8 * k)
    table.holes[length] = before
    table.meta[0].lost -= length
    return int(at)


@compiled
def look_up(table: Table, data: Data, space: int) -> int:
    """Return the index of the name that is all of `data`, -1 if it has none."""
    slot = find(table, data, 0, len(data), space, hash_of(data, 0, len(data), space, table.meta[0].key))
    return table.slots[slot].index if slot >= 0 else -1


# ---- slots: names move to twice as many a few at a time, before these are full ----
#
# Once the next slots are free to take, all names that stand before `moved` are there as well, each once, and of those
# behind it some: one that comes takes a slot here and there, one that is shifted here has one there, and one that goes
# leaves both.


@inlined
def _is_moving(table: Table) -> bool:
    return len(table.next) > 0 and table.meta[0].freed == len(table.next)


@inlined
def go_on(table: Table, names: int) -> None:
    """Get on with the next slots, as far as so many names that may have come make it necessary."""
    meta, step = table.meta[0], PACE * names
    freed = min(meta.freed + FREED * step, len(table.next))
    for at in range(meta.freed, freed):
        table.next[at].index = -1
    meta.freed = freed
    if _is_moving(table):
        moved = min(meta.moved + step, len(table.slots))
        for at in range(meta.moved, moved):  # in order: those that stand near one another do so in both
            if table.slots[at].index >= 0:
                _take_slot(table.next, table.slots[at].tag, table.slots[at].index)
        meta.moved = moved


@inlined
def _take_slot(slots: Slots, tag: int, index: int) -> None:
    """Enter an index, unless it has a slot."""
    mask = len(slots) - 1
    at = tag & mask
    while slots[at].index >= 0:
        if slots[at].index == index:
            return
        at = (at + 1) & mask
    slots[at].tag, slots[at].index = tag, index


@inlined
def _leave_slot(slots: Slots, tag: int, index: int, more: Slots, moving: bool) -> None:
    """Free the slot of an index, if it has one. Where names are moving to `more`, whom that shifts has one there."""
    mask = len(slots) - 1
    gap = tag & mask
    while slots[gap].index != index:
        if slots[gap].index < 0:
            return
        gap = (gap + 1) & mask
    # Whoever stands behind and may stand in the gap moves there, or a search would end before it (Knuth, 6.4, R).
    at = (gap + 1) & mask
    while slots[at].index >= 0:
        if ((at - slots[at].tag) & mask) >= ((at - gap) & mask):
            slots[gap].tag, slots[gap].index = slots[at].tag, slots[at].index
            if moving:
                _take_slot(more, slots[at].tag, slots[at].index)
            gap = at
        at = (at + 1) & mask
    slots[gap].index = -1


@compiled
def fill_slots(table: Table) -> None:
    """Enter every name in `slots`, which are free."""
    for index in range(len(table.entries)):
        entry = table.entries[index]
        if entry.length >= 0:
            tag = hash_of(table.text, entry.start, entry.length, entry.space, table.meta[0].key)
            _take_slot(table.slots, tag, index)


@compiled
def move_slots(table: Table) -> None:
    """Get done with the next slots, in one go: for as many names as there are slots, all are moved."""
    go_on(table, len(table.slots))
