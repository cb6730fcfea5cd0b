"""Secured brokers: TLS with an authority of our own, SASL by each mechanism, and secrets that show nowhere."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import USERS
from kafka_topics import make_topics, own_name

from pipeline.broker import Broker
from pipeline.config import Kafka, load_config
from pipeline.errors import ConfigError
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import Message, Move

USER, PASSWORD = next(iter(USERS.items()))
CLIENTS = ("kafka-python", "confluent")


def token() -> str:
    """A token that nobody signed, as a development broker takes it."""
    claims = {"sub": USER, "iat": time.time() - 5, "exp": time.time() + 600}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
    return b".".join([*parts, b""]).decode()


def credentials(mechanism: str, folder: Path) -> dict[str, str]:
    if mechanism == "OAUTHBEARER":
        path = folder / "token"
        path.write_text(token() + "\n")
        return {"sasl_mechanism": mechanism, "token_file": str(path)}
    return {"sasl_mechanism": mechanism, "username": USER, "password": PASSWORD}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "OAUTHBEARER"])
def test_events_are_read_and_scores_committed_through_tls(
    broker: Broker, certificates: Path, tmp_path: Path, mechanism: str, client: str
):
    events, scores = make_topics(broker.address, "events", "scores")
    known = credentials(mechanism, tmp_path)
    settings = Kafka(security="sasl_ssl", ca_file=str(certificates / "ca.pem"), client=client, **known)
    log = KafkaLog(Cluster(broker.secure_address, settings), 0)
    try:
        log.append(events, [Message(b"1"), Message(b"2")])
        assert [record.value for record in log.read_batch(events, 0, 10, 30).records] == [b"1", b"2"]
        group = own_name("group")
        log.commit(group, {events: Move(0, 2)}, {scores: [Message(b"A")]})
        assert log.committed(group, events).position == 2
        assert [record.value for record in log.read_batch(scores, 0, 10, 30).records] == [b"A"]
    finally:
        log.close()


def graphsieve(broker: Broker, environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-P", "-m", "pipeline.cli", *words, f"kafka://{broker.secure_address}"]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def knobs(certificates: Path, password: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "GRAPHSIEVE_KAFKA_SECURITY": "sasl_ssl",
        "GRAPHSIEVE_KAFKA_CA_FILE": str(certificates / "ca.pem"),
        "GRAPHSIEVE_KAFKA_SASL_MECHANISM": "PLAIN",
        "GRAPHSIEVE_KAFKA_USERNAME": USER,
        "GRAPHSIEVE_KAFKA_PASSWORD": password,
    }


def test_the_environment_is_enough_and_what_is_printed_holds_no_password(broker: Broker, certificates: Path):
    (topic,) = make_topics(broker.address, "events")
    told = graphsieve(broker, knobs(certificates, PASSWORD), "inspect")
    assert told.returncode == 0, told.stderr
    assert topic in told.stdout
    assert PASSWORD not in told.stdout + told.stderr


def test_a_wrong_password_is_one_line_that_says_where_to_look_and_does_not_show_it(broker: Broker, certificates: Path):
    told = graphsieve(broker, knobs(certificates, "wrong-secret"), "inspect")
    assert told.returncode == 2
    (line,) = told.stderr.splitlines()
    assert "lets nobody in with these credentials" in line
    assert "kafka.username and kafka.password" in line
    assert "wrong-secret" not in told.stdout + told.stderr


def test_an_authority_that_is_not_trusted_is_refused(broker: Broker, certificates: Path):
    environment = knobs(certificates, PASSWORD)
    del environment["GRAPHSIEVE_KAFKA_CA_FILE"]
    told = graphsieve(broker, environment, "inspect")
    assert told.returncode == 2
    assert "or trusts another authority; see kafka.security, kafka.ca_file" in told.stderr


def test_a_client_without_encryption_is_told_what_the_port_expects(broker: Broker):
    told = graphsieve(broker, {"PATH": os.environ["PATH"]}, "inspect")
    assert told.returncode == 2
    assert "does not answer as a broker without encryption does; see kafka.security" in told.stderr


def test_what_is_missing_from_the_credentials_is_named_before_anything_is_connected_to():
    with pytest.raises(ConfigError, match=r"^kafka.username, kafka.password: SCRAM-SHA-512 needs both"):
        Cluster("localhost:1", Kafka(security="sasl_ssl"))
    with pytest.raises(ConfigError, match=r"^kafka.token_file: empty, OAUTHBEARER needs a file"):
        Cluster("localhost:1", Kafka(security="sasl_ssl", sasl_mechanism="OAUTHBEARER"))
    with pytest.raises(ConfigError, match=r"^kafka.ca_file: no file nowhere.pem"):
        Cluster("localhost:1", Kafka(security="ssl", ca_file="nowhere.pem"))


def test_a_configuration_shows_no_password_however_it_is_printed():
    config = load_config(None, environment={"GRAPHSIEVE_KAFKA_PASSWORD": "secret-word"})
    assert config.kafka.password == "secret-word"
    assert "secret-word" not in f"{config} {config!r} {config.kafka} {Cluster('localhost:1', config.kafka)!r}"
