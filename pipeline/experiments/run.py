"""Run an experiment's jobs; every finished one is a line of a JSON-lines file, so that a run that died goes on.

A job is one training and all that is made from it: minutes of work. Its `about` says everything that it depends on
besides the code; a line counts as done where both it and the commit are the same.

    {"about": {"data": "amazon_cs", "seed": 0}, "commit": "8875184", "date": "2026-11-28", "seconds": 41.2,
     "records": [{"key": {"data": "amazon_cs", "seed": 0, "method": "lasso", "budget": 4}, "figures": {"auroc": 0.91}}]}
"""

import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from pipeline.errors import DataError

Key = dict[str, str | int | float]


class Record(msgspec.Struct):
    """What was run, and what was measured; None is a figure that the data cannot tell."""

    key: Key
    figures: dict[str, float | None]


class Line(msgspec.Struct):
    about: dict[str, Any]
    commit: str
    date: str
    seconds: float
    records: list[Record]


_decode = msgspec.json.Decoder(Line).decode


class Job(NamedTuple):
    about: dict[str, Any]
    run: Callable[[], list[Record]]


def run_jobs(jobs: Sequence[Job], out: Path) -> list[Line]:
    """Run what `out` does not hold yet; return the lines of all `jobs`, in their order.

    ValueError where two jobs are about the same: one would be taken for the other.
    """
    if len({_digest(job.about) for job in jobs}) < len(jobs):
        raise ValueError("two jobs are about the same")
    commit = code_version()
    done = {_digest(line.about): line for line in _read(out) if line.commit == commit}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file, tqdm(jobs, unit="job", disable=None) as bar:
        for job in bar:
            bar.set_description(" ".join(str(value) for value in job.about.values() if isinstance(value, str | int)))
            if _digest(job.about) in done:
                continue
            began = time.perf_counter()
            records = job.run()
            today = datetime.now(UTC).date().isoformat()
            line = Line(job.about, commit, today, round(time.perf_counter() - began, 2), records)
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            done[_digest(job.about)] = line
    return [done[_digest(job.about)] for job in jobs]


def code_version() -> str:
    """Return the commit that this code is, with a + where files were changed since; "unknown" outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "--", "*.py"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _read(path: Path) -> Iterable[Line]:
    if not path.exists():
        return
    *whole, rest = path.read_bytes().split(b"\n")
    for number, text in enumerate(whole, start=1):
        try:
            yield _decode(text)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"{path}: line {number} is no finished job: {error}; remove the file to start anew"
            ) from None
    if rest:  # the run died while it wrote: this job is run again, on a line of its own
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(rest))


def _digest(about: dict[str, Any]) -> bytes:
    return msgspec.json.encode(about, order="sorted")
