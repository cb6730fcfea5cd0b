"""Stand-ins that behave like the real thing, with the knobs that a test needs: a log in memory that crashes on demand,
a clock that moves only when told to, a disk of one megabyte, a folder that takes its time."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.log import Log, Message, Move, Progress, Read, Record, check_moves
from pipeline.snapshot_files import LocalFiles


class FakeClock:
    """A clock to be called for the time; sleeping is what makes it go on."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Crash(BaseException):
    """The process ends here, as far as the test is concerned; nothing that handles errors handles it."""


class ListLog(Log):
    """A log in memory.  A read that times out moves the clock on by the timeout.

    Like the disk under a process that dies, it outlives its crashes: go on with the same object.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.topics: dict[str, list[Record]] = {}
        self.positions: dict[tuple[str, str], int] = {}
        self.commits = 0
        self._crash_before: int | None = None
        self._crash_after: int | None = None

    def crash_before_commit(self, number: int) -> None:
        """Raise Crash in place of the commit of this number, counted from 1."""
        self._crash_before = number

    def crash_after_commit(self, number: int) -> None:
        """Raise Crash as soon as the commit of this number is done, counted from 1."""
        self._crash_after = number

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        records = self.topics.setdefault(topic, [])
        for value, key, content_type, headers in messages:
            records.append(Record(len(records), value, key, content_type, self.clock(), headers))
        return len(records)

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        self.wait({topic: position}, timeout_seconds)
        records = self.topics.get(topic, [])[position : position + max_records]
        position += len(records)
        return Read(records, position, max(position, self.end(topic)))

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        if all(position >= self.end(topic) for topic, position in positions.items()):
            self.clock.sleep(timeout_seconds)

    def commit(self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> None:
        if self._crash_before == self.commits + 1:
            self._crash_before = None
            raise Crash
        check_moves(group, moves, {topic: self.committed(group, topic).position for topic in moves})
        for output_topic, messages in outputs.items():
            self.append(output_topic, messages)
        self.positions |= {(group, topic): move.position for topic, move in moves.items()}
        self.commits += 1
        if self._crash_after == self.commits:
            raise Crash

    def committed(self, group: str, topic: str) -> Progress:
        return Progress(0, self.positions.get((group, topic), 0))

    def flush(self) -> None:
        pass

    def end(self, topic: str) -> int:
        return len(self.topics.get(topic, []))

    def close(self) -> None:
        pass


class HeldFiles(LocalFiles):
    """A folder in which a child process waits, before it writes, until it is released."""

    def __init__(self, folder: Path, gate: Path) -> None:
        super().__init__(folder)
        self._gate, self._owner = gate, os.getpid()
        if not gate.exists():
            os.mkfifo(gate)

    def make_folder(self, name: str) -> None:
        if os.getpid() != self._owner:
            self._gate.read_bytes()
        super().make_folder(name)

    def release(self) -> None:
        """Let one child go on, as soon as there is one that waits."""
        self._gate.write_bytes(b"")


@contextlib.contextmanager
def one_megabyte_disk(read_only: bool = False) -> Iterator[Path]:
    """Mount a disk of one megabyte; where that is not permitted, skip the test, or fail it under CI."""
    # Not within pytest's folders, and unmounted even while a failed test has files open in it: pytest removes its
    # folders in later runs, and stumbles over what is still mounted there.
    folder = Path(tempfile.mkdtemp(prefix="graphsieve-disk-"))
    mode = "size=1m,ro" if read_only else "size=1m"
    mount = ["mount", "-t", "tmpfs", "-o", mode, "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode:
        folder.rmdir()
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"mounting a small disk is not permitted here: {result.stderr.splitlines()[0]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
