"""Arrays that compiled code has taken apart once.

numba looks into every array at every call, to learn where it lies and how long it is. The ninety that an event needs
take 3 us, where the event itself takes 1 to 4: so what seldom changes is noted as compiled code has it in hand, and a
call is given the address of the note.
"""

from typing import Any

import numpy as np

from pipeline.compiled import compiled, direct, kind_of
from pipeline.instructions import size_of, write

# By the classes of the values that are noted together: their type for compiled code, and the bytes of a note. To find
# them takes 2 ms.
_known: dict[tuple[type, ...], tuple[Any, int]] = {}


class Held:
    """Values for compiled code, arrays and tuples of them, which it reads with `instructions.taken_apart`.

    Values of the same classes are of the same types in all that they hold, see `direct`.
    """

    def __init__(self) -> None:
        self._values: tuple[Any, ...] = ()  # so that no array goes while its address is noted
        self.address, self.kind = 0, None  # of the note; its type

    def note(self, values: tuple[Any, ...]) -> None:
        if not self._values:
            classes = tuple(map(type, values))
            if classes not in _known:
                _known[classes] = kind_of(values), _size(values)
            self.kind, size = _known[classes]
            self._room = np.empty(size, np.uint8)
            self.address = self._room.ctypes.data
        self._values = values
        _note(self.address, values)


@compiled
def _size(values: Any) -> int:
    """Return the bytes that a note of it takes."""
    return size_of(values)


@compiled
def _write(address: int, values: Any) -> None:
    write(address, values)


_note = direct(_write)
