"""A snapshot: a shard's state at a position, set down as plain arrays and a manifest.

    snapshot-000000004711-9f3c2a1b/   4711 = the position up to which events are in it; the rest tells writers apart
        graph.rows.npy ...            numpy's own format, no pickle
        manifest.json                 written last: position, model, shard, bytes and checksums of every array

A folder without a manifest is no snapshot. `snapshot_store` keeps them; here is what their bytes mean.
"""

import math
import re
import secrets
import threading
from io import BufferedIOBase, BytesIO
from typing import Any

import crc32c
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.room import Room

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

FORMAT = 3  # raise it when the arrays change: one of another format is not read, the log is replayed
MANIFEST = "manifest.json"
NAME = re.compile(r"snapshot-(\d{12,})(-[0-9a-f]{8})?")
PIECE_BYTES = 1 << 20  # read or written, and hashed, while it is in the processor's cache

# numpy reads a header as Python source, and Python 3.11 counts the depth of that for all threads together: two at once,
# a garbage collection between them, and a sound header is a SystemError ("AST constructor recursion depth mismatch").
_parsing = threading.Lock()


class StoredArray(msgspec.Struct, frozen=True):
    bytes: int
    crc32c: str  # of the header and of each piece of the rest, eight hex digits each


class AnyManifest(msgspec.Struct, frozen=True):
    """What a manifest of any format says."""

    format: int


class Manifest(msgspec.Struct, frozen=True):
    format: int
    position: int
    model: str  # version of the model whose hidden features these are
    written_at: float  # seconds since the epoch
    arrays: dict[str, StoredArray]
    shard: str = ""  # the embedded log's only one has no name

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays.values())


def new_name(position: int) -> str:
    """Return a name that no other writer takes, even for the same position."""
    return f"snapshot-{position:012}-{secrets.token_hex(4)}"


def position_of(name: str) -> int | None:
    """Return the position that a snapshot's name tells; None for other names."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def write_array(file: BufferedIOBase, array: Array) -> StoredArray:
    """Write `array` as numpy does; no copy is made of a contiguous one."""
    array = np.ascontiguousarray(array)
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    data, sums = _bytes_of(array), []
    for piece in (header.getbuffer(), *(data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))):
        sums.append(_checksum(piece))
        file.write(piece)
    return StoredArray(len(header.getbuffer()) + array.nbytes, "".join(sums))


def read_array(file: BufferedIOBase, stored: StoredArray) -> Array | None:
    """Read an array straight into its memory; None if a single byte is not the one that was written."""
    start = file.read(10)  # numpy's mark, its version, the length of the header
    header = start + file.read(int.from_bytes(start[8:], "little"))
    sums = [_checksum(header)]
    array = _empty_as_told(header, stored.bytes) if stored.crc32c.startswith(sums[0]) else None
    if array is None:
        return None
    data = _bytes_of(array)
    for at in range(0, len(data), PIECE_BYTES):
        piece = data[at : at + PIECE_BYTES]
        if _fill(piece, file) < len(piece):
            return None
        sums.append(_checksum(piece))
    return array if "".join(sums) == stored.crc32c and not file.read(1) else None


def _fill(piece: memoryview, file: BufferedIOBase) -> int:
    """Read into all of `piece`; return how many bytes there were."""
    filled = 0
    while filled < len(piece) and (count := file.readinto(piece[filled:])):
        filled += count
    return filled


def _checksum(piece: bytes | memoryview) -> str:
    # Against damage, not against malice: whoever can change an array can change the manifest. Seven times as fast as
    # SHA-256, and of a piece no burst of 32 bits goes unseen, of the rest one in four billion.
    return f"{crc32c.crc32c(piece):08x}"


def _empty_as_told(header: bytes, file_bytes: int) -> Array | None:
    """Return room for the array that the header tells of, if the file has its size."""
    with _parsing:
        source = BytesIO(header)
        np.lib.format.read_magic(source)
        shape, _, dtype = np.lib.format.read_array_header_1_0(source)
    if dtype.hasobject or len(header) + math.prod(shape) * dtype.itemsize != file_bytes:
        return None
    return Room(dtype, *shape[1:]).reserve(shape[0]).array  # whoever takes the state up lets it grow there


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
