"""A shard's state on disk: plain arrays and a manifest, never half visible.

    STATE/snapshot-000000004711/      4711 = the position up to which events are in it
        manifest.json                 position, model version, bytes and SHA-256 of every array
        graph.rows.npy ...            numpy's own format, no pickle

A snapshot is written beside the old ones under a name that starts with `.`, made durable, then renamed. The newest
`keep` stay. Reading one checks every checksum, so a damaged one is refused as a whole and the older taken.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import SnapshotError

Arrays = dict[str, npt.NDArray[Any]]
FORMAT = 1


class StoredArray(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    format: int
    position: int
    model: str  # version of the model whose hidden features these are
    written_at: float  # seconds since the epoch
    arrays: dict[str, StoredArray]

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays.values())


@dataclass
class SnapshotStore:
    """The snapshots of one shard in one folder, which one process uses at a time."""

    folder: Path
    keep: int = 2

    def open(self) -> None:
        """Make the folder, check that it can be written to, and lock it until the process ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "give each its own --state"
            raise SnapshotError(f"state {self.folder} is in use by another consumer; {hint}") from None
        except OSError as error:
            hint = "name a folder that can be written to"
            raise SnapshotError(f"state {self.folder} cannot be used: {error.strerror}; {hint}") from None
        for leftover in self.folder.glob(".snapshot-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        self._lock.close()

    def write(self, position: int, model: str, arrays: Mapping[str, npt.NDArray[Any]], now: float) -> Manifest:
        """Write a snapshot and remove those beyond `keep`; SnapshotError leaves the older ones as they were."""
        final = self.folder / f"snapshot-{position:012}"
        partial = self.folder / f".{final.name}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            stored = {name: _write_array(partial / f"{name}.npy", array) for name, array in arrays.items()}
            manifest = Manifest(FORMAT, position, model, now, stored)
            _write_durably(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
            _sync_folder(partial)
            shutil.rmtree(final, ignore_errors=True)  # same position: written by a run that was then undone
            partial.rename(final)
            _sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise SnapshotError(f"no snapshot written to {self.folder}: {error.strerror}; free space there") from None
        for old in self.paths()[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return manifest

    def paths(self) -> list[Path]:
        """Return the snapshots, newest first."""
        return sorted(self.folder.glob("snapshot-*"), reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Read a snapshot's manifest; SnapshotError if it is missing or of another kind."""
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise SnapshotError(f"snapshot {path} is damaged: manifest.json: {error}") from None
    if manifest.format != FORMAT:
        raise SnapshotError(f"snapshot {path} has format {manifest.format}, this version reads {FORMAT}")
    return manifest


def read_snapshot(path: Path) -> tuple[Manifest, Arrays]:
    """Read a snapshot whole; SnapshotError names the file that is not what the manifest says."""
    manifest = read_manifest(path)
    arrays = {}
    for name, stored in manifest.arrays.items():
        file = path / f"{name}.npy"
        try:
            with file.open("rb") as source:
                digest = hashlib.file_digest(source, "sha256").hexdigest()
                if digest != stored.sha256:
                    raise SnapshotError(f"snapshot {path} is damaged: {file.name} does not match its checksum")
                source.seek(0)
                arrays[name] = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SnapshotError(f"snapshot {path} is damaged: {file.name}: {error}") from None
    return manifest, arrays


class _HashingFile:
    """What numpy writes goes to the file and into a checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def _write_array(path: Path, array: npt.NDArray[Any]) -> StoredArray:
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        np.lib.format.write_array(hashing, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return StoredArray(hashing.bytes, hashing.digest.hexdigest())


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
