"""`graphsieve bench startup`: from the start of the process to its first committed score.

    warm    the machine code of the hot loops is in the cache, as after any earlier start
    cold    the cache is empty: the loops are compiled first
    peer    the start of a process that only imports torch, which our serving process never does

Each run is a process of its own, started as a user starts it; what is waited for is the first score in the log.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pipeline.bench.models import some_model, synthetic_schema
from pipeline.bench.surroundings import Report, surroundings
from pipeline.errors import LogError
from pipeline.log import Message
from pipeline.page import Table
from pipeline.sqlite_log import SqliteLog
from producers.synthetic import synthetic_events

EVENTS = 200
COLD_RUNS = 1  # half a minute each
LOOK_SECONDS = 0.002
WAIT_SECONDS = 300.0


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        some_model(synthetic_schema()).save(place / "model")
        _first_score(place, "fills-the-cache", None)
        seconds = _measure(place, args.repeats)
    figures = {name: [round(value, 3) for value in sorted(found)] for name, found in seconds.items()}
    torch = figures.pop("import torch")
    return {
        **around,
        "ours": {"seconds": figures},
        "peers": {"import torch": {"seconds": torch}},
        "ratio": {"import torch": round(median(torch) / median(figures["warm"]), 2)},
    }


def tables(report: Report) -> list[Table]:
    runs = report["ours"]["seconds"] | {"peer: import torch": report["peers"]["import torch"]["seconds"]}
    cells = [[name, f"{median(s):.2f}", f"{s[0]:.2f} to {s[-1]:.2f}", str(len(s))] for name, s in runs.items()]
    return [Table("seconds", ["start", "seconds, median", "range", "runs"], cells)]


def _measure(place: Path, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"warm": [], "import torch": []}
    for repeat in range(repeats):
        seconds["warm"].append(_first_score(place, f"warm-{repeat}", None))
        seconds["import torch"].append(_import_torch())
        if repeat < COLD_RUNS:
            cache = place / f"cache-{repeat}"
            seconds.setdefault("cold", []).append(_first_score(place, f"cold-{repeat}", cache))
    return seconds


def _first_score(place: Path, run_name: str, cache: Path | None) -> float:
    """Start a scorer on a log of its own; return the seconds until its first score is there."""
    log = SqliteLog(place / f"{run_name}.db")
    log.append("events", [Message(line) for line in synthetic_events(0, EVENTS)])
    words = ["score", "--model", str(place / "model"), "--log", f"sqlite:{place / run_name}.db"]
    words += ["--state", str(place / f"{run_name}.state"), "--metrics-port", "0"]
    environment = os.environ | ({"NUMBA_CACHE_DIR": str(cache)} if cache else {})
    began = time.perf_counter()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("graphsieve"), *words], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not log.end("scores"):
            if process.poll() is not None or time.perf_counter() - began > WAIT_SECONDS:
                raise LogError(f"the scorer gave no score: graphsieve {' '.join(words)}")
            time.sleep(LOOK_SECONDS)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
        log.close()


def _import_torch() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began
