"""A whole deployment on this machine, of processes in place of containers: `make stack`, `make stack-stop`.

    python -m pipeline.stack start      Kafka, topics, a model, Prometheus, quality, two consumers, a producer
    python -m pipeline.stack status     which of them run, and where they answer
    python -m pipeline.stack stop       end all, and remove all that they wrote

`start` returns once everything is up; a supervisor in the background owns the processes. All that they write lies in
one folder, which `stop` removes. A start that fails leaves no process, but the logs.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.broker_jars import fetched_jars, missing
from pipeline.errors import ConfigError, GraphsieveError
from pipeline.stack.parts import ABOUT
from pipeline.stack.state import Mark, State, clear, kill, mark_of, read_state

FOLDER = Path(".stack")
STOP_SECONDS = 120.0  # for the supervisor to end all the others; what runs then is killed
LOOK_SECONDS = 0.1

STOP, STOP_ELSEWHERE = "make stack-stop", "python -m pipeline.stack stop --folder"

Supervisor = subprocess.Popen[str]


# ---- start ----


def start(folder: Path, any_free: bool) -> int:
    """Bring a stack up and print where everything is; where one runs already, print that."""
    if (state := read_state(folder)) is not None and state.supervisor.runs():
        _say(f"a stack runs in {folder} already")
        _print_table(folder, state)
        return 0
    if reason := missing():
        raise ConfigError(reason)
    fetched_jars(_say)  # a download is best waited for where Ctrl-C ends it
    if state is not None:
        _say(f"remove what an earlier stack has left in {folder}")
        clear(folder, state)
    supervisor = _supervisor(folder, any_free)
    try:
        return _attend(folder, supervisor)
    except KeyboardInterrupt:
        _say("end what has started")
        _end(folder, mark_of("supervisor", supervisor.pid))
        raise


def _supervisor(folder: Path, any_free: bool) -> Supervisor:
    """Start what owns the stack, out of reach of the terminal's Ctrl-C."""
    (folder / "logs").mkdir(parents=True)
    State(mark_of("start", os.getpid())).write(folder)  # the folder is taken: whoever stops this stack now stops us
    line = [sys.executable, "-P", "-m", "pipeline.stack.supervisor", str(folder), *["--free-ports"] * any_free]
    with (folder / "logs" / "supervisor.log").open("wb") as log:
        return subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )


def _attend(folder: Path, supervisor: Supervisor) -> int:
    """Pass on what the supervisor says until it says no more: everything is up, or nothing runs."""
    assert supervisor.stdout is not None
    with supervisor.stdout as lines:
        for line in lines:
            _say(line.rstrip())
    state = read_state(folder)
    if state is not None and state.is_up:
        _print_table(folder, state)
        return 0
    code = supervisor.wait()
    if state is not None:
        kill(state)  # of a supervisor that was killed
    _say("it was stopped before it was up" if code == 0 else f"nothing of it runs; see {folder / 'logs'}")
    return 2


# ---- stop, status ----


def stop(folder: Path) -> int:
    """End the stack of a folder and remove the folder; say so where there is none."""
    if (state := read_state(folder)) is None:
        _say(f"no stack runs in {folder}")
        return 0
    names = ", ".join(mark.name for mark in state.processes if mark.runs())
    _say(f"end {names}" if names else f"remove what an earlier stack has left in {folder}")
    _end(folder, state.supervisor)
    _say(f"all have ended, and {folder} is removed")
    return 0


def _end(folder: Path, supervisor: Mark) -> None:
    """Let the supervisor end everything; then kill what is left, and remove the folder."""
    supervisor.send(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while supervisor.runs() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    supervisor.send(signal.SIGKILL)
    if (state := read_state(folder)) is not None:
        clear(folder, state)


def status(folder: Path) -> int:
    """Print which processes run; return 2 unless all do."""
    if (state := read_state(folder)) is None:
        _say(f"no stack runs in {folder}: `make stack` starts one")
        return 2
    _print_table(folder, state)
    return 0 if state.supervisor.runs() and all(mark.runs() for mark in state.processes) else 2


def _print_table(folder: Path, state: State) -> None:
    for mark in state.processes:
        runs = f"pid {mark.pid}" if mark.runs() else "ENDED"
        print(f"{mark.name:11} {runs:12} {mark.address:30}  {ABOUT.get(mark.name, '')}".rstrip())
    print(f"{'logs':24} {folder / 'logs'}")
    print(f"{'to end it':24} {STOP if folder == FOLDER else f'{STOP_ELSEWHERE} {folder}'}", flush=True)


# ---- the command line ----


def _say(line: str) -> None:
    sys.stderr.write(f"graphsieve: {line}\n")  # at once: Ctrl-C came between what `print` writes, and its newline
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 2 for an error that its reader can mend, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stack", description="a whole deployment of processes")
    parser.add_argument("what", choices=("start", "status", "stop"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where it keeps everything (default {FOLDER})")
    parser.add_argument(
        "--free-ports", action="store_true", help="start: none of the usual ports, even if they are free"
    )
    args = parser.parse_args(argv)
    for end in (signal.SIGINT, signal.SIGTERM):  # a shell has its background commands ignore the first
        signal.signal(end, signal.default_int_handler)
    try:
        if args.what == "start":
            return start(args.folder, args.free_ports)
        return stop(args.folder) if args.what == "stop" else status(args.folder)
    except KeyboardInterrupt:
        return 130
    except (GraphsieveError, OSError) as error:
        _say(" ".join(str(error).split()))
        return 2


if __name__ == "__main__":
    sys.exit(main())
