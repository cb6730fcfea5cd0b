"""Where a shard's snapshots are kept, so that whoever serves it next finds them.

    STATE/snapshot-*/              the only shard of an embedded log
    STATE/TOPIC-PARTITION@GROUP/   each shard of a Kafka topic; another group is at other positions

Many consumers may use one state at once, each with its shards, and shards move between them; one that does not know yet
that it has lost a shard may write beside the one that has it now. Nothing is locked for that; instead

  - every write has a folder of its own, whose manifest comes last: a snapshot is there as a whole or not at all
  - the state at a position follows from the log alone: of two snapshots of one position either will do
  - a write removes what lies below the `keep` newest positions, finished or not, and nothing else: no newer snapshot of
    another writer, and no unfinished one that would outlast its end

Reading checks every checksum: an unsound snapshot is refused as a whole, and an older one taken. A store that cannot be
reached is another matter: it may hold a snapshot, and replaying a log from its start may take hours.
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec

from pipeline.config import Config
from pipeline.errors import SnapshotError, UnsoundSnapshot
from pipeline.log_url import is_kafka
from pipeline.snapshot import (
    FORMAT,
    MANIFEST,
    AnyManifest,
    Array,
    Arrays,
    Manifest,
    StoredArray,
    new_name,
    position_of,
    read_array,
    write_array,
)
from pipeline.snapshot_files import MARKER, Files, open_files

Given = TypeVar("Given")
Got = TypeVar("Got")

# Made at import, as all decoders of a type are: msgspec 0.22 takes the process down where two threads are the first to
# decode one, as shards are that find their snapshots.
_decode_format = msgspec.json.Decoder(AnyManifest).decode
_decode_manifest = msgspec.json.Decoder(Manifest).decode


def open_shard_store(where: str, log_url: str, config: Config, partition: int) -> "SnapshotStore":
    """Open the store of one partition of a log."""
    # Kafka's groups see to it that each partition has one consumer.
    shard, exclusive = shard_name(log_url, config, partition), not is_kafka(log_url)
    return open_store(where, shard, config.score.snapshots_kept, exclusive)


def look_into_shard_store(where: str, log_url: str, config: Config, partition: int) -> "SnapshotStore":
    """Return the store of one partition of a log, to read from beside its consumer; nothing is made or locked."""
    shard = shard_name(log_url, config, partition)
    return SnapshotStore(open_files(where, shard), shard)


def shard_name(log_url: str, config: Config, partition: int) -> str:
    """Return what the shard of one partition of a log is called in its state."""
    if not is_kafka(log_url):
        return ""
    return f"{config.topics.events}-{partition}@{quote(config.score.group, safe='')}"


def open_store(where: str, shard: str, keep: int, exclusive: bool = False) -> "SnapshotStore":
    """Open one shard's store in a folder or at a URL of fsspec; SnapshotError if it can't be reached or written to.

    exclusive  refuse a second consumer; where there are no locks, as in an object store, it goes unnoticed
    """
    store = SnapshotStore(open_files(where, shard), shard, keep)
    store.open(exclusive)
    return store


def shards_of(where: str) -> list[str]:
    """Return the names of the shards in a state; that of an embedded log has none."""
    files = open_files(where)
    try:
        return sorted(name for name in files.names() if files.exists(f"{name}/{MARKER}"))
    except OSError as error:
        raise SnapshotError(f"the shards in {files.where} cannot be listed: {_reason(error)}; {files.remedy}") from None


@dataclass
class SnapshotStore:
    """The snapshots of one shard. `open` comes before writing, not before reading."""

    files: Files
    shard: str | None = ""  # whose snapshots to take; None: anybody's, to look at them
    keep: int = 2

    def open(self, exclusive: bool = False) -> None:
        """Make the place, check that it can be written to, and, if `exclusive`, lock it until `close`."""
        try:
            self.files.prepare()
            if exclusive and self.files.lock():
                self._remove(set(self._all()) - set(self._finished()))
        except BlockingIOError:
            hint = "give each its own --state"
            raise SnapshotError(f"state {self.files.where} is in use by another consumer; {hint}") from None
        except OSError as error:
            raise SnapshotError(f"state {self.files.where} cannot be used: {self._why(error)}") from None

    def close(self) -> None:
        self.files.close()

    # -- writing --

    def write(
        self, position: int, model: str, arrays: Mapping[str, Array], now: float, name: str | None = None
    ) -> Manifest:
        """Write a snapshot and remove those beyond `keep`; SnapshotError leaves the older ones as they were.

        name  a new one of `position`, for who will `discard` what a writer leaves that dies
        """
        name = name or new_name(position)
        try:
            self.files.make_folder(name)
            stored = self._write_arrays(name, arrays)
            manifest = Manifest(FORMAT, position, model, now, stored, self.shard or "")
            self.files.put(f"{name}/{MANIFEST}", msgspec.json.format(msgspec.json.encode(manifest)))
        except FileNotFoundError:
            hint = "the store has gone, or another consumer of the shard is further on and removed what is older"
            raise SnapshotError(f"no snapshot written to {self._path(name)}: it has vanished; {hint}") from None
        except OSError as error:
            raise SnapshotError(f"no snapshot written to {self.files.where}: {self._why(error)}") from None
        self._remove_old(name)
        return manifest

    def discard(self, name: str) -> None:
        """Remove a snapshot that nobody will finish, if that can be done; a finished one stays."""
        with suppress(OSError):
            if not self.files.exists(f"{name}/{MANIFEST}"):
                self._remove([name])

    def _write_arrays(self, name: str, arrays: Mapping[str, Array]) -> dict[str, StoredArray]:
        def write_one(item: tuple[str, Array]) -> StoredArray:
            with self.files.create(f"{name}/{item[0]}.npy") as file:
                return write_array(file, item[1])

        items = sorted(arrays.items(), key=lambda item: -item[1].nbytes)
        try:
            return dict(zip((key for key, _ in items), self._in_streams(write_one, items), strict=True))
        except OSError:
            with suppress(OSError):
                self._remove([name])  # it may be what fills the disk
            raise

    def _remove_old(self, own: str) -> None:
        """Remove what lies below the `keep` newest positions; never `own`, for those may be left of another log."""
        try:
            positions = sorted({_position(name) for name in self._finished()}, reverse=True)
            if len(positions) > self.keep:
                lowest = positions[self.keep - 1]
                self._remove(name for name in self._all() if _position(name) < lowest and name != own)
        except OSError as error:
            problem = f"snapshots beyond the newest {self.keep} cannot be removed from {self.files.where}"
            raise SnapshotError(f"{problem}: {self._why(error)}") from None

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.files.remove(name, first=MANIFEST)  # without it, it is no snapshot any more
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another removes it too, or still writes there
                    raise

    # -- reading --

    def names(self) -> list[str]:
        """Return the names of the snapshots, newest first; SnapshotError if the store cannot be reached."""
        try:
            return sorted(self._finished(), key=lambda name: (_position(name), name), reverse=True)
        except OSError as error:
            raise SnapshotError(f"the snapshots in {self.files.where} cannot be listed: {self._why(error)}") from None

    def read_manifest(self, name: str) -> Manifest:
        """Read a snapshot's manifest; UnsoundSnapshot if an older one should be taken."""
        try:
            with self._reading(name), self.files.open(f"{name}/{MANIFEST}") as file:
                data = file.read()
            found = _decode_format(data).format
            if found != FORMAT:
                problem = f"has format {found}, this version reads {FORMAT}"
                raise UnsoundSnapshot(f"snapshot {self._path(name)} {problem}")
            manifest = _decode_manifest(data)
        except (FileNotFoundError, msgspec.MsgspecError) as error:
            raise UnsoundSnapshot(f"snapshot {self._path(name)} is damaged: {MANIFEST}: {error}") from None
        if self.shard not in (manifest.shard, None):
            problem = f"is of shard {manifest.shard!r}, not of {self.shard!r}"
            raise UnsoundSnapshot(f"snapshot {self._path(name)} {problem}: somebody has moved it here")
        return manifest

    def read_arrays(self, name: str, manifest: Manifest) -> Arrays:
        """Read all arrays of a snapshot; UnsoundSnapshot names the file that is not what the manifest says."""

        def read_one(item: tuple[str, StoredArray]) -> Array:
            found = self.read_array(name, *item)
            if isinstance(found, str):
                raise UnsoundSnapshot(f"snapshot {self._path(name)} is damaged: {item[0]}.npy {found}")
            return found

        items = sorted(manifest.arrays.items(), key=lambda item: -item[1].bytes)
        return dict(zip((key for key, _ in items), self._in_streams(read_one, items), strict=True))

    def read_array(self, name: str, array: str, stored: StoredArray) -> Array | str:
        """Read one array of a snapshot, or say why it is not the one that was written."""
        try:
            with self._reading(name), self.files.open(f"{name}/{array}.npy") as file:
                found = read_array(file, stored)
        except FileNotFoundError:
            return "is missing"
        return "does not match its checksum" if found is None else found

    # -- both --

    def _all(self) -> list[str]:
        """Return the names of the snapshots, unfinished ones too."""
        return [name for name in self.files.names() if position_of(name) is not None]

    def _finished(self) -> list[str]:
        return [name for name in self._all() if self.files.exists(f"{name}/{MANIFEST}")]

    def _in_streams(self, work: Callable[[Given], Got], items: list[Given]) -> list[Got]:
        """Do `work` on all items, as many at a time as the files bear; the first error ends it."""
        with ThreadPoolExecutor(self.files.streams) as pool:
            return list(pool.map(work, items))

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """A file that is not there is the caller's concern; any other trouble is the store's."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            hint = "mend that, or remove it to replay from an older one"
            raise SnapshotError(f"snapshot {self._path(name)} cannot be read: {_reason(error)}; {hint}") from None

    def _path(self, name: str) -> str:
        return f"{self.files.where}/{name}"

    def _why(self, error: OSError) -> str:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{_reason(error)}; {'free space there' if full else self.files.remedy}"


def _position(name: str) -> int:
    return position_of(name) or 0


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
