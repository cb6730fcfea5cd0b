"""What probes are told: a restart is asked for only where it helps."""

import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest
from kafka_consumers import SCHEMA, Deployment, stream
from worlds import random_model

from consumers.probes import ATTEMPT_SECONDS, STALLED_SECONDS, STALLS, WAITING_SECONDS, Probes
from pipeline.log import Sending
from pipeline.schema import load_schema
from pipeline.stats import GroupStats

STALL = 60.0


@dataclass
class Loop:
    """What the probes know of a shard: when its loop last came round, and what its log waits for."""

    beat: float = 0.0
    waiting_since: float | None = None
    log: "Loop" = field(init=False)

    def __post_init__(self) -> None:
        self.log = self

    def sending(self) -> Sending:
        return Sending(0, 0, self.waiting_since)


@dataclass
class Served:
    consumers: list[Loop]


def probes(*loops: Loop, now: float) -> Probes:
    stats = GroupStats()
    for partition in range(len(loops)):
        stats.begin(partition).state = "live"
    return Probes(Served(list(loops)), stats, threading.Event(), STALL, clock=lambda: now)


def test_a_loop_that_comes_round_is_healthy_and_ready():
    asked = probes(Loop(beat=100.0), now=100.5)
    assert (asked.healthy(), asked.ready(), asked.note()) == (True, True, "")


def test_a_loop_that_hangs_in_something_else_than_the_broker_is_not_healthy():
    assert probes(Loop(beat=0.0), now=STALLED_SECONDS - 1).healthy()
    assert not probes(Loop(beat=0.0), now=STALLED_SECONDS + 1).healthy()
    assert not probes(Loop(beat=1000.0), Loop(beat=0.0), now=1000.0).healthy()


def test_a_loop_that_waits_for_the_broker_is_healthy_for_hours_and_not_ready():
    hours = 7200.0
    asked = probes(Loop(beat=hours), Loop(beat=0.0, waiting_since=hours - 3), now=hours)
    assert (asked.healthy(), asked.ready()) == (True, False)
    assert asked.note() == "1 of 2 partitions wait for the broker, 7200 s by now"


def test_an_attempt_that_never_ends_is_no_waiting():
    longest = ATTEMPT_SECONDS + STALLS * STALL
    assert probes(Loop(beat=0.0, waiting_since=0.0), now=longest - 1).healthy()
    assert not probes(Loop(beat=0.0, waiting_since=0.0), now=longest + 1).healthy()


def test_a_commit_under_way_is_not_worth_a_word():
    asked = probes(Loop(beat=99.9, waiting_since=99.9), now=99.9 + WAITING_SECONDS / 2)
    assert (asked.ready(), asked.note()) == (True, "")


def test_who_stops_or_restores_is_not_ready():
    asked = probes(Loop(beat=0.0), now=0.0)
    asked.stats.begin(1)
    assert not asked.ready()
    asked.stats.shards[1].state = "live"
    assert asked.ready()
    asked.stop.set()
    assert not asked.ready()


# ---- a real broker that is away ----


def get(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# The command line, in a process whose patience is shorter.
IMPATIENT = """
import sys
import consumers.probes
from pipeline.cli import main
consumers.probes.STALLED_SECONDS, consumers.probes.WAITING_SECONDS = 2.0, 1.0
sys.exit(main())
"""


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_real_broker_that_is_away_leaves_it_healthy_and_not_ready(pausable_broker, tmp_path, delivery):
    model, messages = tmp_path / "model", stream(2000)
    random_model(load_schema(SCHEMA), width=8).save(model)
    with Deployment(pausable_broker, model, tmp_path, 1) as deployment:
        deployment.append(messages[:1000])
        knobs = {"GRAPHSIEVE_KAFKA_STALL": "2s", "GRAPHSIEVE_KAFKA_DELIVERY": delivery}
        busy = ("--max-batch", 32, "--snapshot-every", "1s")
        consumer = deployment.consumer(*busy, python=[sys.executable, "-c", IMPATIENT], **knobs)
        deployment.wait_for_scores()
        deployment.wait_until(lambda: get(consumer.port, "/healthz") == (200, "healthy\n"))
        pausable_broker.pause()
        try:
            codes, bodies = watched(consumer.port, 6.0)
        finally:
            pausable_broker.resume()
        assert codes == {200}, bodies
        assert any("healthy; 1 of 1 partitions wait for the broker, " in body for body in bodies)
        deployment.append(messages[1000:])
        deployment.wait_until_scored()
        deployment.wait_until(lambda: get(consumer.port, "/readyz")[0] == 200)
        deployment.wait_until(lambda: get(consumer.port, "/healthz") == (200, "healthy\n"))


def watched(port: int, seconds: float) -> tuple[set[int], set[str]]:
    """The answers of /healthz meanwhile; /readyz must have said no once."""
    deadline = time.monotonic() + seconds
    codes, bodies, ready = set(), set(), set()
    while time.monotonic() < deadline:
        code, body = get(port, "/healthz")
        codes.add(code)
        bodies.add(body)
        ready.add(get(port, "/readyz")[0])
        time.sleep(0.2)
    assert 503 in ready, bodies
    return codes, bodies
