"""Where the files of a state lie: a folder, or whatever fsspec reaches by URL (`s3://BUCKET/PREFIX`, `gs://...`).

Names are relative to the folder or prefix, with `/`. Everything fails with an OSError whose reason fits on one line:
FileNotFoundError if a file is not there, another if nobody can say. What a URL holds besides its address (a user, a
password, a query) is never told.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from pipeline.errors import ConfigError, SnapshotError

MARKER = ".lock"  # lies in the folder of each shard; locked, where that is possible, by who wants it alone
BLOCK_BYTES = 8 << 20  # of a remote file: how much of it is in memory at a time


class Files(Protocol):
    """The files of one shard."""

    where: str  # for people
    remedy: str  # what to do if it cannot be used
    streams: int  # how many files may be read or written at a time
    forkable: bool  # whether a child process may use them, too

    def prepare(self) -> None:
        """Make the place, if need be, and find out whether it can be written to."""

    def lock(self) -> bool:
        """Take it for this object alone; BlockingIOError if another has it, False where there are no locks."""

    def names(self) -> list[str]:
        """Return the names of all that lies here, not of what lies in them."""

    def exists(self, name: str) -> bool: ...

    def open(self, name: str) -> contextlib.AbstractContextManager[BufferedIOBase]: ...

    def make_folder(self, name: str) -> None: ...

    def create(self, name: str) -> contextlib.AbstractContextManager[BufferedIOBase]:
        """Open a new file for writing; it is durable at the end of the block."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file that is there as a whole, durably, or not at all."""

    def remove(self, folder: str, first: str) -> None:
        """Remove a folder, beginning with the file `first` if it is there."""

    def close(self) -> None: ...


def open_files(where: str, shard: str = "") -> Files:
    """Return the files of a shard: in a folder, or by URL; nothing is touched yet."""
    if "://" in where:
        return RemoteFiles(where, shard)
    return LocalFiles(Path(where) / shard)


def shown(where: str) -> str:
    """Return the place of a state for people's eyes: what a URL holds besides its address is left out."""
    return Address(where).shown if "://" in where else where


class LocalFiles:
    """Files in a folder: of this machine's, or of a volume that it shares with others."""

    remedy = "name a folder that can be written to"
    streams = 4
    forkable = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)
        self._locked = contextlib.ExitStack()

    def prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / MARKER).open("w").close()

    def lock(self) -> bool:
        with contextlib.ExitStack() as stack:
            marker = stack.enter_context((self._folder / MARKER).open("w"))
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locked = stack.pop_all()
        return True

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir()]

    def exists(self, name: str) -> bool:
        try:
            (self._folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open(self, name: str) -> contextlib.AbstractContextManager[BufferedIOBase]:
        return (self._folder / name).open("rb")

    def make_folder(self, name: str) -> None:
        (self._folder / name).mkdir()

    def create(self, name: str) -> contextlib.AbstractContextManager[BufferedIOBase]:
        return _durable(self._folder / name)

    def put(self, name: str, data: bytes) -> None:
        final = self._folder / name
        partial = final.with_name(f".{final.name}")
        with _durable(partial) as file:
            file.write(data)
        partial.rename(final)
        for folder in (final.parent, final.parent.parent):  # the file's name, and that of its folder
            _sync(folder)

    def remove(self, folder: str, first: str) -> None:
        (self._folder / folder / first).unlink(missing_ok=True)
        shutil.rmtree(self._folder / folder)

    def close(self) -> None:
        self._locked.close()


@contextmanager
def _durable(path: Path) -> Iterator[BufferedIOBase]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFiles:
    """Files by URL, through fsspec. Credentials and addresses come from where its backends look for them."""

    remedy = "check the address, the network and the credentials"
    forkable = False  # backends have threads and connections, which a child process has not

    def __init__(self, url: str, shard: str) -> None:
        self._address = Address(url)
        self.where = "/".join(filter(None, (self._address.shown.rstrip("/"), shard)))
        self._fs, root = _filesystem(url, self._address)
        self._root = "/".join(filter(None, (root.rstrip("/"), shard)))
        self.streams = 4 if self._fs.async_impl else 1  # of the others, not all bear being used by several threads

    def prepare(self) -> None:
        parts = self._root.split("/")
        with self._in_words():
            # From the second one on, and never with parents: a bucket that is not there is a mistake, not to be made.
            for depth in range(2, len(parts) + 1):
                with contextlib.suppress(FileExistsError):
                    self._fs.mkdir("/".join(parts[:depth]), create_parents=False)
            self._fs.pipe_file(self._path(MARKER), b"graphsieve\n")

    def lock(self) -> bool:
        return False

    def names(self) -> list[str]:
        with self._in_words():
            self._fs.invalidate_cache()  # others write here too
            return [path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]

    def exists(self, name: str) -> bool:
        try:
            with self._in_words():
                self._fs.invalidate_cache()
                self._fs.info(self._path(name))  # its own `exists` takes every error for a no
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedIOBase]:
        with self._in_words(), self._fs.open(self._path(name), "rb", block_size=BLOCK_BYTES) as file:
            yield file

    def make_folder(self, name: str) -> None:
        with self._in_words():
            self._fs.invalidate_cache()
            self._fs.info(self._path(MARKER))  # first: of all calls it fails the soonest if nobody answers
            self._fs.mkdir(self._path(name), create_parents=False)

    @contextmanager
    def create(self, name: str) -> Iterator[BufferedIOBase]:
        with self._in_words(), self._fs.open(self._path(name), "wb", block_size=BLOCK_BYTES) as file:
            yield file

    def put(self, name: str, data: bytes) -> None:
        partial, final = self._path(f"{name}.partial"), self._path(name)
        with self._in_words():
            self._fs.pipe_file(partial, data)
            self._fs.mv(partial, final)  # a rename, or, in an object store, a copy: neither is ever half done

    def remove(self, folder: str, first: str) -> None:
        with self._in_words():
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(f"{folder}/{first}"))
            self._fs.rm(self._path(folder), recursive=True)

    def close(self) -> None:
        pass

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn whatever a backend raises into an OSError of one line without secrets."""
        try:
            yield
        except Exception as error:
            number, text = _number_and_text(error)
            raise OSError(number, self._address.without_secrets(text)) from None


def _number_and_text(error: Exception) -> tuple[int, str]:
    text = str(error) or type(error).__name__
    if not isinstance(error, OSError):
        return errno.EIO, text
    missing = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO  # backends leave the number out
    return error.errno or missing, error.strerror or text


def _filesystem(url: str, address: "Address") -> tuple[Any, str]:
    """Return what serves a URL, and the path there; ConfigError if that is not installed."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ConfigError(f"state {address.shown}: a URL needs fsspec: pip install 'graphsieve[store]'") from None
    try:
        filesystem, path = url_to_fs(url)
    except ImportError as error:  # it says which package to install
        raise ConfigError(f"state {address.shown}: {address.without_secrets(str(error))}") from None
    except ValueError as error:
        problem = address.without_secrets(str(error))
        raise ConfigError(f"state {address.shown}: {problem}; expected a folder, or a URL that fsspec knows") from None
    except Exception as error:  # some backends connect at once
        problem = address.without_secrets(str(error) or type(error).__name__)
        raise SnapshotError(f"state {address.shown} cannot be used: {problem}; {RemoteFiles.remedy}") from None
    return filesystem, path


class Address:
    """A URL for people's eyes.

    Users write secrets as they come, slashes and all: whatever stands before the last @ counts as one. Where an @ comes
    after a ? nobody can tell what is what, and nothing is shown.
    """

    def __init__(self, url: str) -> None:
        self._secrets: set[str] = set()
        self.shown = "::".join(self._parted(link) for link in url.split("::"))  # fsspec: simplecache::s3://BUCKET

    def without_secrets(self, text: str) -> str:
        """Return `text` on one line, with `***` for every secret."""
        for secret in sorted(self._secrets, key=len, reverse=True):  # one may be part of another
            text = text.replace(secret, "***")
        return " ".join(text.split())

    def _parted(self, link: str) -> str:
        """Return what of a URL can be shown, and note what cannot."""
        scheme, mark, rest = link.partition("://")
        if not mark:
            return link
        front, *queries = re.split("[?#]", rest, maxsplit=1)
        query = "".join(queries)
        if "@" in query:
            self._note(rest, *re.split("[:@?#&=]", rest))
            return f"{scheme}://***"
        user, _, place = front.rpartition("@")
        self._note(user, *user.split(":", 1))
        self._note(query, *(pair.partition("=")[2] or pair for pair in query.split("&")))
        return f"{scheme}://{place}"

    def _note(self, *secrets: str) -> None:
        self._secrets.update(form for secret in secrets if secret for form in (secret, unquote(secret)))
