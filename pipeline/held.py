"""Arrays that compiled code has taken apart once.

numba looks into every array at every call, to learn where it lies and how long it is. The ninety that an event needs
take 3 us, where the event itself takes 1 to 4: so what seldom changes is noted as compiled code has it in hand, and a
call is given the address of the note.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pipeline.compiled import compiled, direct, kind_of
from pipeline.instructions import size_of, write


class _Way(NamedTuple):
    """How values are noted; to find out takes 2 ms."""

    kind: Any  # their type for compiled code
    size: int  # bytes of a note
    write: Callable[[int, Any], None]


_ways: dict[tuple[type, ...], _Way] = {}  # by the classes of the values that are noted together


class Held:
    """Values for compiled code, arrays and tuples of them, which it reads with `instructions.taken_apart`.

    Values of the same classes are of the same types in all that they hold, see `direct`.
    """

    def __init__(self) -> None:
        self._values: tuple[Any, ...] = ()  # so that no array goes while its address is noted
        self.address, self.kind = 0, None  # of the note; its type

    def note(self, values: tuple[Any, ...]) -> None:
        way = _way(values)
        if not self._values:
            self._room = np.empty(way.size, np.uint8)
            self.address, self.kind = self._room.ctypes.data, way.kind
        self._values = values
        way.write(self.address, values)


def _way(values: tuple[Any, ...]) -> _Way:
    classes = tuple(map(type, values))
    if classes not in _ways:
        _ways[classes] = _Way(kind_of(values), _size(values), direct(_write))
    return _ways[classes]


@compiled
def _size(values: Any) -> int:
    """Return the bytes that a note of it takes."""
    return size_of(values)


@compiled
def _write(address: int, values: Any) -> None:
    write(address, values)
