"""What operators are told: one line a piece of news, in either format, with its facts and without secrets."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import USERS
from kafka_topics import make_topics, own_name
from worlds import random_model

from pipeline.broker import Broker
from pipeline.config import Logging
from pipeline.log import Message
from pipeline.logs import DEBUG, WARNING, Line, configure, line, prefaced, say, with_fields
from pipeline.schema import load_schema
from pipeline.sqlite_log import SqliteLog
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
JSON_LINES = {"GRAPHSIEVE_LOGGING_FORMAT": "json", "GRAPHSIEVE_LOGGING_LEVEL": "debug"}


@pytest.fixture
def lines(capsys):
    """What stderr holds so far; the format is people's again afterwards."""
    yield lambda: capsys.readouterr().err.splitlines()
    configure(Logging())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


# ---- lines ----


def test_people_get_the_sentence(lines):
    configure(Logging())
    say(line("partition 3 is live", partition=3, position=4711))
    say("a plain text\n  is one line, too")
    assert lines() == ["graphsieve: partition 3 is live", "graphsieve: a plain text is one line, too"]


def test_machines_get_time_level_message_and_facts(lines):
    configure(Logging(format="json"))
    say(line("not used", WARNING, partition=3, snapshot=None, error="LogError"))
    (told,) = map(json.loads, lines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("ts"))
    assert told == {"level": "warning", "message": "not used", "partition": 3, "error": "LogError"}


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_decides_what_is_told(lines, level, count):
    configure(Logging(level=level))
    for told in (line("a snapshot", DEBUG), "news", line("what mends", WARNING)):
        say(told)
    assert len(lines()) == count


def test_no_library_is_heard_below_a_warning_and_what_it_warns_of_has_our_format(lines):
    configure(Logging(format="json", level="debug"))
    logging.getLogger("numba.core").debug("every step of a compiler")
    logging.getLogger("numba.core").warning("something is odd")
    (told,) = map(json.loads, lines())
    assert (told["level"], told["message"]) == ("warning", "something is odd")


def test_a_bug_in_a_page_keeps_its_traceback_within_the_one_line(lines):
    configure(Logging(format="json"))
    try:
        raise RuntimeError("no state yet")
    except RuntimeError:
        logging.getLogger("pipeline.endpoint").exception("cannot answer %s", "/readyz")
    (told,) = map(json.loads, lines())
    assert told["message"] == "cannot answer /readyz"
    assert "RuntimeError: no state yet" in told["traceback"]


def test_facts_are_added_and_a_lines_own_come_first():
    said: list[str] = []
    tell = with_fields(said.append, partition=3, group="g")
    tell(line("moved", WARNING, partition=4))
    tell("plain")
    first, second = said
    assert isinstance(first, Line) and isinstance(second, Line)
    assert (first, first.level, first.fields) == ("moved", WARNING, {"partition": 4, "group": "g"})
    assert (second, second.fields) == ("plain", {"partition": 3, "group": "g"})


def test_a_preface_comes_before_the_first_line_and_only_then():
    said: list[str] = []
    tell = prefaced(said.append, line("starts"))
    assert said == []
    tell("one")
    tell("two")
    assert said == ["starts", "one", "two"]


# ---- processes ----


# The command line, in a process that gives a broker up sooner.
IMPATIENT = """
import sys
import pipeline.kafka_log.client
from pipeline.cli import main
pipeline.kafka_log.client.BOOTSTRAP_MS = 3000
sys.exit(main())
"""


def score(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", IMPATIENT, "score", *map(str, words)]
    usual = {name: value for name, value in os.environ.items() if not name.startswith("GRAPHSIEVE_")}
    return subprocess.run(
        command, env={**usual, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


def filled_log(folder: Path, events: int, marked: str = "") -> str:
    log = SqliteLog(folder / "log.db")
    messages = [Message(event) for event in synthetic_events(seed=1, limit=events)]
    log.append("events", [*messages, *([Message(marked.encode(), marked)] if marked else [])])
    log.close()
    return f"sqlite:{folder / 'log.db'}"


def test_a_run_is_told_from_its_start_to_its_end_with_positions(model, tmp_path):
    log = filled_log(tmp_path, 300)
    usual = ("--model", model, "--log", log, "--state", tmp_path / "state", "--until-end")
    assert score(*usual).returncode == 0
    more = SqliteLog(tmp_path / "log.db")
    more.append("events", [Message(event) for event in synthetic_events(seed=2, limit=50)])
    more.close()
    done = score(*usual, **JSON_LINES)
    assert done.returncode == 0, done.stderr
    start, live, snapshot, released = map(json.loads, done.stderr.splitlines())
    assert start["versions"].keys() >= {"graphsieve", "python", "numpy", "numba"}
    assert (start["log"], start["group"], start["topic"]) == (log, "graphsieve", "events")
    assert live["snapshot"].startswith("snapshot-000000000300-")
    assert (live["partition"], live["position"], live["replayed"]) == (0, 300, 0)
    assert (snapshot["level"], snapshot["position"]) == ("debug", 350)
    assert snapshot["bytes"] > 0
    assert (released["partition"], released["position"]) == (0, 350)


def test_a_mistake_is_one_line_of_the_format_that_is_wanted(model, tmp_path):
    words = ("--model", tmp_path / "nowhere", "--log", "sqlite:x.db", "--state", tmp_path / "state")
    done = score(*words, **JSON_LINES)
    (told,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, told["level"]) == (2, "error")
    assert told["message"].startswith("no model in ")


def test_what_is_in_events_shows_in_no_line(model, tmp_path):
    log = filled_log(tmp_path, 50, marked="private-words")
    words = ("--model", model, "--log", log, "--state", tmp_path / "state", "--until-end", "--json")
    done = score(*words, **JSON_LINES)
    assert json.loads(done.stdout.splitlines()[-1])["dead_letters"] == 1
    assert "private-words" not in done.stderr


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
@pytest.mark.parametrize("password", [USERS["alice"], "wrong-password"])
def test_no_password_is_in_any_line_whether_it_is_right_or_wrong(
    broker: Broker, certificates, model, tmp_path, client, password
):
    events, scores, letters = make_topics(broker.address, "events", "scores", "letters")
    environment = {
        "GRAPHSIEVE_KAFKA_SECURITY": "sasl_ssl",
        "GRAPHSIEVE_KAFKA_CA_FILE": str(certificates / "ca.pem"),
        "GRAPHSIEVE_KAFKA_SASL_MECHANISM": "PLAIN",
        "GRAPHSIEVE_KAFKA_USERNAME": "alice",
        "GRAPHSIEVE_KAFKA_PASSWORD": password,
        "GRAPHSIEVE_KAFKA_CLIENT": client,
    }
    topics = ("--events", events, "--scores", scores, "--dead-letters", letters, "--group", own_name("group"))
    words = ("--model", model, "--log", f"kafka://{broker.secure_address}", "--state", tmp_path / "state")
    done = score(*words, *topics, "--until-end", **environment, **JSON_LINES)
    assert done.returncode == (0 if password == USERS["alice"] else 2), done.stderr
    told = [json.loads(text) for text in done.stderr.splitlines()]
    assert told, "something is said either way"
    assert password not in done.stdout + done.stderr
