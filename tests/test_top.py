"""`graphsieve top`: figures from two readings, pictures of any width, and a real consumer in a real terminal."""

import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from worlds import random_model

from pipeline.errors import ConfigError
from pipeline.log import Message
from pipeline.schema import load_schema
from pipeline.sqlite_log import SqliteLog
from pipeline.top.scrape import Partition, Reading, Seen, metrics_url, quantile, read, seen
from pipeline.top.view import frame
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
WAIT_SECONDS = 60.0
OWN_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"  # the one whose keys send signals


# ---- figures ----


def reading(at: float, **values: float) -> Reading:
    """What a consumer would tell: names stand for metrics, `le_0.1` for a bucket of the latency."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {"graphsieve_scores_total": [({}, 0.0)]}
    for name, value in values.items():
        if name.startswith("le_"):
            bucket = ({"le": name[3:]}, value)
            samples.setdefault("graphsieve_score_latency_seconds_bucket", []).append(bucket)
        else:
            samples[f"graphsieve_{name}"] = [({}, value)]
    return Reading("http://x", at, samples)


def test_rates_are_those_between_two_readings():
    before = reading(10.0, scores_total=100, spam_scores_total=10)
    now = reading(12.0, scores_total=300, spam_scores_total=20)
    found = seen(before, now)
    assert (found.scores_per_second, found.spam_share) == (100.0, 0.05)


def test_latencies_are_those_of_the_interval_and_not_of_the_whole_run():
    before = reading(0.0, **{"le_0.1": 1000.0, "le_0.2": 1000.0, "le_+Inf": 1000.0})
    now = reading(2.0, **{"le_0.1": 1000.0, "le_0.2": 1100.0, "le_+Inf": 1100.0})
    assert seen(before, now).latency_seconds == pytest.approx({"p50": 0.15, "p95": 0.195, "p99": 0.199})


def test_a_consumer_that_was_started_anew_begins_at_nothing():
    before, now = reading(0.0, scores_total=1000, **{"le_+Inf": 9.0}), reading(2.0, scores_total=50, **{"le_+Inf": 4.0})
    assert seen(before, now).scores_per_second == 25.0


def test_before_a_second_reading_no_rate_is_made_up():
    found = seen(None, reading(0.0, scores_total=1000, rebalances_total=3))
    assert (found.scores_per_second, found.spam_share, found.rebalances) == (None, None, 3)
    assert set(found.latency_seconds.values()) == {None}


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_a_quantile_lies_in_the_bucket_of_the_true_one(q):
    values = np.random.default_rng(0).exponential(0.01, 5000)
    edges = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, math.inf]
    buckets = {edge: float((values <= edge).sum()) for edge in edges}
    true = float(np.quantile(values, q))
    above = next(i for i, edge in enumerate(edges) if edge >= true)
    assert edges[above - 1] <= quantile(buckets, q) <= edges[above]


def test_a_quantile_above_every_edge_is_the_highest_edge_and_none_without_values():
    assert quantile({1.0: 0.0, math.inf: 5.0}, 0.5) == 1.0
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.5) is None
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("text", ["127.0.0.1:9108", "http://127.0.0.1:9108/", "http://127.0.0.1:9108/metrics"])
def test_an_address_may_be_short_or_whole(text):
    assert metrics_url(text) == "http://127.0.0.1:9108"


@pytest.mark.parametrize("text", ["ftp://x", "http://", "http://x:port", "http://x:0"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match=r"is no address of metrics: expected http://HOST:PORT"):
        metrics_url(text)


# ---- pictures ----


def busy(**others: object) -> Seen:
    rows = [Partition(str(i), "live", 12_345.0, 1234.5, 3.2, 41.0, 1.0) for i in range(4)]
    stages = dict.fromkeys(("decode", "A", "B", "C", "D", "commit"), 0.000123)
    found = {
        "url": "http://consumer-with-a-long-name.example:9108", "model": "875b4077e61a", "schema": "reviews",
        "scores_per_second": 123_456.0, "spam_share": 0.031, "dead_letters_per_second": 0.1,
        "micro_batch_events": 41.2, "latency_seconds": {"p50": 0.0032, "p95": 0.0081, "p99": 1.2},
        "stage_seconds": stages, "resident_bytes": 4.12e8, "limit_bytes": 2e9, "state_bytes": 1.2e8, "rows": 1e6,
        "rebalances": 3.0, "in_flight": 512.0, "producers_replaced": 0.0, "snapshots": 12.0, "snapshot_failures": 0.0,
        "partitions": rows,
    }  # fmt: skip
    return Seen(**{**found, **others})


def test_all_that_matters_fits_into_80_columns():
    lines = frame([busy()], "10:00:00", 1000, 100, coloured=False)
    assert max(len(line) for line in lines) <= 80, max(lines, key=len)


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("height", [3, 10, 24])
def test_no_picture_is_larger_than_the_window(width, height):
    lines = frame([busy(), busy(url="http://b", error="Connection refused")], "10:00:00", width, height, coloured=False)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert ("more lines" in lines[-1]) == (height < 20)


def test_colours_take_no_room():
    plain = frame([busy()], "10:00:00", 60, 100, coloured=False)
    painted = frame([busy()], "10:00:00", 60, 100, coloured=True)
    assert painted != plain
    assert [re.sub(r"\033\[[\d;]*m", "", line) for line in painted] == plain


def test_whoever_answers_cannot_write_to_the_terminal():
    hostile = "\033[2J\033]0;title\x07\r\n\u202eevil"
    partition = Partition(hostile, hostile, 0.0, None, None, None, 1.0)
    lines = frame([busy(model=hostile, schema=hostile, partitions=[partition])], "10:00:00", 80, 50, coloured=False)
    assert all(line.isprintable() for line in lines)


def test_several_consumers_are_summed_up():
    lines = frame([busy(), busy(url="http://b"), Seen("http://c", "timed out")], "10:00:00", 80, 99, coloured=False)
    assert "2 of 3 consumers answer" in lines[0]
    assert "246,912 scores/s   8 partitions live   98,760 wait" in lines[1]
    assert any(line == "http://c   away: timed out" for line in lines)


# ---- a real consumer ----


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A consumer under load; returns its address."""
    folder = tmp_path_factory.mktemp("consumer")
    random_model(load_schema(SCHEMA), width=8).save(folder / "model")
    with serving(folder) as (url, _):
        yield url


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    if not (folder / "model").exists():
        random_model(load_schema(SCHEMA), width=8).save(folder / "model")
    log, stop = SqliteLog(folder / "log.db"), threading.Event()
    log.append("events", [Message(b"{")])
    log.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--model", folder / "model", "--log", f"sqlite:{folder / 'log.db'}", "--state", folder / "state"]
    line = [sys.executable, "-m", "pipeline.cli", "score", *map(str, words), "--metrics-port", str(port)]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    feeder = threading.Thread(target=feed, args=(folder / "log.db", stop))
    feeder.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while read(f"http://127.0.0.1:{port}", 2).error:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        stop.set()
        feeder.join()
        process.kill()
        process.wait()


def feed(path: Path, stop: threading.Event) -> None:
    log, events = SqliteLog(path), synthetic_events(seed=1, limit=None)
    while not stop.wait(0.05):
        log.append("events", [Message(next(events)) for _ in range(20)])
    log.close()


def top(*words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "pipeline.cli", "top", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def test_once_tells_what_a_consumer_does_now(consumer):
    done = top(consumer, "--json", "--every", "1")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["consumers"]
    assert (found["error"], found["schema"]) == ("", "synthetic")
    assert 50 < found["scores_per_second"] < 1000
    assert 0 < found["latency_seconds"]["p50"] <= found["latency_seconds"]["p99"] < 10
    assert found["stage_seconds"]["commit"] > 0
    assert 0 < found["resident_bytes"] < found["limit_bytes"]
    (partition,) = found["partitions"]
    assert (partition["partition"], partition["state"], partition["restored"]) == ("0", "live", 1.0)
    assert partition["per_second"] > 50


def test_once_prints_one_picture_without_colours_into_a_pipe(consumer):
    done = top(consumer, "--once", "--every", "0.5")
    assert done.returncode == 0
    assert "1 of 1 consumers answer" in done.stdout
    assert re.search(r"^  0 +live ", done.stdout, re.MULTILINE)
    assert "\033" not in done.stdout


def test_a_consumer_that_is_away_or_something_else_is_told_and_is_no_error(consumer):
    with socket.socket() as free, socket.socket() as silent:
        free.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed, dumb = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (free, silent))
        done = top(consumer, closed, dumb, "--once", "--every", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{closed}   away: Connection refused" in done.stdout
    assert f"{dumb}   away: timed out" in done.stdout
    assert "1 of 3 consumers answer" in done.stdout


def test_without_a_terminal_it_says_what_to_do(consumer):
    done = top(consumer)
    assert done.returncode == 2
    assert done.stderr == "graphsieve: graphsieve top draws on a terminal, and this is none: use --once, or --json\n"


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *words: str, columns: int = 80, rows: int = 30) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self._slave)
        self.written = ""
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        command = f"{OWN_TERMINAL}; import sys; from pipeline.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, *words],
            stdin=self._slave, stdout=self._slave, stderr=self._slave, env=environment, start_new_session=True,
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def picture(self) -> str:
        """The newest whole one, without its colours."""
        pictures = self.written.split("\033[H")
        whole = [text for text in pictures if text.endswith("\033[J")]
        return re.sub(r"\033\[[\d;?]*[A-Za-z]", "", whole[-1]).replace("\r", "") if whole else ""

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.written[-3000:]
            self.listen(0.1)

    def listen(self, seconds: float) -> None:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            self.written += os.read(self.master, 65536).decode(errors="replace")

    def ended(self) -> int:
        """Wait for its end; the terminal is then as it was before."""
        self.wait_for(lambda: self.process.poll() is not None)
        self.listen(0.2)
        assert termios.tcgetattr(self._slave) == self.before
        assert self.written.rstrip().endswith("\033[?25h\033[?1049l")
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def terminal(consumer) -> Iterator[Terminal]:
    made = Terminal("top", consumer, "--every", "0.5")
    yield made
    made.close()


def test_it_draws_live_follows_the_windows_size_and_leaves_the_terminal_as_it_was(terminal):
    terminal.wait_for(lambda: re.search(r"[1-9]\d* scores/s", terminal.picture))
    assert "\033[?1049h\033[?25l" in terminal.written
    assert "\033[32mlive" in terminal.written
    first = terminal.picture
    terminal.wait_for(lambda: terminal.picture.splitlines()[0] != first.splitlines()[0])  # the clock goes on
    terminal.resize(40, 8)
    terminal.wait_for(lambda: max(map(len, terminal.picture.splitlines())) <= 40)
    assert len(terminal.picture.splitlines()) <= 8
    terminal.press("\x03")  # Ctrl-C
    assert terminal.ended() == 130
    assert "Traceback" not in terminal.written


def test_q_and_sigterm_end_it_and_leave_the_terminal_as_it_was(consumer):
    for end, code in ((lambda t: t.press("q"), 0), (lambda t: t.process.send_signal(signal.SIGTERM), 143)):
        terminal = Terminal("top", consumer, "--every", "0.5")
        terminal.wait_for(lambda t=terminal: "scores/s" in t.picture)
        end(terminal)
        assert terminal.ended() == code
        terminal.close()


def test_a_consumer_that_is_killed_is_shown_as_away(tmp_path):
    with serving(tmp_path) as (url, process):
        terminal = Terminal("top", url, "--every", "0.5")
        terminal.wait_for(lambda: "1 of 1 consumers answer" in terminal.picture)
        process.kill()
        process.wait()
        terminal.wait_for(lambda: "away: Connection refused" in terminal.picture)
        assert "0 of 1 consumers answer" in terminal.picture
        terminal.press("q")
        assert terminal.ended() == 0
        terminal.close()
