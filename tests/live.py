"""A real scorer on an embedded log, with its live page on a free port."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.log import Message
from pipeline.sqlite_log import SqliteLog

PATIENCE_SECONDS = 60.0


@dataclass
class Live:
    """A scorer that serves, and the log it reads."""

    process: subprocess.Popen
    port: int
    log: SqliteLog

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def status(self) -> dict:
        return msgspec.json.decode(self.get("status.json")[2])

    def append(self, lines: Sequence[bytes]) -> None:
        self.log.append("events", [Message(line) for line in lines])

    def wait_until_scored(self) -> None:
        """Wait until all that is in the log is scored and committed."""
        deadline, end = time.monotonic() + PATIENCE_SECONDS, self.log.end("events")
        while self.log.committed("graphsieve", "events").position < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if self.get("readyz")[0] == 200:
                    return
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextlib.contextmanager
def serving(folder: Path, model: Path, lines: Sequence[bytes] = (), **environment: str) -> Iterator[Live]:
    """Score `lines`, and what is appended later, until the block ends."""
    log = SqliteLog(folder / "log.db")
    log.append("events", [Message(line) for line in lines])
    port = free_port()
    words = ["score", "--model", model, "--log", f"sqlite:{folder / 'log.db'}", "--state", folder / "state"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *map(str, words), "--metrics-port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    live = Live(process, port, log)
    try:
        live.wait_until_ready()
        yield live
    finally:
        process.kill()
        process.communicate()
        log.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
