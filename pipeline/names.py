"""Names: outside name (an id, a group key) <-> dense index.

    index_by_name   dict
    name_by_index   list; None where an index is free

A name costs its text, a dict slot and two pointers, about 150 bytes; it is forgotten with its row or list.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NAME_BYTES = 150  # an estimate: a short text is 60 bytes, its slot in the dict and the list 90


class Names:
    """A set of names, each with an index of the caller's choosing."""

    def __init__(self) -> None:
        self._index_by_name: dict[str, int] = {}
        self._name_by_index: list[str | None] = []

    def __len__(self) -> int:
        return len(self._index_by_name)

    def index_of(self, name: str) -> int:
        """Return the name's index, -1 if it has none."""
        return self._index_by_name.get(name, -1)

    def name_of(self, index: int) -> str | None:
        return self._name_by_index[index]

    def names_of(self, indices: Sequence[int]) -> list[str | None]:
        """Return each index's name; None for -1, and for one that is free."""
        known = self._name_by_index
        return [known[index] if index >= 0 else None for index in indices]

    def intern(
        self, names: Sequence[str | None], free: Callable[[], list[int]]
    ) -> tuple[npt.NDArray[np.int32], list[int]]:
        """Return each name's index, -1 for None, and the new indices, popped off what `free` gives, if it is asked."""
        index_by_name = self._index_by_name
        known: Any = index_by_name.get  # None is never a key, which its type cannot say
        found: list[int | None] = list(map(known, names))
        if None not in found:
            return np.array(found, np.int32), []
        unused = free()
        new: list[int] = []
        added: list[str] = []
        for i, index in enumerate(found):
            if index is None:
                name = names[i]
                if name is None:
                    found[i] = -1
                    continue
                index = index_by_name.get(name)  # the same new name may stand in one batch twice
                if index is None:
                    index = index_by_name[name] = unused.pop()
                    new.append(index)
                    added.append(name)
                found[i] = index
        self._note(new, added)
        return np.array(found, np.int32), new

    def release(self, indices: Sequence[int]) -> None:
        """Forget the names of `indices`."""
        for index in indices:
            name = self._name_by_index[index]
            if name is not None:
                del self._index_by_name[name]
                self._name_by_index[index] = None

    def indices(self) -> npt.NDArray[np.int64]:
        return np.fromiter(self._index_by_name.values(), np.int64, len(self._index_by_name))

    def memory_bytes(self) -> int:
        """An estimate."""
        return NAME_BYTES * len(self._index_by_name)

    def export(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return the names as one text and the indices in the same order."""
        text = "".join(self._index_by_name)
        lengths = np.fromiter(map(len, self._index_by_name), np.int32, len(self._index_by_name))
        return {
            f"{prefix}.text": np.frombuffer(text.encode(), np.uint8),
            f"{prefix}.length": lengths,  # in characters
            f"{prefix}.index": self.indices(),
        }

    @staticmethod
    def restore(arrays: dict[str, npt.NDArray[np.generic]], prefix: str) -> "Names":
        """Take up the names that `export` gave."""
        names = Names()
        text = arrays[f"{prefix}.text"].tobytes().decode()
        indices = arrays[f"{prefix}.index"].tolist()
        ends = np.cumsum(arrays[f"{prefix}.length"]).tolist()
        pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
        names._index_by_name = dict(zip(pieces, indices, strict=True))
        names._note(indices, pieces)
        return names

    def _note(self, indices: list[int], names: list[str]) -> None:
        self._name_by_index += [None] * (max(indices, default=-1) + 1 - len(self._name_by_index))
        for index, name in zip(indices, names, strict=True):
            self._name_by_index[index] = name
