"""Names: outside name (an id, a group key) <-> dense index, without a Python object for either.

    slots     (S,) SLOT     open addressing, linear probing, at most three quarters full; S is a power of two
    next      (2S,) SLOT    where names move, some with each micro-batch, before `slots` are full; else (0,)
    entries   (N,) ENTRY    by index: where its text lies; length -1 where the index has no name
    text      (T,) uint8    the names' UTF-8; a name that goes leaves a hole for the next one that is as long

A *space* keeps equal texts apart: each relation's group keys have their own. An index is the caller's choosing, and
nothing but the place in `slots` depends on the hash, which is keyed: whoever sends ids cannot choose them to collide.

A name costs its text, an entry and one to three slots with room between: 12 + 11 to 24 bytes, for a while 35, and its
text, which may have as much again of holes, where names that come are of other lengths than those that go.
"""

import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.names_kernel import (
    ENTRY,
    LONGEST_HOLE,
    META,
    NOWHERE,
    SLOT,
    Table,
    fill_slots,
    has_slots,
    is_full,
    look_up,
    move_slots,
)
from pipeline.room import Room, more_room
from pipeline.texts import Texts
from pipeline.texts_kernel import gather

NAME_BYTES = 56  # of one with a text of 20 bytes and slots as full as they are on average

FEWEST_SLOTS = 16
_NO_SLOTS = np.zeros(0, SLOT)


class Names:
    """A set of names, each with an index."""

    def __init__(self, key: int | None = None) -> None:
        """`key` is the hash's; drawn by lot unless given."""
        meta = np.zeros(1, META)
        meta["key"] = secrets.randbits(64) if key is None else key
        self._entries, self._text = Room(ENTRY), Room(np.uint8)
        self.table = Table(_free_slots(0), _NO_SLOTS, self._entries.array, self._text.array, _no_holes(), meta)

    def __len__(self) -> int:
        return int(self.table.meta["count"][0])

    def reserve(self, indices: int, names: int, size: int) -> None:
        """Make room for `names` more of `size` bytes together, and for indices below `indices`."""
        table, meta = self.table, self.table.meta[0]
        if len(table.entries) < indices:
            known = len(table.entries)
            table = table._replace(entries=self._entries.reserve(indices).array)
            table.entries["length"][known:] = -1
        while not has_slots(table, names):
            table = self._more_slots(table, names)
        if int(meta["used"]) + size > len(table.text):
            self._make_room_for_text(size)
            table = table._replace(text=self._text.array)
        self.table = table

    def _more_slots(self, table: Table, names: int) -> Table:
        """Begin with the next slots, or take those that names have moved to; they do at once if so many more want it.

        At once is 20 ms for eight hundred thousand names, and the latest events would wait for it.
        """
        meta, slots = table.meta[0], len(table.slots)
        if not len(table.next):
            meta["freed"] = meta["moved"] = 0
            table = table._replace(next=Room(SLOT).reserve(2 * slots).array)
        if is_full(len(self) + names, slots):
            move_slots(table)
        return table._replace(slots=table.next, next=_NO_SLOTS) if meta["moved"] == slots else table

    def _make_room_for_text(self, more: int) -> None:
        """Make room for so many bytes more of text, by closing holes where they are most of it.

        That reads all names, 3 ms for a hundred thousand, and the latest events wait for it: so it is the last resort.
        """
        table = self.table
        used, lost = int(table.meta["used"][0]), int(table.meta["lost"][0])
        if 2 * lost < used:
            self._text.reserve(more_room(used, more))
            return
        text = Room(np.uint8).reserve(more_room(used - lost, more))
        known = table.entries["length"] >= 0
        start, length = table.entries["start"][known], table.entries["length"][known].astype(np.int32)
        gather(table.text, start, length, text.array)
        table.entries["start"][known] = np.cumsum(length, dtype=np.int64) - length
        table.meta["used"], table.meta["lost"] = used - lost, 0
        table.holes[:] = NOWHERE
        self._text = text

    def index_of(self, name: str, space: int = 0) -> int:
        """Return the name's index, -1 if it has none."""
        texts = Texts.of([name])
        return int(look_up(self.table, texts.data, space))

    def names_of(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[str | None]:
        """Return each index's name; None for -1, and for one that is free.

        A page asks while a shard scores: of a name that goes at that moment it may get what takes its place.
        """
        at = np.asarray(indices, np.int64)
        text, entries = self.table.text, self.table.entries[at] if len(self.table.entries) else np.zeros(len(at), ENTRY)
        places = zip(entries["start"].tolist(), np.where(at >= 0, entries["length"], -1).tolist(), strict=True)
        return [None if n < 0 else text[start : start + n].tobytes().decode(errors="replace") for start, n in places]

    def used(self) -> int:
        """Return after which index none has a name."""
        return int(np.flatnonzero(self.table.entries["length"] >= 0).max(initial=-1)) + 1

    def memory_bytes(self) -> int:
        return sum(array.nbytes for array in self.table)

    def export(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the names as they lie in memory; views of it."""
        table = self.table
        text = table.text[: int(table.meta["used"][0])]
        return {f"{prefix}.entries": table.entries[: self.used()], f"{prefix}.text": text}

    @staticmethod
    def of(names: Sequence[str], spaces: Sequence[int]) -> "Names":
        """Return these names, each in its space and with its place as its index."""
        texts = Texts.of(names)
        entries = np.zeros(len(names), ENTRY)
        entries["start"], entries["length"], entries["space"] = texts.start, texts.length, spaces
        return Names.restore({"names.entries": entries, "names.text": texts.data}, "names", len(names))

    @staticmethod
    def restore(arrays: dict[str, npt.NDArray[np.generic]], prefix: str, indices: int) -> "Names":
        """Take up the names that `export` gave, with room for so many indices. Where its holes are nobody knows."""
        names = Names()
        known, said = arrays[f"{prefix}.entries"], arrays[f"{prefix}.text"]
        names._entries, names._text = Room.of(known, indices, ENTRY), Room.of(said, len(said), np.uint8)
        entries, text = names._entries.array, names._text.array
        entries["length"][len(known) :] = -1
        length = entries["length"]
        meta = names.table.meta
        meta["count"], meta["used"] = np.count_nonzero(length >= 0), len(text)
        meta["lost"] = len(text) - int(np.maximum(length, 0).sum())
        names.table = Table(_free_slots(len(names)), _NO_SLOTS, entries, text, _no_holes(), meta)
        fill_slots(names.table)
        return names


def _free_slots(names: int) -> npt.NDArray[np.void]:
    """Return as few slots as so many names need."""
    count = FEWEST_SLOTS
    while is_full(names, count):
        count *= 2
    slots = Room(SLOT).reserve(count).array
    slots["index"] = -1
    return slots


def _no_holes() -> npt.NDArray[np.int64]:
    return np.full(LONGEST_HOLE + 1, NOWHERE, np.int64)
