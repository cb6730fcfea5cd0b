"""The process that owns a stack: it starts all the others, says when one ends, and ends them all when it is told to.

`python -m pipeline.stack.supervisor FOLDER` is what `make stack` leaves running. Until everything is up, each line on
its stdout is for the person who waits, and who waits no longer has the stack ended. It exits with 0 after SIGTERM, with
2 where the stack did not come up, and in both cases nothing that it started runs any more.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from pipeline.broker import HOST, Broker, free_ports, is_free
from pipeline.errors import GraphsieveError
from pipeline.signals import setter
from pipeline.stack import parts
from pipeline.stack.state import Mark, State, mark_of

Say = Callable[[str], None]
Process = subprocess.Popen[bytes]

START_SECONDS = 180.0  # for any one step; all of them take half a minute on two idle cores
STOP_SECONDS = 15.0  # for one process to end in order; what is not done then will be read again
LOOK_SECONDS = 0.1


class Stopped(Exception):
    """Somebody wants the stack to end."""


@dataclass
class Processes:
    """The processes of a stack, known to `stack.json` as soon as they run.

    A request to stop never interrupts a start half-way, or there would be a process that nobody knows of: it is heeded
    between two steps and while one is awaited.
    """

    folder: Path
    say: Say
    stop: threading.Event
    state: State = field(init=False)
    _of: dict[str, Process] = field(default_factory=dict, init=False)
    _broker: Broker | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.state = State(mark_of("supervisor", os.getpid()))
        self.state.write(self.folder)

    def start_broker(self, port: int) -> str:
        """Start Kafka, and return its URL once it serves."""
        self._log("kafka").symlink_to("../kafka/broker.log")
        self._broker = Broker.start(self.folder / "kafka", port)
        self._add(mark_of("kafka", self._broker.pid, self._broker.url))
        return self._broker.url

    def start(self, name: str, words: Sequence[str], address: str = "") -> None:
        """Start a process in the folder; what it says goes to its log."""
        if self.stop.is_set():
            raise Stopped
        with self._log(name).open("ab") as log:
            self._of[name] = process = subprocess.Popen(
                words, cwd=self.folder, env=parts.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._add(mark_of(name, process.pid, address))

    def finish(self, name: str) -> None:
        """Wait until a process has done what it does, and forget it; GraphsieveError if it failed."""
        process = self._of[name]
        self.wait_until(f"{name} ends", lambda: process.poll() == 0)
        del self._of[name]
        self._write(processes=tuple(mark for mark in self.state.processes if mark.name != name))

    def wait_until(self, what: str, done: Callable[[], bool]) -> None:
        """Wait for what must come to pass; GraphsieveError if it does not, or a process fails before."""
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if self.stop.wait(LOOK_SECONDS):
                raise Stopped
            for name in self.ended():
                # Asked again: it may have ended, and well, since `ended` asked for its exit code.
                if name == "kafka" or self._of[name].poll() != 0:
                    raise self._failure(name)
            if time.monotonic() > deadline:
                raise GraphsieveError(f"waited {START_SECONDS:.0f} s until {what}: see {self.folder / 'logs'}")

    def is_up(self) -> None:
        """Set down that everything is up."""
        self._write(is_up=True)

    def watch(self) -> None:
        """Say of each process that ends that it did, until somebody wants them all to end."""
        told: set[str] = set()
        while not self.stop.wait(LOOK_SECONDS):
            for name in self.ended():
                if name not in told:
                    told.add(name)
                    self.say(str(self._failure(name)))

    def ended(self) -> list[str]:
        """The names of those that have ended."""
        for process in self._of.values():
            process.poll()  # only now the system forgets it
        return [mark.name for mark in self.state.processes if not mark.runs()]

    def end(self) -> None:
        """End all in order, what only passes by first; kill what takes too long."""
        order = list(parts.ABOUT)
        rank = {
            mark.name: order.index(mark.name) if mark.name in order else len(order) for mark in self.state.processes
        }
        for mark in sorted(self.state.processes, key=lambda mark: rank[mark.name], reverse=True):
            if mark.name == "kafka" and self._broker is not None:
                self._broker.stop()
            else:
                _end(self._of[mark.name])
            self.say(f"{mark.name} has ended")

    def _add(self, mark: Mark) -> None:
        self._write(processes=(*self.state.processes, mark))

    def _write(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)
        self.state.write(self.folder)

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _failure(self, name: str) -> GraphsieveError:
        path = self._log(name)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return GraphsieveError(f"{name} has ended; the last it said: {last.removeprefix('graphsieve: ')} (from {path})")


def _end(process: Process) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()


# ---- one after the other ----


def start_all(processes: Processes, say: Say, ports: parts.Ports) -> None:
    """Start everything, and return once it is up; the model is trained while the broker starts."""
    folder = processes.folder
    say(f"make {parts.HISTORY:,} events with spam campaigns among them, and train a model; start Kafka")
    processes.start("history", parts.HISTORY_WORDS)
    processes.finish("history")
    processes.start("train", parts.TRAIN_WORDS)
    broker = processes.start_broker(ports["kafka"])
    _create_topics(broker)
    _start_prometheus(processes, say, ports)
    processes.finish("train")
    say("prune the model to a quarter of its work; put the events on the topic")
    processes.start("producer", parts.producer_words(broker))
    processes.start("prune", parts.PRUNE_WORDS)
    processes.finish("prune")
    say("score them, then start two consumers for what comes")
    processes.start("quality", parts.quality_words(broker, ports["quality"]), _url(ports["quality"]) + "metrics")
    (folder / "config.toml").write_text(parts.KNOBS, encoding="utf-8")
    processes.start("catch-up", parts.consumer_words(broker, "--until-end"))
    processes.finish("catch-up")
    for name in parts.CONSUMERS:
        options = ("--instance", name, "--metrics-port", str(ports[name]))
        processes.start(name, parts.consumer_words(broker, *options), _url(ports[name]))
    for name in (*parts.CONSUMERS, "quality"):
        processes.wait_until(f"{name} is ready", partial(_answers, _url(ports[name]) + "readyz"))


def _create_topics(broker: str) -> None:
    from pipeline.kafka_log.client import Cluster
    from pipeline.kafka_log.topics import create_topic

    cluster = Cluster(broker.removeprefix("kafka://"))
    for topic in parts.TOPICS:
        create_topic(cluster, topic, parts.PARTITIONS, None, parts.RETENTION)


def _start_prometheus(processes: Processes, say: Say, ports: parts.Ports) -> None:
    if shutil.which("prometheus") is None:
        say(f"no prometheus on the path, the stack does without: {parts.PROMETHEUS_INSTALL}")
        return
    parts.write_prometheus_files(processes.folder, ports)
    url = _url(ports["prometheus"])
    processes.start("prometheus", parts.prometheus_words(ports["prometheus"]), url)
    processes.wait_until("Prometheus is ready", partial(_answers, url + "-/ready"))


def _url(port: int) -> str:
    return f"http://{HOST}:{port}/"


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5.0):
            return True
    except OSError:
        return False


def _ports(any_free: bool) -> dict[str, int]:
    """The usual ports, and free ones in place of those that are taken; `any_free`: in place of all."""
    free = free_ports()
    return {
        name: next(free) if any_free or not is_free(usual) else usual for name, usual in parts.USUAL_PORTS.items()
    }  # fmt: skip


# ---- the process ----


def supervise(folder: Path, any_free: bool, say: Say, up: Callable[[], None], stop: threading.Event) -> int:
    """Run a stack until `stop` is set; `up` is called once everything is."""
    began = time.monotonic()
    processes = Processes(folder, _log_line, stop)
    try:
        start_all(processes, say, _ports(any_free))
        processes.is_up()
        say(f"everything is up after {time.monotonic() - began:.0f} s")
        up()
        processes.watch()
    except Stopped:
        pass
    except (GraphsieveError, OSError) as error:
        say(" ".join(str(error).split()))
        return 2
    finally:
        processes.end()
    return 0


def _log_line(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stack of a folder that is there and empty."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stack.supervisor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--free-ports", action="store_true", help="none of the usual ones")
    args = parser.parse_args(argv)
    stop = threading.Event()
    set_stop = setter(stop)
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: set_stop())
    # Out of reach of our processes, one of which would else hold it open for whoever reads it to the end.
    audience = os.dup(1)
    os.dup2(2, 1)

    def say(line: str) -> None:
        _log_line(line)
        try:
            os.write(audience, f"{line}\n".encode())
        except BrokenPipeError:  # who waited has gone, and nobody would know of this stack
            stop.set()

    return supervise(args.folder.resolve(), args.free_ports, say, lambda: os.close(audience), stop)


if __name__ == "__main__":
    sys.exit(main())
