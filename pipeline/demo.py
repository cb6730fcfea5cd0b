"""The demo: what a user would run, command by command, on a synthetic stream; then a table and a picture.

    import      a stream of reviews with spam campaigns; its first two thirds are the history, the rest is unseen
    train       on the history; prune to 2x, 4x, 8x, by the LASSO and at random
    catch up    replay the history to a log, score it with the 4x model as fast as it goes, stop
    live        start the same consumer again; replay the unseen part at a steady speed; read /metrics; SIGTERM
    compare     the unpruned model over a copy of the log; quality of both on the unseen part; audit

Every step is a `graphsieve` process of its own, so what serves without torch serves without it here, and every number
is the one that the command prints. The processes end with the demo, however it ends.

The folder keeps report.png, report.json and all that the steps made, to look at with `graphsieve inspect`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.demo_report import draw, judged_scores
from pipeline.errors import ConfigError, GraphsieveError

Say = Callable[[str], None]
Report = dict[str, Any]
Process = subprocess.Popen[bytes]

SCHEMA = Path(__file__).resolve().parent.parent / "deploy" / "schemas" / "synthetic.toml"
MARKER = ".graphsieve-demo"  # in a folder that a demo has made, so that a later one may empty it
METHODS = ("lasso", "random")
POSITION, LAG = 'graphsieve_log_position{partition="0"}', 'graphsieve_log_lag_messages{partition="0"}'
PATIENCE_SECONDS = 120.0  # with the live consumer and what it waits for
SAY_EVERY_SECONDS = 3.0


@dataclass(frozen=True)
class Scale:
    """How much the demo does; by default one to two minutes on two cores."""

    events: int = 90_000
    budgets: tuple[int, ...] = (2, 4, 8)
    served: int = 4  # the budget of the model that serves
    live_seconds: float = 12.0
    audited_events: int = 10_000  # the twin's cost grows with the square of this
    audited_scores: int = 200

    @property
    def history(self) -> int:
        return self.events * 2 // 3

    @property
    def unseen(self) -> int:
        return self.events - self.history


FULL = Scale()


def demo(out: Path, seed: int, say: Say, scale: Scale = FULL) -> Report:
    """Run the demo in the folder `out`; GraphsieveError tells which step failed and why."""
    if not SCHEMA.is_file():
        raise ConfigError(f"no {SCHEMA}: run the demo in a clone of the repository, installed with `make install`")
    _make_empty(out)
    with _commands(out) as commands:
        report: Report = {"seed": seed, "events": scale.events, "unseen": scale.unseen, "served": scale.served}
        report |= _learn(commands, seed, say, scale)
        report |= _serve(commands, say, scale)
        report |= _compare(commands, say, scale)
    before, after = (
        judged_scores(out / f"{n}.jsonl", out / "unseen.jsonl", scale.history) for n in ("before", "after")
    )
    draw(report, before, after, out / "report.png")
    report["picture"] = str(out / "report.png")
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


# ---- the steps ----


def _learn(commands: "Commands", seed: int, say: Say, scale: Scale) -> Report:
    say(f"make {scale.events:,} events, the first {scale.history:,} of them to learn from")
    with_seed = ("--seed", str(seed))
    commands.run("import", "synthetic", "--events", str(scale.events), *with_seed, "--out", "stream.jsonl")
    _cut(commands.folder, scale)
    say("train (the first run after an install compiles, too)")
    training = commands.run("train", "history.jsonl", "--schema", str(SCHEMA), *with_seed, "--out", "model")
    curve = []
    for budget in scale.budgets:
        say(f"prune {budget}x, by the LASSO and at random")
        prunings = [
            ("prune", "model", "history.jsonl", "--budget", str(budget), "--method", method, *with_seed,
             "--out", f"{method}{budget}")
            for method in METHODS
        ]  # fmt: skip
        curve.append({"budget": budget} | dict(zip(METHODS, commands.run_together(prunings), strict=True)))
    return {"training": training, "curve": curve}


def _serve(commands: "Commands", say: Say, scale: Scale) -> Report:
    model = f"lasso{scale.served}"
    say(f"score the history with the model pruned {scale.served}x, as fast as it goes")
    caught_up = _catch_up(commands, model, "log", "history.jsonl")
    live, latency = _live(commands, model, say, scale)
    offered = round(scale.unseen / scale.live_seconds)
    return {"caught_up_after": caught_up, "live": live, "live_events_per_s": offered, "latency_buckets": latency}


def _compare(commands: "Commands", say: Say, scale: Scale) -> Report:
    say("score a copy of the log with the unpruned model, to compare")
    caught_up = _catch_up(commands, "model", "copy", "history.jsonl")
    _catch_up(commands, "model", "copy", "unseen.jsonl")
    served = f"lasso{scale.served}"
    _catch_up(commands, served, "short", "short.jsonl")
    say(f"judge both models by the labels, and recompute {scale.audited_scores} scores with the slow twin")
    last = str(scale.history - 1)
    after, before, audit, *_ = commands.run_together([
        ("quality", "--log", "sqlite:log.db", "--after", last),
        ("quality", "--log", "sqlite:copy.db", "--after", last),
        ("audit", "--model", served, "--log", "sqlite:short.db", "--sample", str(scale.audited_scores)),
        ("record", "--log", "sqlite:log.db", "--topic", "scores", "--out", "after.jsonl"),
        ("record", "--log", "sqlite:copy.db", "--topic", "scores", "--out", "before.jsonl"),
    ])  # fmt: skip
    return {"caught_up_before": caught_up, "before": before, "after": after, "audit": audit}


def _catch_up(commands: "Commands", model: str, log: str, events: str) -> Report:
    """Put events on a log and score them to its end."""
    commands.run("replay", events, "--to", f"sqlite:{log}.db")
    return commands.run(
        "score", "--model", model, "--log", f"sqlite:{log}.db", "--state", f"{log}.state", "--until-end"
    )  # fmt: skip


def _live(commands: "Commands", model: str, say: Say, scale: Scale) -> tuple[Report, Report]:
    """Serve the unseen part as it comes; return the consumer's report, and the latency histogram of its metrics."""
    port = _free_port()
    say("start the consumer again; it goes on where its snapshot stands")
    consumer = commands.start(
        "score", "--model", model, "--log", "sqlite:log.db", "--state", "log.state", "--metrics-port", str(port)
    )  # fmt: skip
    commands.wait_until(lambda: _get(port, "/readyz") is not None, consumer)
    say(f"{scale.unseen:,} unseen events come now; meanwhile look at http://127.0.0.1:{port}/")
    speed = _seconds_between_ends(commands.folder / "unseen.jsonl") / scale.live_seconds
    producer = commands.start("replay", "unseen.jsonl", "--to", "sqlite:log.db", "--speed", f"{speed:.0f}x")
    metrics: dict[str, float] = {}
    say_at = time.monotonic() + SAY_EVERY_SECONDS

    def all_committed() -> bool:
        nonlocal metrics, say_at
        metrics = _metrics(port)
        position = metrics.get(POSITION, 0.0)
        if time.monotonic() >= say_at:
            say_at += SAY_EVERY_SECONDS
            say(f"{position - scale.history:,.0f} scored, {metrics.get(LAG, 0.0):,.0f} wait")
        return position >= scale.events

    commands.wait_until(all_committed, consumer)
    commands.result(producer)
    metrics = _metrics(port)  # the last micro-batch is counted now, too
    consumer.terminate()  # SIGTERM: it finishes its batch, writes a snapshot, and exits with 0
    return commands.result(consumer), _latency_buckets(metrics)


# ---- processes ----


@dataclass
class Commands:
    """Runs `graphsieve` commands in a folder."""

    folder: Path
    _said: dict[Process, Path] = field(default_factory=dict, init=False)  # what each said goes to a file

    def start(self, *words: str) -> Process:
        # -P: a folder `pipeline` where the user stands is none of ours. The user's knobs would make it another demo.
        line = [sys.executable, "-P", "-m", "pipeline.cli", *words, "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAPHSIEVE_")}
        said = self.folder / "logs" / f"{len(self._said):02}-{words[0]}.txt"
        said.parent.mkdir(exist_ok=True)
        with said.open("wb") as file:
            process = subprocess.Popen(line, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=file)
        self._said[process] = said
        return process

    def result(self, process: Process) -> Report:
        """Wait for a command's end; return its report, the last line of its output."""
        output, _ = process.communicate()
        if process.returncode != 0:
            raise self._failure(process)
        report: Report = json.loads(output.splitlines()[-1])
        return report

    def run(self, *words: str) -> Report:
        return self.result(self.start(*words))

    def run_together(self, lines: Sequence[tuple[str, ...]]) -> list[Report]:
        """Run commands side by side, two at a time; return their reports."""
        reports: list[Report] = []
        for first in range(0, len(lines), 2):
            reports += map(self.result, [self.start(*words) for words in lines[first : first + 2]])
        return reports

    def wait_until(self, done: Callable[[], bool], consumer: Process) -> None:
        """Wait until `done`; GraphsieveError if the consumer ends before, any other command fails, or nothing comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            for process in self._said:
                if process.poll() is not None and (process.returncode != 0 or process is consumer):
                    raise self._failure(process)
            if time.monotonic() > deadline:
                raise GraphsieveError(f"waited {PATIENCE_SECONDS:.0f} s for the live consumer: see {self.folder}/logs")
            time.sleep(0.1)

    def end(self) -> None:
        """Kill what still runs: nothing of it is worth waiting for."""
        for process in self._said:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def _failure(self, process: Process) -> GraphsieveError:
        said = self._said[process]
        lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"ended with {process.returncode}")
        step = said.stem.partition("-")[2]
        return GraphsieveError(f"demo, step `{step}`: {last.removeprefix('graphsieve: ')} (all it said is in {said})")


@contextlib.contextmanager
def _commands(folder: Path) -> Iterator[Commands]:
    """Give commands a folder, and end them however this is left: SIGTERM, too, takes this way."""
    commands = Commands(folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield commands
    finally:
        commands.end()
        signal.signal(signal.SIGTERM, before)


# ---- files and the metrics port ----


def _make_empty(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise ConfigError(f"{out} holds files that no demo made: name a new folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


def _cut(folder: Path, scale: Scale) -> None:
    """Cut the stream into what is learnt from and what is not seen before it is served; copy its first part, too."""
    parts = {"history": (0, scale.history), "unseen": (scale.history, scale.events), "short": (0, scale.audited_events)}
    lines = (folder / "stream.jsonl").read_bytes().splitlines(keepends=True)
    for name, (start, stop) in parts.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(lines[start:stop]))


def _seconds_between_ends(events: Path) -> float:
    with events.open("rb") as lines:
        times = [ts for line in lines if (ts := json.loads(line).get("ts")) is not None]
    return float(times[-1] - times[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _get(port: int, page: str) -> str | None:
    """Return a page of the consumer's port; None while there is none, or it says no."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}{page}", timeout=5.0) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return None


def _metrics(port: int) -> dict[str, float]:
    """Return every series with its value."""
    lines = [line for line in (_get(port, "/metrics") or "").splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def _latency_buckets(metrics: dict[str, float]) -> Report:
    """Return how many scores came within each bucket's seconds, cumulative, as the dashboard gets them."""
    start = 'graphsieve_score_latency_seconds_bucket{le="'
    return {name.removeprefix(start)[:-2]: int(n) for name, n in metrics.items() if name.startswith(start)}
