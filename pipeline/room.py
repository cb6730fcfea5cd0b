"""Arrays that grow where they are: address space is reserved once, memory is taken page by page as it is written.

Room that is not used costs nothing, and no micro-batch waits while a gigabyte is moved. An array that fills a huge page
lies on such, where the kernel has them: a first write takes 2 us, every sixth target of a small shard would make one;
and there are fewer misses of the processor's table of pages, and little to copy when a snapshot forks.

Where address space is rationed (`ulimit -v`, vm.overcommit_memory = 2) an array is copied as it grows, and so is one
that has grown beyond all that was reserved.
"""

import contextlib
import math
import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
# Not counted as memory that was promised, or a fork would be refused: neighbours are one mapping to the kernel. Python
# knows the flag from 3.13 on; the number is that of Linux on x86, ARM and RISC-V.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
HUGE_PAGE = 2 << 20  # bytes
# Bytes for each array: a process has address space for two thousand of these. From 6.7 on Linux begins a mapping of
# whole huge pages with one, or an array that grows would have none: each would be begun before it is asked for.
RESERVED = min(-(-MEMORY // HUGE_PAGE) * HUGE_PAGE, 64 << 30)
STEP, LEAST_STEP = 8, 1024  # an eighth more room each time, of what is never written
# For so many micro-batches at least, and for so many where that is few rows: most of what they could need they do not,
# and to make room takes as long as fifty events.
LEAST_BATCHES, BATCHES, FEW_ROWS = 2, 8, 16_384


class Room:
    """An array of so many rows, zeros behind them."""

    def __init__(self, dtype: npt.DTypeLike, *width: int) -> None:
        """Begin with no row; a row has the shape `width`."""
        self.array: Array = np.zeros((0, *width), dtype)
        self._reserved: mmap.mmap | None = None
        with contextlib.suppress(OSError):
            self._reserved = mmap.mmap(-1, RESERVED, flags=PRIVATE)

    @staticmethod
    def of(array: Array, capacity: int, dtype: npt.DTypeLike) -> "Room":
        """Return room for `capacity` rows of the type `dtype` that begin with those of `array`.

        What `read_array` returned lies in room of its own and stays there: it may not be used by others any more.
        ValueError if the array is of another type.
        """
        room = Room(dtype, *array.shape[1:])
        if array.dtype != room.array.dtype:
            raise ValueError(f"an array of {array.dtype}, expected {room.array.dtype}")
        base: Any = array.base
        if isinstance(base, mmap.mmap):
            room._reserved, room.array = base, np.ndarray(array.shape, dtype, buffer=base)
            return room.reserve(capacity)
        room.reserve(max(len(array), capacity)).array[: len(array)] = array
        return room

    def reserve(self, capacity: int) -> "Room":
        """Make room for `capacity` rows."""
        old = self.array
        if capacity <= len(old):
            return self
        shape = (capacity, *old.shape[1:])
        size = capacity * math.prod(shape[1:]) * old.dtype.itemsize
        if self._reserved is None or size > len(self._reserved):
            self._reserved = None
            self.array = np.zeros(shape, old.dtype)
            self.array[: len(old)] = old
        else:
            self.array = np.ndarray(shape, old.dtype, buffer=self._reserved)
            if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
                start = self.array.ctypes.data
                end = -(-(start + size) // HUGE_PAGE) * HUGE_PAGE
                self._reserved.madvise(mmap.MADV_HUGEPAGE, 0, min(end - start, len(self._reserved)))
        return self


def more_room(capacity: int, wanted: int) -> int:
    """Return the capacity that follows where a micro-batch could need `wanted` more rows."""
    return capacity + max(LEAST_BATCHES * wanted, min(BATCHES * wanted, FEW_ROWS), capacity // STEP, LEAST_STEP)
