"""`make stack` as its user runs it: all comes up, a consumer is killed, no score is lost, and nothing is left."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import need_a_broker
from kafka_consumers import Outputs, outputs_of
from test_dashboards import asked
from test_docs_kafka import queries

from pipeline.broker import HOST
from pipeline.broker_jars import fetched_jars
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import read_to_end
from pipeline.stack.parts import CONSUMERS, PARTITIONS, with_targets
from pipeline.stack.state import Mark, State, read_state

WAIT_SECONDS = 120.0


class Stack:
    """A stack of a test's own, on free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.line(what), capture_output=True, text=True, check=False, timeout=300)

    def line(self, what: str) -> list[str]:
        return [sys.executable, "-P", "-m", "pipeline.stack", what, "--folder", str(self.folder), "--free-ports"]

    @property
    def state(self) -> State:
        state = read_state(self.folder)
        assert state is not None
        return state

    def mark(self, name: str) -> Mark:
        (mark,) = [mark for mark in self.state.processes if mark.name == name]
        return mark

    def page(self, name: str, path: str) -> str:
        """A page of a process; nothing while it does not answer with 200."""
        url = urllib.parse.urljoin(self.mark(name).address, path)
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
        return ""

    def metric(self, name: str, series: str) -> float:
        """The sum of a metric's samples that are numbers."""
        found = re.findall(rf"^{series}(?:{{.*}})? ([\d.e+-]+)$", self.page(name, "/metrics"), re.MULTILINE)
        return sum(map(float, found))

    def serves(self, name: str) -> set[int]:
        """The partitions whose shards are live."""
        live = r'^graphsieve_shard_state{partition="(\d+)",state="live"} 1'
        return set(map(int, re.findall(live, self.page(name, "/metrics"), re.MULTILINE)))

    def prometheus(self, path: str) -> dict:
        return json.loads(self.page("prometheus", f"/api/v1/{path}") or '{"data": {"result": [], "alerts": []}}')[
            "data"
        ]

    def query(self, expression: str) -> list[float]:
        result = self.prometheus(f"query?query={urllib.parse.quote(expression)}")["result"]
        return [float(sample["value"][1]) for sample in result]

    def fires(self, alert: str) -> bool:
        alerts = self.prometheus("alerts")["alerts"]
        return any(one["labels"]["alertname"] == alert and one["state"] == "firing" for one in alerts)

    def shard(self, partition: int) -> KafkaLog:
        return KafkaLog(Cluster(self.mark("kafka").address.removeprefix("kafka://")), partition)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    need_a_broker()
    fetched_jars(print)
    made = Stack(tmp_path / "stack")
    yield made
    if made.folder.exists():
        made.run("stop")


def need_prometheus() -> None:
    if shutil.which("prometheus") is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("no prometheus here: apt-get install prometheus")


def wait_until(what: str, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS:.0f} s until {what}"
        time.sleep(0.2)


# ---- the whole of it ----


def test_a_stack_loses_a_consumer_and_no_score_and_leaves_nothing(stack: Stack):
    need_prometheus()
    started = stack.run("start")
    assert started.returncode == 0, started.stderr
    check_what_is_told(stack, started.stdout)
    check_that_all_show_data(stack)
    kill_a_consumer(stack)
    check_the_scores(stack)
    marks = [stack.state.supervisor, *stack.state.processes]
    stopped = stack.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    check_that_nothing_is_left(stack, marks)


def check_what_is_told(stack: Stack, table: str) -> None:
    for mark in stack.state.processes:
        assert re.search(rf"^{mark.name} +pid {mark.pid} +{re.escape(mark.address)}", table, re.MULTILINE), table
    again = stack.run("start")
    assert (again.returncode, again.stdout) == (0, table)
    assert again.stderr == f"graphsieve: a stack runs in {stack.folder} already\n"
    assert stack.run("status").returncode == 0


def check_that_all_show_data(stack: Stack) -> None:
    for name in CONSUMERS:
        wait_until(f"{name} scores", lambda name=name: stack.metric(name, "graphsieve_scores_total") > 0)
        assert "<html" in stack.page(name, "/").lower()
    wait_until(
        "all partitions are served", lambda: set().union(*map(stack.serves, CONSUMERS)) == set(range(PARTITIONS))
    )
    wait_until("labels have come", lambda: stack.metric("quality", "graphsieve_quality_auroc") > 0.5)
    wait_until("Prometheus sees both", lambda: stack.query('up{job="graphsieve"}') == [1.0, 1.0])
    for query in (*queries(), *(one.expression for one in asked())):
        wait_until(f"{query} has data", lambda query=query: stack.query(query))


def kill_a_consumer(stack: Stack) -> None:
    """SIGKILL; somebody is told, and the other one takes over."""
    killed, left = CONSUMERS
    stack.mark(killed).send(signal.SIGKILL)
    wait_until("the other one serves all", lambda: stack.serves(left) == set(range(PARTITIONS)))
    wait_until("the alert fires", lambda: stack.fires("GraphsieveConsumerDown"))
    seen = stack.run("status")
    assert seen.returncode == 2
    assert re.search(rf"^{killed} +ENDED ", seen.stdout, re.MULTILINE)
    assert f"{killed} has ended; the last it said: " in (stack.folder / "logs/supervisor.log").read_text()


def check_the_scores(stack: Stack) -> None:
    """Every node event has one committed score: none is lost, none comes twice."""
    stack.mark("producer").send(signal.SIGTERM)
    wait_until("the producer has ended", lambda: not stack.mark("producer").runs())
    total = 0
    for partition in range(PARTITIONS):
        with contextlib.closing(stack.shard(partition)) as log:
            wait_until("all is scored", lambda log=log: is_scored(log))
            wanted = nodes(log)
            found = outputs(log)
        assert sorted((score.id, score.position) for score in found.scores) == wanted
        assert found.letters == []
        total += len(wanted)
    assert total > 15_000  # half of the history


def is_scored(log: KafkaLog) -> bool:
    return log.committed("graphsieve", "events").position == log.end("events")


def nodes(log: KafkaLog) -> list[tuple[str, int]]:
    """The id and the position of each event that is to be scored."""
    events = (
        (json.loads(record.value), record.position) for records in read_to_end(log, "events") for record in records
    )
    return sorted((event["id"], position) for event, position in events if event["type"] == "node")


def outputs(log: KafkaLog) -> Outputs:
    """What a reader of committed messages sees."""
    return outputs_of(log, "scores", "dead-letters")


def check_that_nothing_is_left(stack: Stack, marks: list[Mark]) -> None:
    assert not stack.folder.exists()
    assert [mark.name for mark in marks if mark.runs()] == []
    assert processes_in(stack.folder) == []
    ports = [int(port) for mark in marks for port in re.findall(rf"{HOST}:(\d+)", mark.address)]
    assert len(ports) == 5
    assert not any(is_open(port) for port in ports)


def processes_in(folder: Path) -> list[int]:
    """The ids of the processes that work in a folder, or did until it was removed."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(int(process.name))
    return found


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


# ---- what goes wrong ----


def starting(stack: Stack, path: str) -> subprocess.Popen[str]:
    """Start a stack where only the programs of a folder are on the path."""
    return subprocess.Popen(
        stack.line("start"), env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def trains(stack: Stack) -> bool:
    return "train" in {mark.name for mark in stack.state.processes}


def hold_the_training(stack: Stack) -> Mark:
    """Stop it as soon as it runs, and with it all that comes behind; return its mark."""
    wait_until("it trains", lambda: trains(stack))
    train = stack.mark("train")
    train.send(signal.SIGSTOP)
    return train


def path_without_prometheus(folder: Path) -> str:
    folder.mkdir()
    for program in ("java", "mvn", "sh", "ps"):
        if found := shutil.which(program):
            (folder / program).symlink_to(found)
    return str(folder)


def test_a_start_goes_on_without_prometheus_and_ctrl_c_undoes_it(stack: Stack, tmp_path: Path):
    with starting(stack, path_without_prometheus(tmp_path / "bin")) as process:
        try:
            process.stderr.readline()
            train = hold_the_training(stack)  # once it is done there is more to be said
            assert any("no prometheus on the path" in line for line in process.stderr)
            marks = [stack.state.supervisor, *stack.state.processes]
            assert "kafka" in {mark.name for mark in marks if mark.runs()}
            process.send_signal(signal.SIGINT)
            train.send(signal.SIGCONT)
            printed, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, printed, said) == (130, "", "graphsieve: end what has started\n")
    check_that_nothing_runs(stack, marks)
    assert not stack.folder.exists()


def test_a_stack_whose_supervisor_is_killed_leaves_its_logs_and_no_process(stack: Stack):
    with starting(stack, os.environ["PATH"]) as process:
        try:
            process.stderr.readline()
            wait_until("it trains", lambda: trains(stack))
            marks = [stack.state.supervisor, *stack.state.processes]
            stack.state.supervisor.send(signal.SIGKILL)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 2
    assert said == f"graphsieve: nothing of it runs; see {stack.folder}/logs\n"
    check_that_nothing_runs(stack, marks)
    assert (stack.folder / "logs/train.log").exists()
    assert stack.run("stop").returncode == 0
    assert not stack.folder.exists()


def test_a_start_that_fails_says_why_and_leaves_its_logs_and_no_process(stack: Stack, tmp_path: Path):
    path = path_without_prometheus(tmp_path / "bin")
    (tmp_path / "bin/java").unlink()
    (tmp_path / "bin/java").write_text("#!/bin/sh\n[ $1 = -version ] && echo 'version \"17\"' >&2\n")
    (tmp_path / "bin/java").chmod(0o755)
    with starting(stack, path) as process:
        printed, said = process.communicate(timeout=120)
    assert (process.returncode, printed) == (2, "")
    _, reason, last = said.splitlines()
    assert reason.startswith("graphsieve: the Kafka broker cannot format its folder: ")
    assert last == f"graphsieve: nothing of it runs; see {stack.folder}/logs"
    check_that_nothing_runs(stack, [stack.state.supervisor, *stack.state.processes])
    assert (stack.folder / "logs/train.log").exists()


def check_that_nothing_runs(stack: Stack, marks: list[Mark]) -> None:
    assert [mark.name for mark in marks if mark.runs()] == []
    wait_until("the broker has ended", lambda: processes_in(stack.folder) == [])


def test_without_java_one_line_says_what_to_install(tmp_path: Path):
    stack = Stack(tmp_path / "stack")
    with starting(stack, str(tmp_path)) as process:
        printed, said = process.communicate()
    assert (process.returncode, printed, said.count("\n")) == (2, "", 1)
    assert said.startswith("graphsieve: a Kafka broker needs Java 17 or newer, and no java on the path runs: install")
    assert not stack.folder.exists()


def test_to_stop_where_there_is_no_stack_is_no_error(tmp_path: Path):
    stack = Stack(tmp_path / "stack")
    stopped = stack.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, f"graphsieve: no stack runs in {stack.folder}\n")
    assert stack.run("status").returncode == 2


@pytest.mark.parametrize("what", ["start", "status", "stop"])
def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, what: str):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = Stack(tmp_path).run(what)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"graphsieve: {tmp_path} holds what no stack made: name another folder with --folder\n"
    assert (tmp_path / "thesis.txt").exists()


def test_a_process_that_has_got_the_number_of_one_of_ours_is_not_touched(tmp_path: Path):
    stack = Stack(tmp_path / "stack")
    stack.folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            mark = Mark("consumer-1", stranger.pid, "some other time")
            State(mark, (mark,), is_up=True).write(stack.folder)
            assert stack.run("status").returncode == 2
            assert stack.run("stop").returncode == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert not stack.folder.exists()


def test_prometheus_is_given_the_targets_of_this_stack():
    usual = """
  - job_name: graphsieve
    static_configs:
      - targets: ["localhost:9108", "localhost:9109"]
  - job_name: graphsieve-quality
    static_configs:
      - targets: ["localhost:9118"]
"""
    made = with_targets(usual, {"graphsieve": [1, 2], "graphsieve-quality": [3]})
    assert re.findall(r"targets: (.*)", made) == ['["127.0.0.1:1", "127.0.0.1:2"]', '["127.0.0.1:3"]']
    assert re.sub(r"\[.*\]", "", made) == re.sub(r"\[.*\]", "", usual)
