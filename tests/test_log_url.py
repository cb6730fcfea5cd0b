"""Log URLs: each names one kind of log, and one that names none is refused without telling a password."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from pipeline.config import Config, Kafka, Topics
from pipeline.errors import ConfigError, LogError
from pipeline.log import Message
from pipeline.log_url import open_log, open_shard_log, split_kafka_url, split_topic
from pipeline.sqlite_log import SqliteLog


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("kafka://localhost:9092", ("localhost:9092", None)),
        ("kafka://localhost:9092/", ("localhost:9092", None)),
        ("kafka://a.example:9092,10.0.0.2:19092/events", ("a.example:9092,10.0.0.2:19092", "events")),
        ("kafka://[::1]:9092/my.topic_1-x", ("[::1]:9092", "my.topic_1-x")),
        ("kafka://h:1/events,scores", ("h:1", "events,scores")),
    ],
)
def test_a_kafka_url_names_servers_and_may_name_topics(url, parts):
    assert split_kafka_url(url) == parts
    servers, topic = parts
    assert split_topic(url) == (f"kafka://{servers}", topic)


@pytest.mark.parametrize(
    "url",
    ["kafka://", "kafka://localhost", "kafka://:9092", "kafka://h:1,", "kafka://h:x",
     "kafka://h:1/a/b", "kafka://h:1/a b", "kafka://h:1/a,,b", "kafka://h:1?x"],
)  # fmt: skip
def test_a_malformed_kafka_url_is_refused_with_what_is_expected(url):
    with pytest.raises(LogError) as refused:
        open_log(url)
    assert str(refused.value) == f"log {url!r}: expected kafka://HOST:PORT[,HOST:PORT][/TOPIC]"


@pytest.mark.parametrize("url", ["kafka://alice:s3cret@h:9092", "https://alice:s3cret@h/x", "kafka://a:s3cret@h@h:1/t"])
def test_a_password_in_a_url_is_not_repeated(url):
    with pytest.raises(LogError) as refused:
        open_log(url)
    assert "s3cret" not in str(refused.value)
    if url.startswith("kafka"):
        assert "user and password belong in kafka.username and GRAPHSIEVE_KAFKA_PASSWORD" in str(refused.value)


def test_the_log_of_a_scorer_is_named_without_a_topic():
    with pytest.raises(LogError, match="topics are named by --events, --scores and --dead-letters"):
        open_log("kafka://localhost:1/events")


def test_topics_are_merged_only_where_commits_are_transactions():
    config = Config(topics=Topics(events="reviews,verdicts"), kafka=Kafka(delivery="at-least-once"))
    with pytest.raises(ConfigError, match="merges reviews,verdicts: their order is kept by transactions"):
        open_shard_log("kafka://localhost:1", config, print, 0, Event())


@pytest.mark.parametrize("open_it", [open_log, lambda url, config: open_shard_log(url, config, print, 0, Event())])
def test_several_topics_are_one_log(tmp_path, open_it):
    SqliteLog(tmp_path / "log.db").close()
    config = Config(topics=Topics(events="reviews,verdicts"))
    log = open_it(f"sqlite:{tmp_path}/log.db", config)
    assert log.end("reviews,verdicts") == 0
    log.close()


def test_only_kafka_has_several_partitions(tmp_path):
    log = open_log(f"sqlite:{tmp_path}/log.db", partition=0)
    log.close()
    with pytest.raises(LogError, match="has no partition 3: only topics of Kafka have several"):
        open_log(f"sqlite:{tmp_path}/log.db", partition=3)


def test_a_recorded_file_holds_the_events_whatever_they_are_called(tmp_path: Path):
    log = open_log(f"{tmp_path}/events.jsonl", Config(topics=Topics(events="reviews")))
    log.append("reviews", [Message(b"{}")])
    assert log.end("reviews") == 1
    log.close()


def test_without_the_client_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['kafka'] = None\n"  # what Python itself sets where a module is not to be found
        "from pipeline.cli import main; sys.exit(main(['topics', 'list', 'kafka://localhost:9092']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "graphsieve: a kafka:// log needs the module kafka: pip install 'graphsieve[kafka]'\n"


def test_embedded_logs_are_used_without_loading_the_kafka_client(tmp_path):
    code = (
        f"import sys; from pipeline.log_url import open_log; open_log('sqlite:{tmp_path}/a.db').close()\n"
        "assert 'kafka' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
