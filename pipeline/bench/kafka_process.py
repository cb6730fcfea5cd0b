"""The processes of `bench kafka`, the deployed scorer and a producer at a steady pace, and the clients they use."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import msgspec

from consumers.service import tune_python
from pipeline.config import Config, environment_name
from pipeline.errors import LogError
from pipeline.kafka_log.bare import paced
from pipeline.kafka_log.client import Cluster
from pipeline.log import Message

STOP_SECONDS = 60.0
LOOK_SECONDS = 0.1

Client = Literal["kafka-python", "confluent"]


def clients() -> tuple[Client, ...]:
    """Return those that are installed."""
    return ("kafka-python",) if find_spec("confluent_kafka") is None else ("kafka-python", "confluent")


def measuring(servers: str, config: Config) -> Cluster:
    """Return the brokers as what measures speaks to them: by the client that takes less of the machine."""
    return Cluster(servers, msgspec.structs.replace(config.kafka, client=clients()[-1]))


@dataclass
class Scorer:
    """`graphsieve score`, as a process."""

    process: "subprocess.Popen[str]"
    said: Path  # its stderr

    def check(self) -> None:
        """LogError if it has ended by itself."""
        if self.process.poll() is not None:
            raise LogError(f"the scorer has ended, with {self.process.returncode}: {self._last_words()}")

    def wait_until(self, done: Callable[[], bool], seconds: float, failure: str) -> None:
        """Return once it is done; LogError if it has ended by itself, and `failure` if it takes longer."""
        deadline = time.monotonic() + seconds
        while not done():
            self.check()
            if time.monotonic() > deadline:
                raise LogError(failure)
            time.sleep(LOOK_SECONDS)

    def stop(self) -> dict[str, Any]:
        """Stop it in order; return its report."""
        self.check()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=STOP_SECONDS)
        if self.process.returncode:
            raise LogError(f"the scorer ended with {self.process.returncode}: {self._last_words()}")
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report

    def _last_words(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace").strip()[-500:]


@contextmanager
def scorer(servers: str, config: Config, config_file: Path | None, model: Path, state: Path) -> Iterator[Scorer]:
    """Run the scorer with what `config` says of topics, scores, group and delivery; other knobs it reads as we did."""
    state.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "pipeline.cli", "score", "--json", "--model", model, "--state", state]
    line += ["--log", f"kafka://{servers}", *(["--config", config_file] if config_file else [])]
    knobs = {
        ("topics", "events"): config.topics.events,
        ("topics", "scores"): config.topics.scores,
        ("topics", "dead_letters"): config.topics.dead_letters,
        ("score", "group"): config.score.group,
        ("score", "max_wait"): config.score.max_wait,
        ("score", "snapshot_every"): config.score.snapshot_every,
        ("scores", "format"): config.scores.format,
        ("kafka", "delivery"): config.kafka.delivery,
        ("kafka", "client"): config.kafka.client,
    }
    environment = {**os.environ, **{environment_name(*knob): value for knob, value in knobs.items()}}
    handle, said = tempfile.mkstemp(prefix="stderr-", dir=state)
    with os.fdopen(handle, "wb") as stderr:
        process = subprocess.Popen(
            [str(word) for word in line], stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        )
    try:
        yield Scorer(process, Path(said))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def producer(cluster: Cluster, topic: str, lines: list[bytes], per_second: float) -> Iterator[Connection]:
    """Produce from a process; the connection gives the instant of each send, once all are sent."""
    ours, its = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_produce, args=(cluster, topic, lines, per_second, its), daemon=True
    )
    process.start()
    its.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def _produce(cluster: Cluster, topic: str, lines: list[bytes], per_second: float, connection: Connection) -> None:
    tune_python()  # or a collection of garbage among all that was imported makes it pause, and hurry after it
    connection.send(list(paced(cluster, topic, map(Message, lines), per_second)))
