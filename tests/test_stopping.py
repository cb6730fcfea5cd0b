"""A consumer ends within its bound, whatever is away, and at once when it is told twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kafka_consumers import SCHEMA, Consumer, Deployment, stream
from worlds import random_model

from pipeline.schema import load_schema

STOP = 6.0  # seconds; above what the broker's answers take on a busy machine
MORE = 6.0  # for the report and the interpreter's end


@contextmanager
def interrupted(deployment: Deployment) -> Iterator[Consumer]:
    """A consumer in the middle of its work whose broker has stopped answering."""
    random_model(load_schema(SCHEMA), width=8).save(deployment.model)
    deployment.append(stream(4000))
    consumer = deployment.consumer("--max-batch", 32, GRAPHSIEVE_SCORE_STOP=f"{STOP:g}s")
    deployment.wait_for_scores()
    deployment.broker.pause()
    try:
        time.sleep(1.0)  # until a commit waits
        yield consumer
    finally:
        deployment.broker.resume()


def test_with_a_broker_that_does_not_answer_sigterm_ends_it_within_the_bound(pausable_broker, tmp_path):
    with Deployment(pausable_broker, tmp_path / "model", tmp_path, 2) as deployment:
        with interrupted(deployment) as consumer:
            began = time.monotonic()
            consumer.stop()  # exit code 0
            took = time.monotonic() - began
        assert took < STOP + MORE
        assert f"stopping: the last batches, commits and snapshots have {STOP:g}s" in consumer.said
        assert "did not finish; its last events will be read again" in consumer.said
        assert consumer.report["scored"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(pausable_broker, tmp_path, number):
    with (
        Deployment(pausable_broker, tmp_path / "model", tmp_path, 1) as deployment,
        interrupted(deployment) as consumer,
    ):
        consumer.send(number)
        time.sleep(1.0)
        assert consumer.runs
        began = time.monotonic()
        consumer.send(number)
        assert consumer.ended() == -number
        assert time.monotonic() - began < STOP / 2


@pytest.mark.parametrize("ends", ["stopping.stopped_by_signals()", "supervised()"])
def test_a_signal_is_heeded_though_it_comes_when_the_main_thread_has_just_begun_to_wait(ends):
    code = (
        "import signal, threading\n"
        "from contextlib import contextmanager\n"
        "import consumers.stopping as stopping\n"
        "import pipeline.stack.supervisor as supervisor\n"
        "@contextmanager\n"
        "def supervised():\n"
        "    found = []\n"
        "    supervisor.supervise = lambda *words: found.append(words[-1])\n"
        "    supervisor.main(['.'])\n"
        "    yield found[0]\n"
        f"with {ends} as stop:\n"
        "    with stop._cond:\n"  # a wait begins by taking this lock
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    assert stop.wait(10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_hangs_without_a_limit_of_its_own_is_ended_after_the_bound():
    code = (
        "import threading, time, signal, os\n"
        "import consumers.stopping as stopping\n"
        "from pipeline.logs import configure, say\n"
        "from pipeline.config import Logging\n"
        "configure(Logging(format='json'))\n"
        "stopping.GRACE_SECONDS = 0.2\n"
        "with stopping.stopped_by_signals() as stop, stopping.bounded(stop, 0.3, say):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    threading.Lock().acquire() and time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    (told,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, told["level"]) == (2, "error")
    assert told["message"] == "not ended 0.5 s after the signal: something hangs; ending now"
