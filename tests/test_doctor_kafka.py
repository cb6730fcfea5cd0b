"""The doctor and a real broker: what is wrong with it, its topics, and what a user may do there."""

import contextlib
import socket
from pathlib import Path

import pytest
from conftest import USERS, need_a_broker
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ResourcePattern,
    ResourceType,
)
from kafka_consumers import SCHEMA, Deployment, stream
from kafka_topics import make_topics, own_name
from test_doctor import found, only
from worlds import random_model

from pipeline.broker import Broker, Security
from pipeline.doctor.examine import Examined, examine
from pipeline.doctor.finding import Setup
from pipeline.kafka_log import client
from pipeline.kafka_log.client import Cluster
from pipeline.schema import load_schema


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


def knobs(events: str, scores: str, letters: str, **others: object) -> dict[str, object]:
    own = {"topics.events": events, "topics.scores": scores, "topics.dead_letters": letters}
    return {
        "score.group": own_name("group"),
        **own,
        **{name.replace("__", "."): value for name, value in others.items()},
    }


def only_problem(setup: Setup, check: str) -> Examined:
    (one,) = [one for one in found(setup, check) if one.verdict == "problem"]
    return one


def configure(broker: Broker, topic: str, **settings: str) -> None:
    admin = Cluster(broker.address).admin()
    named = {name.replace("_", "."): value for name, value in settings.items()}
    admin.alter_configs([ConfigResource("TOPIC", topic, named)])
    admin.close()


# ---- all is well ----


def test_beside_a_running_group_all_is_well_and_nothing_is_changed(broker, model, tmp_path):
    with Deployment(broker, model, tmp_path, 2) as deployment:
        deployment.append(stream(1000))
        consumer = deployment.consumer("--snapshot-every", "200ms")
        deployment.wait_until_scored()
        deployment.wait_until(lambda: all(deployment.snapshot_positions(p) for p in (0, 1)))
        for topic in (deployment.events, deployment.scores, deployment.letters):
            configure(broker, topic, retention_ms="-1")
        before = (
            deployment.positions(),
            deployment.ends(deployment.scores),
            consumer.metric("graphsieve_rebalances_total"),
        )
        flags = knobs(deployment.events, deployment.scores, deployment.letters, metrics__port=consumer.port)
        flags["score.group"] = deployment.group
        examined = examine(Setup(None, flags, model, broker.url, str(deployment.state)))
        told = {one.check: one for one in examined}
        # The stream has some bad events, and the port is the consumer's.
        assert {one.check for one in examined if one.verdict != "ok"} == {"events", "port"}, examined
        assert {one.verdict for one in examined} == {"ok", "warning"}
        assert told["topics"].found.endswith(": 2 partitions each")
        assert told["group"].found == f"{deployment.group}: 1 member, 0 messages behind"
        assert "snapshots of 2 shards" in told["state"].found
        after = (
            deployment.positions(),
            deployment.ends(deployment.scores),
            consumer.metric("graphsieve_rebalances_total"),
        )
        assert after == before
        deployment.append(stream(500, seed=4))
        deployment.wait_until_scored()
        assert consumer.metric("graphsieve_producers_replaced_total") == 0  # nobody was fenced


# ---- the broker ----


def test_a_port_on_which_nothing_listens_is_a_problem():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = only(Setup(log_url=f"kafka://127.0.0.1:{port}"), "log")
    assert (one.verdict, one.found) == ("problem", f"kafka 127.0.0.1:{port}: nothing listens there")
    assert one.fix.startswith("start a broker")


def test_a_wrong_password_is_one_line_without_it(broker, certificates, monkeypatch):
    monkeypatch.setattr(client, "BOOTSTRAP_MS", 3000)  # the same, sooner
    flags = {
        "kafka.security": "sasl_ssl", "kafka.ca_file": str(certificates / "ca.pem"), "kafka.sasl_mechanism": "PLAIN",
        "kafka.username": "alice", "kafka.password": "wrong-secret",
    }  # fmt: skip
    examined = examine(Setup(None, flags, None, f"kafka://{broker.secure_address}"))
    (one,) = [one for one in examined if one.check == "log"]
    assert one.verdict == "problem"
    assert "lets nobody in with these credentials" in one.found
    assert "kafka.username and kafka.password" in one.fix
    assert "wrong-secret" not in str(examined)


# ---- topics ----


def test_a_missing_topic_is_a_problem_with_the_command_that_makes_it(broker, model):
    events, scores = make_topics(broker.address, "events", "scores", partitions=3)
    one = only_problem(Setup(None, knobs(events, scores, "nowhere"), model, broker.url), "topics")
    assert one.found == "missing: nowhere"
    assert one.fix == f"graphsieve topics create {broker.url}/nowhere --partitions 3"


def test_partitions_that_differ_are_a_problem(broker):
    (events,) = make_topics(broker.address, "events", partitions=3)
    scores, letters = make_topics(broker.address, "scores", "letters", partitions=2)
    one = only_problem(Setup(None, knobs(events, scores, letters), None, broker.url), "topics")
    assert one.fix == "make them anew, each with 3"
    assert f"{events} 3, {scores} 2" in one.found


def test_what_a_topic_forgets_is_warned_of(broker, model):
    events, scores, letters = make_topics(broker.address, "events", "scores", "letters")
    configure(broker, events, cleanup_policy="compact,delete", retention_ms="86400000")
    configure(broker, scores, cleanup_policy="compact")
    told = found(Setup(None, knobs(events, scores, letters), model, broker.url), "topics")
    assert [one.verdict for one in told] == ["ok", "warning", "warning", "warning"]
    assert told[1].found == f"{events} is compacted: events that scores rest on will be removed"
    assert told[2].found.startswith(f"{events} keeps events for 1 days")
    assert told[3].found.startswith(f"{scores} is compacted")
    packed = knobs(events, scores, letters, scores__format="packed")
    assert "problem" in [one.verdict for one in found(Setup(None, packed, model, broker.url), "topics")]


def test_events_that_a_start_needs_and_retention_has_removed_are_a_problem(broker, model, tmp_path):
    messages = stream(1000)
    with Deployment(broker, model, tmp_path, 1) as deployment:
        deployment.append(messages)
        assert deployment.consumer("--until-end").ended() == 0
        flags = knobs(deployment.events, deployment.scores, deployment.letters)
        flags["score.group"] = deployment.group
        deployment.forget_events_before(500)
        sound = Setup(None, flags, model, broker.url, str(deployment.state))
        assert only(sound, "group").verdict == "ok"  # a snapshot is newer
        lost, _ = found(Setup(None, flags, model, broker.url, str(tmp_path / "empty")), "group")
        assert lost.verdict == "problem"
        assert "begins at 500, a start has to replay from 0: retention has removed that" in lost.found


# ---- permissions ----


@pytest.fixture(scope="module")
def guarded(certificates, tmp_path_factory):
    """A broker that asks ACLs: whoever comes without encryption may do all, Alice what she is granted."""
    need_a_broker()
    folder = tmp_path_factory.mktemp("guarded")
    with Broker.start(folder, security=Security(certificates / "broker.pem", USERS, guarded=True)) as broker:
        yield broker


def grant(broker: Broker, *rights: tuple[ResourceType, str, ACLOperation], prefixed: bool = False) -> None:
    kind = ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL
    acls = [
        ACL("User:alice", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(resource, name, kind))
        for resource, name, operation in rights
    ]
    with contextlib.closing(Cluster(broker.address).admin()) as admin:
        assert admin.create_acls(acls)["failed"] == []


def test_each_permission_that_is_missing_is_named_and_none_once_all_are_granted(guarded, certificates, model):
    events, scores, letters = make_topics(guarded.address, "events", "scores", "letters")
    alice = {
        "kafka.security": "sasl_ssl", "kafka.ca_file": str(certificates / "ca.pem"),
        "kafka.sasl_mechanism": "PLAIN", "kafka.username": "alice", "kafka.password": USERS["alice"],
    }  # fmt: skip
    flags = knobs(events, scores, letters) | alice
    group, setup = flags["score.group"], Setup(None, flags, model, f"kafka://{guarded.secure_address}")
    assert "TopicAuthorizationFailed" in found(setup, "topics")[0].found

    topic, describe = ResourceType.TOPIC, ACLOperation.DESCRIBE
    grant(guarded, *((topic, name, describe) for name in (events, scores, letters)))
    told = [one.found for one in found(setup, "permissions")]
    assert f"this user has no Read on topic {events}" in told
    assert f"this user has no Write on topic {scores}" in told
    assert f"this user has no Read on group {group}" in told
    assert any(one.startswith("no transaction may be begun: this user may not do that") for one in told)

    grant(guarded, (topic, events, ACLOperation.READ), (ResourceType.GROUP, group, ACLOperation.READ))
    grant(guarded, *((topic, name, ACLOperation.WRITE) for name in (scores, letters)))
    ids = ResourceType.TRANSACTIONAL_ID
    grant(guarded, (ids, f"graphsieve-{group}-", ACLOperation.WRITE), prefixed=True)
    one = only(setup, "permissions")
    assert one.verdict == "ok", one
    assert only(setup, "group").verdict == "ok"
