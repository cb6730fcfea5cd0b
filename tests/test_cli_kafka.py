"""The command line with Kafka: topics on request, a look inside, and one line for whatever is wrong."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid

import pytest
from conftest import USERS
from kafka.admin import ConfigResource, ConfigResourceType

from pipeline.cli import main
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import Message, Move


def name():
    return f"c-{uuid.uuid4().hex[:12]}"


def graphsieve(*words, **environment):
    """Run a command as users do; return its exit code, its last line on stdout as JSON, and what it said."""
    line = [sys.executable, "-m", "pipeline.cli", *map(str, words), "--json"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GRAPHSIEVE_")}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=clean | environment)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else None, done.stderr


def refusal(*words, **environment):
    """The one line that a command says before it ends with 2."""
    code, report, said = graphsieve(*words, **environment)
    assert (code, report) == (2, None), said
    assert said.startswith("graphsieve: ") and said.count("\n") == 1, said
    return said


# ---- topics ----


def test_topics_are_made_as_they_were_asked_for(broker):
    events, scores = name(), name()
    options = ("--partitions", 3, "--replication", 1, "--retention", "30d", "--compact")
    code, report, said = graphsieve("topics", "create", f"{broker.url}/{events},{scores}", *options)
    assert code == 0, said
    made = {"partitions": 3, "retention.ms": "2592000000", "cleanup.policy": "compact"}
    assert report == {"topics": {events: made, scores: made}}
    assert configs(broker, scores) == {"retention.ms": "2592000000", "cleanup.policy": "compact"}
    listed = graphsieve("topics", "list", broker.url)[1]["topics"]
    assert listed[events] == listed[scores] == {"partitions": 3}


def configs(broker, topic):
    """What was set for a topic, as the broker has it."""
    with contextlib.closing(Cluster(broker.address).admin()) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {key: setting["value"] for key, setting in described["topic"][topic].items()}


def test_retention_may_be_for_ever(broker):
    topic = name()
    assert main(["topics", "create", f"{broker.url}/{topic}", "--partitions", "1", "--retention", "forever"]) == 0
    assert configs(broker, topic) == {"retention.ms": "-1"}


def test_a_topic_that_is_there_is_named_and_no_other_is_made(broker):
    there, new = name(), name()
    assert graphsieve("topics", "create", f"{broker.url}/{there}", "--partitions", 1)[0] == 0
    said = refusal("topics", "create", f"{broker.url}/{new},{there}", "--partitions", 1)
    assert said == f"graphsieve: {there}: there already; nothing was made, leave these out\n"
    assert new not in graphsieve("topics", "list", broker.url)[1]["topics"]


def test_topics_without_a_name_or_with_an_impossible_option_are_refused(broker):
    assert "names no topic: expected kafka://HOST:PORT/TOPIC" in refusal(
        "topics", "create", broker.url, "--partitions", 1
    )
    said = refusal("topics", "create", f"{broker.url}/{name()}", "--partitions", 1, "--retention", "a month")
    assert "'a month' is no duration" in said
    said = refusal("topics", "create", f"{broker.url}/{name()}", "--partitions", 1, "--replication", 2)
    assert "replication" in said.lower()


# ---- a look inside ----


def test_inspect_tells_topics_and_groups_partition_by_partition(broker):
    events, scores, group = name(), name(), name()
    assert graphsieve("topics", "create", f"{broker.url}/{events},{scores}", "--partitions", 2)[0] == 0
    with contextlib.closing(KafkaLog(Cluster(broker.address), 1)) as log:
        log.append(events, [Message(b"{}")] * 5)
        log.commit(group, {events: Move(0, 3)}, {scores: [Message(b"{}")]})
        while log.end(scores) < 2 or log.committed(group, events).position < 3:  # the broker takes a moment
            time.sleep(0.01)
    _, found, _ = graphsieve("inspect", broker.url)
    assert found["kind"] == "cluster"
    assert found["topics"][events] == {"partitions": 2, "begin": [0, 0], "end": [0, 5]}
    assert found["topics"][scores] == {"partitions": 2, "begin": [0, 0], "end": [0, 2]}  # a score, and the mark
    assert found["groups"][group] == {events: {"position": [None, 3], "behind": [None, 2]}}
    only = graphsieve("inspect", broker.url, "--group", group)[1]["groups"]
    assert only == {group: found["groups"][group]}


# ---- what is wrong is said in one line ----


@pytest.fixture
def closed_port():
    """A port where nothing listens, and nothing will: its owner does not accept."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_broker_that_is_away(closed_port, tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b"{}\n")
    url = f"kafka://127.0.0.1:{closed_port}"
    said = refusal("replay", tmp_path / "events.jsonl", "--to", f"{url}/events")
    assert said.startswith(f"graphsieve: kafka 127.0.0.1:{closed_port}: nothing listens there; ")


def test_a_topic_that_is_not_there(broker, tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b"{}\n")
    topic = name()
    expected = f"topic '{topic}' does not exist; make it: graphsieve topics create {broker.url}/{topic} --partitions N"
    assert expected in refusal("replay", tmp_path / "events.jsonl", "--to", f"{broker.url}/{topic}")
    assert expected in refusal("record", "--log", broker.url, "--topic", topic, "--out", tmp_path / "x.jsonl")
    assert expected in refusal("quality", "--log", broker.url, "--events", topic)
    assert topic not in graphsieve("topics", "list", broker.url)[1]["topics"]


def test_a_partition_that_is_not_there_or_not_named(broker, tmp_path):
    topic = name()
    assert graphsieve("topics", "create", f"{broker.url}/{topic}", "--partitions", 2)[0] == 0
    record = ("record", "--log", broker.url, "--topic", topic, "--out", tmp_path / "x.jsonl")
    assert "has 2 partitions; say which one: --partition N" in refusal(*record)
    assert "has 2 partitions, not one of number 2" in refusal(*record, "--partition", 2)
    assert list(tmp_path.iterdir()) == []


def test_credentials_that_the_broker_refuses_and_that_stay_secret(broker, certificates):
    secure = {
        "GRAPHSIEVE_KAFKA_SECURITY": "sasl_ssl",
        "GRAPHSIEVE_KAFKA_SASL_MECHANISM": "PLAIN",
        "GRAPHSIEVE_KAFKA_CA_FILE": str(certificates / "ca.pem"),
        "GRAPHSIEVE_KAFKA_USERNAME": "alice",
    }
    url = f"kafka://{broker.secure_address}"
    code, _, said = graphsieve("topics", "list", url, **secure, GRAPHSIEVE_KAFKA_PASSWORD=USERS["alice"])
    assert code == 0, said
    said = refusal("topics", "list", url, **secure, GRAPHSIEVE_KAFKA_PASSWORD="s3cret")
    assert "these credentials" in said
    assert "see kafka.security" in said
    assert "s3cret" not in said
