"""What a stack has written down about itself, and which of its processes are there.

    FOLDER/stack.json   the supervisor, every process in the order of their starts, where each answers
    FOLDER/logs/        what each of them said

A process is known by its number together with the moment it began. A number alone is given to another process sooner or
later, and no signal may go to that one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from pipeline.errors import ConfigError

FILE = "stack.json"
LOOK_SECONDS = 0.02


class Mark(Struct, frozen=True):
    """A process of the stack, for good: `runs` is never true of another one."""

    name: str
    pid: int
    began: str
    address: str = ""  # where it answers

    def runs(self) -> bool:
        return _began(self.pid) == self.began

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.runs():
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment
                os.kill(self.pid, number)


class State(Struct, frozen=True):
    supervisor: Mark  # who ends the others when it is told to
    processes: tuple[Mark, ...] = ()  # in the order of their starts
    is_up: bool = False

    def write(self, folder: Path) -> None:
        """Set it down, whole or not at all."""
        fresh = folder / f"{FILE}.new"
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        fresh.replace(folder / FILE)


_decode_state = msgspec.json.Decoder(State).decode


def mark_of(name: str, pid: int, address: str = "") -> Mark:
    """Return the mark of a process that was just started; one that has ended already is marked as such."""
    return Mark(name, pid, _began(pid) or "ended", address)


def read_state(folder: Path) -> State | None:
    """Return what a folder's stack says; None where there is no stack, ConfigError where there is something else."""
    try:
        return _decode_state((folder / FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} holds what no stack made: name another folder with --folder") from None
        return None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{folder / FILE} is damaged ({error}): end its processes by hand, remove {folder}") from None


def kill(state: State) -> None:
    """Kill what still runs of a stack whose supervisor has ended, and wait until none does."""
    for mark in reversed(state.processes):
        mark.send(signal.SIGKILL)
    while any(mark.runs() for mark in state.processes):
        time.sleep(LOOK_SECONDS)


def clear(folder: Path, state: State) -> None:
    """The same; then remove its folder."""
    kill(state)
    shutil.rmtree(folder)


def _began(pid: int) -> str | None:
    """Return when a process began, in the system's own words; None if there is none, or only its exit code is left."""
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            # After the name in brackets: the state, and 19 fields on the start in ticks since boot.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return None if fields[0] in "ZX" else fields[19]
        return None
    told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, began = told.stdout.strip().partition(" ")
    return None if not status or status.startswith("Z") else began.strip()
