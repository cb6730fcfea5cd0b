"""The broker of the Kafka tests is a Kafka broker, ends with whoever started it, and says why where it cannot start."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import USERS, need_a_broker
from kafka import KafkaAdminClient
from kafka.errors import KafkaTimeoutError

from pipeline.broker import HOST, Broker, Security
from pipeline.errors import ConfigError, LogError


def admin(address, **options):
    """A client for one look: kafka-python's does not find its way back to a broker that it has seen die."""
    return contextlib.closing(KafkaAdminClient(bootstrap_servers=address, **options))


def topics(address, **options):
    with admin(address, **options) as client:
        return client.list_topics()


def make_topic(address, topic):
    with admin(address) as client:
        client.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def port_of(url):
    return int(url.rpartition(":")[2])


@pytest.fixture
def taken_port():
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


# ---- a broker's life ----


def test_a_topic_survives_the_brokers_crash(own_broker):
    make_topic(own_broker.address, "kept")
    before = own_broker.url, own_broker.pid
    own_broker.kill()
    assert not is_open(own_broker.port)
    own_broker.restart()
    assert own_broker.url == before[0]
    assert own_broker.pid != before[1]
    assert topics(own_broker.address) == ["kept"]


def test_a_paused_broker_answers_once_it_is_resumed(broker):
    broker.pause()
    try:
        with pytest.raises(KafkaTimeoutError):
            topics(broker.address, bootstrap_timeout_ms=1000)
    finally:
        broker.resume()
    make_topic(broker.address, "after-the-pause")
    assert "after-the-pause" in topics(broker.address)


def test_a_topic_that_nobody_made_is_not_there(broker):
    with admin(broker.address) as client:
        assert client.describe_topics(["nobody-made-me"])[0]["error_code"] == 3
    assert "nobody-made-me" not in topics(broker.address)


def test_a_stopped_broker_is_gone_even_if_it_was_paused(own_broker):
    pid = own_broker.pid
    own_broker.pause()
    own_broker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not is_open(own_broker.port)
    own_broker.stop()  # once more does no harm


def test_a_broker_ends_when_the_process_that_started_it_is_killed(tmp_path):
    need_a_broker()
    code = (
        "import sys, time; from pathlib import Path; from pipeline.broker import Broker;"
        "print(Broker.start(Path(sys.argv[1])).url, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        port = port_of(process.stdout.readline())
        assert is_open(port)
        process.kill()
    deadline = time.monotonic() + 30
    while is_open(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- who may log in ----


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_the_secure_listener_lets_in_who_knows_the_password(broker, certificates, mechanism):
    secure = {"security_protocol": "SASL_SSL", "ssl_cafile": str(certificates / "ca.pem"), "sasl_mechanism": mechanism}
    make_topic(broker.address, f"seen-by-{mechanism}")
    for name, password in USERS.items():
        user = {"sasl_plain_username": name, "sasl_plain_password": password}
        assert f"seen-by-{mechanism}" in topics(broker.secure_address, **secure, **user)
    user["sasl_plain_password"] = "guessed"
    with pytest.raises(KafkaTimeoutError):  # kafka-python tries again and again whatever the broker's reason was
        topics(broker.secure_address, **secure, **user, bootstrap_timeout_ms=2000)


# ---- where none can start ----


def test_a_broker_that_does_not_come_up_says_why(tmp_path):
    need_a_broker()
    reason = r"^the Kafka broker ended with 1 while it started: .*NoSuchFileException: .*no-such-file\.pem"
    with pytest.raises(LogError, match=reason):
        Broker.start(tmp_path, security=Security(tmp_path / "no-such-file.pem", USERS))


def test_a_taken_port_is_refused_before_anything_starts(tmp_path, taken_port):
    need_a_broker()
    with pytest.raises(ConfigError, match=f"^port {taken_port} is taken: end what listens there, or"):
        Broker.start(tmp_path / "broker", taken_port)
    assert not (tmp_path / "broker").exists()


def in_the_foreground(*words, **environment):
    """Start what `make kafka` runs."""
    line = [sys.executable, "-P", "-m", "pipeline.broker", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=os.environ | environment, **pipes)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_tells_its_url_and_leaves_nothing_behind(tmp_path, end):
    need_a_broker()
    with in_the_foreground(TMPDIR=str(tmp_path)) as process:
        try:
            url = process.stdout.readline().strip()
            assert is_open(port_of(url))
            process.send_signal(end)
            rest, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert (rest, url in said, len(said.splitlines())) == ("", True, 2)
    assert not is_open(port_of(url))
    assert list(tmp_path.iterdir()) == []


def test_without_java_one_line_says_what_to_install(tmp_path):
    check_refusal(tmp_path, "a Kafka broker needs Java 17 or newer, and no java on the path runs: install default-jre")


def test_an_old_java_is_not_tried(tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\necho 'openjdk version \"11.0.28\" 2025-07-15' >&2\n")
    (tmp_path / "java").chmod(0o755)
    check_refusal(tmp_path, "a Kafka broker needs Java 17 or newer, and the java on the path is 11: install")


def test_without_maven_one_line_says_what_to_install(tmp_path):
    need_a_broker()
    (tmp_path / "java").symlink_to(shutil.which("java"))
    check_refusal(tmp_path, "Maven fetches the Kafka broker, and no mvn is on the path: install default-jre-headless")


def check_refusal(path, line):
    """Nothing but `path` is on the path, and no jars are in the cache."""
    with in_the_foreground(PATH=str(path), XDG_CACHE_HOME=str(path / "cache")) as process:
        _, said = process.communicate()
    assert process.returncode == 2
    assert said.startswith(f"graphsieve: {line}")
    assert said.count("\n") == 1
