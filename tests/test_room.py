"""Arrays that grow where they are."""

import mmap
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from pipeline.memory_limit import resident_bytes
from pipeline.room import HUGE_PAGE, Room, more_room
from pipeline.snapshot import read_array, write_array

PAIR = np.dtype([("a", "i4"), ("b", "f8")], align=True)


def test_an_array_grows_where_it_is_with_zeros_behind_it():
    room = Room(np.float32, 3)
    first = room.reserve(2).array
    first[:] = 7
    grown = room.reserve(HUGE_PAGE // 12 + 1).array
    assert grown.ctypes.data == first.ctypes.data
    assert (grown[:2] == 7).all()
    assert not grown[2:].any()
    assert room.reserve(1).array is grown  # it never shrinks


def test_an_array_begins_with_a_huge_page():
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        pytest.skip("Linux before 6.7 begins mappings anywhere")
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no huge pages")
    assert Room(np.float64).reserve(3).array.ctypes.data % HUGE_PAGE == 0


def test_room_that_is_not_used_takes_no_memory():
    before = resident_bytes(os.getpid())
    room = Room(np.float64, 64).reserve(1_000_000)  # half a gigabyte
    room.array[:10] = 1.0
    assert resident_bytes(os.getpid()) - before < 50e6


def test_an_array_of_others_is_copied():
    theirs = np.arange(5.0)
    room = Room.of(theirs[:3], 4, np.float64)
    room.array[0] = 9.0
    assert room.array.tolist() == [9.0, 1.0, 2.0, 0.0]
    assert theirs[0] == 0.0
    one = Room(np.float64).reserve(3)
    assert Room.of(one.array[:2], 2, np.float64).array.ctypes.data != one.array.ctypes.data


def test_what_was_read_from_a_snapshot_grows_where_it_was_read():
    array = np.array([(1, 2.0), (3, 4.0)], PAIR)
    file = BytesIO()
    stored = write_array(file, array)
    read = read_array(BytesIO(file.getvalue()), stored)
    assert isinstance(read.base, mmap.mmap)
    room = Room.of(read, 1000, PAIR)
    assert room.array.ctypes.data == read.ctypes.data
    assert room.array.dtype is PAIR  # what numba compiled for, not one that equals it
    assert room.array[:2].tolist() == array.tolist()


def test_an_array_of_another_type_is_refused():
    with pytest.raises(ValueError, match="an array of int64, expected float64"):
        Room.of(np.zeros(3, np.int64), 3, np.float64)


def test_where_address_space_is_rationed_it_is_copied():
    code = (
        "import resource\n"
        "import numpy as np\n"
        "from pipeline.room import Room\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "room = Room(np.float32, 3).reserve(2)\n"
        "room.array[:] = 7\n"
        "grown = room.reserve(1000).array\n"
        "print(room._reserved, grown.sum(), len(Room.of(grown[:1], 5, np.float32).array))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["None", "42.0", "5"]


def test_an_array_may_outgrow_what_was_reserved(monkeypatch):
    monkeypatch.setattr("pipeline.room.RESERVED", 1 << 20)
    room = Room(np.float64).reserve(1000)
    room.array[:] = 3
    for capacity in (100_000, 200_000, 300_000):
        grown = room.reserve(capacity).array
        assert (len(grown), grown.sum()) == (capacity, 3000.0)
    read = Room(np.float64).reserve(1000).array
    read[:] = 3
    assert Room.of(read, 200_000, np.float64).array.sum() == 3000.0


def test_capacities_grow_by_an_eighth_or_for_some_micro_batches():
    assert [more_room(80_000, 10), more_room(80_000, 50_000)] == [90_000, 180_000]
    assert [more_room(0, wanted) for wanted in (1, 512, 2048, 16_384)] == [1024, 4096, 16_384, 32_768]
