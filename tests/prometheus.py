"""A real Prometheus with what deploy/ configures, for tests: targets, port and storage are the test's own.

    with prometheus(tmp_path, {"graphsieve": [9201], "graphsieve-quality": [9202]}) as server:
        server.query("up")

It scrapes and evaluates every second, rules of long windows too, so that a test need not wait for a minute.
"""

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
CONFIG = "deploy/prometheus.yml"
WORDS = ("prometheus", f"--config.file={CONFIG}", "--storage.tsdb.path=prometheus-data")
EVERY = "1s"
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.5

Targets = Mapping[str, Sequence[int | str]]  # job -> ports on this machine


class Sample(NamedTuple):
    labels: dict[str, str]
    value: float  # the newest


class Prometheus:
    """What a running one answers."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[Sample]:
        found = self.ask("query", query=expression)["result"]
        return [Sample(one["metric"], float(one["value"][1])) for one in found]

    def course(self, expression: str, seconds: float, step: float) -> list[tuple[dict[str, str], list[list[Any]]]]:
        """The series of the last `seconds`: their labels, and pairs of a time and a value in words."""
        now = time.time()
        found = self.ask("query_range", query=expression, start=now - seconds, end=now, step=step)["result"]
        return [(one["metric"], one["values"]) for one in found]

    def has_data(self, expression: str) -> bool:
        """Does a query give numbers? NaN is none."""
        return any(not math.isnan(sample.value) for sample in self.query(expression))

    def groups(self) -> list[dict[str, Any]]:
        """The groups of rules, each rule with its health and its alerts."""
        groups: list[dict[str, Any]] = self.ask("rules")["groups"]
        return groups

    def firing(self) -> list[dict[str, Any]]:
        return [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]

    def ask(self, what: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters, doseq=True)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{what}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def prometheus(folder: Path, targets: Targets, words: Sequence[str] = WORDS) -> Iterator[Prometheus]:
    """Run it in `folder` by `words`, until the block ends; what it says goes to prometheus.log."""
    need("prometheus")
    config = configured(folder, targets)
    own = f"127.0.0.1:{free_port()}"
    line = [word.replace(CONFIG, str(config)) for word in words] + [f"--web.listen-address={own}"]
    with (folder / "prometheus.log").open("w") as said:
        process = subprocess.Popen(line, cwd=folder, stdout=said, stderr=said)
        try:
            eventually(lambda: _is_ready(own), "Prometheus is ready")
            yield Prometheus(own)
        finally:
            process.terminate()
            process.wait(30)


def configured(folder: Path, targets: Targets) -> Path:
    """Copy what deploy/ configures to `folder`, with these targets; return the copy."""
    config = loaded(DEPLOY / "prometheus.yml")
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets.get(job["job_name"], [])]}]
    for name in config["rule_files"]:
        rules = loaded(DEPLOY / name)
        for group in rules["groups"]:
            group["interval"] = EVERY
        (folder / name).write_text(yaml.safe_dump(rules))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def need(program: str) -> None:
    """Skip the test where a program of Prometheus is missing; under CI=true, where it is installed, fail."""
    if shutil.which(program) is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"no {program} here: apt-get install prometheus")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for what must come to pass."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain, for {WAIT_SECONDS} s: {what}"
        time.sleep(LOOK_SECONDS)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
