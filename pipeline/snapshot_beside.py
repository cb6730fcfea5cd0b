"""A snapshot written beside the scoring: by a child process, to which memory stays as it was at the fork.

    parent   fork, scores on ............ poll() -> the manifest, or SnapshotError
    child    `--> export, write, tell, end

A fork copies the tables of the pages, which is the only pause, some milliseconds for a gigabyte; what scoring changes
while the child is at work is copied then, page by page.

What other threads hold at the fork stays locked in the child for good. So it uses the state's arrays and the store's
files and nothing else: no log, no line for the operator, no handler of a signal, nothing that runs when a process ends.
It keeps nothing open that it inherited, or the state's lock and the port would outlive a parent that is killed. Such an
orphan goes on to its end, which its alarm bounds, and does no harm: a snapshot is there as a whole or not at all.
"""

import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from pipeline.descriptors import open_descriptors
from pipeline.errors import SnapshotError
from pipeline.snapshot import Array, Manifest, new_name
from pipeline.snapshot_store import SnapshotStore

NICE = 10  # scoring comes first, also where there are no cores to spare
PIPE = 3  # of the child
PIECE_BYTES = 1 << 16

_forking = threading.Lock()  # filters of warnings are the process's: two shards would restore each other's


class Told(msgspec.Struct):
    """The child's last words."""

    manifest: Manifest | None = None
    error: str = ""


_decode_told = msgspec.json.Decoder(Told).decode


class SnapshotBeside:
    """One snapshot under way: `poll` until it is written or has failed, or `close`."""

    def __init__(
        self,
        store: SnapshotStore,
        position: int,
        model: str,
        export: Callable[[], Mapping[str, Array]],
        now: float,
        limit_seconds: int,
    ) -> None:
        """Begin to write the state that `export` gives; SnapshotError if no process can be had.

        limit_seconds  the child is killed then: it hangs
        """
        self.position, self._limit = position, limit_seconds
        self._store, self._name = store, new_name(position)
        self._told = b""

        def write() -> Manifest:
            return store.write(position, model, export(), now, self._name)

        try:
            self._pid, self._pipe = _forked(write, limit_seconds)
        except OSError as error:
            raise SnapshotError(f"no snapshot written to {self._where}: no process for it: {error.strerror}") from None

    def poll(self) -> Manifest | None:
        """Return the manifest if it is written, None while it is not; SnapshotError if it has failed."""
        try:
            while piece := os.read(self._pipe, PIECE_BYTES):
                self._told += piece
        except BlockingIOError:
            return None
        return self._ended()

    def wait(self) -> Manifest:
        """Return the manifest as soon as it is written; SnapshotError if it has failed."""
        os.set_blocking(self._pipe, True)
        while piece := os.read(self._pipe, PIECE_BYTES):
            self._told += piece
        return self._ended()

    def close(self) -> None:
        """Give it up, and leave nothing of it."""
        os.kill(self._pid, signal.SIGKILL)
        self._reap()
        self._store.discard(self._name)

    def _ended(self) -> Manifest:
        """Reap the child, and return what it has written."""
        how = self._reap()
        try:
            told = _decode_told(self._told)
        except msgspec.DecodeError:
            self._store.discard(self._name)
            raise SnapshotError(f"no snapshot written to {self._where}: {how}") from None
        if told.manifest is None:
            raise SnapshotError(told.error)
        return told.manifest

    def _reap(self) -> str:
        """Wait for the child's end, which has begun; say what it died of, if it did."""
        os.close(self._pipe)
        code = 0
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel has reaped it
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code == -signal.SIGALRM:
            return f"it was not done after {self._limit} s; does the store hang?"
        if code == -signal.SIGKILL:
            return "its process was killed; if memory was short, allow for what changes while one is written"
        return f"its process ended early (exit code {code})"

    @property
    def _where(self) -> str:
        return self._store.files.where


def _forked(write: Callable[[], Manifest], limit_seconds: int) -> tuple[int, int]:
    """Start a child that writes; return its process id and the end of a pipe from which to read `Told`."""
    with _forking:
        told, tell = os.pipe()
        # The child heeds no signal of ours, and these are blocked beforehand: there is no instant at which it would.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with warnings.catch_warnings():
                # Python 3.12 and later warn of threads, whose locks may be held: the child asks for none of them.
                warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _be_the_child(write, tell, limit_seconds)
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(tell)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.set_blocking(told, False)
    return pid, told


def _be_the_child(write: Callable[[], Manifest], tell: int, limit_seconds: int) -> NoReturn:
    """Write, tell, end; never return, whatever happens."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_seconds)
        gc.disable()  # what is garbage here may be another thread's, with a connection to close
        os.nice(NICE)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs short, this process goes first
        _let_go_of_files(tell)
        try:
            words = Told(manifest=write())
        except SnapshotError as error:
            words = Told(error=str(error))
        except Exception as error:
            words = Told(error=f"no snapshot written: {type(error).__name__}: {error}")
        with open(PIPE, "wb") as pipe:
            pipe.write(msgspec.json.encode(words))
    finally:
        os._exit(0)


def _let_go_of_files(tell: int) -> None:
    """Close all that is open but `tell`, which becomes PIPE; nothing can be read from or said to the terminal."""
    os.dup2(tell, PIPE)
    for number in open_descriptors():
        if number > PIPE:
            with suppress(OSError):  # what the list itself was read from is closed by now
                os.close(number)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(PIPE):
        os.dup2(nothing, standard)
    os.close(nothing)
