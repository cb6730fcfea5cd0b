"""What is put on Kafka: byte for byte what was recorded, and what belongs together in one partition."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import uuid

import msgspec
import pytest
from conftest import REPOSITORY
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from pipeline.cli import main
from pipeline.decoder import Decoder
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.partitioner import partition_of
from pipeline.kafka_log.sending import give_up
from pipeline.kafka_log.topics import create_topic
from pipeline.log import PACKED, Message, Move, read_to_end
from pipeline.recorded import read_messages
from pipeline.schema import load_schema
from producers.synthetic import synthetic_events

PARTITIONS = 4
SCHEMA = REPOSITORY / "deploy" / "schemas" / "synthetic.toml"


@pytest.fixture
def make_topic(broker):
    """Make a topic with a name of its own; return the name."""

    def make(partitions=1):
        name = f"p-{uuid.uuid4().hex[:12]}"
        create_topic(Cluster(broker.address), name, partitions, None, {})
        return name

    return make


@pytest.fixture
def run(capsys):
    """Run a command; return its report."""

    def run(*words):
        code = main([*map(str, words), "--json"])
        output, said = capsys.readouterr()
        assert code == 0, said
        return json.loads(output)

    return run


def raw(broker, topic):
    """All of a topic's messages as the client gives them: keys, values and headers in bytes."""
    consumer = KafkaConsumer(bootstrap_servers=broker.address, enable_auto_commit=False, metrics_enabled=False)
    with contextlib.closing(consumer):
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        end, found = consumer.end_offsets([place])[place], []
        while consumer.position(place) < end:
            found += consumer.poll(timeout_ms=500).get(place, [])
        return [(one.key, one.value, one.headers) for one in found]


def records(broker, topic, partition):
    log = KafkaLog(Cluster(broker.address), partition)
    with contextlib.closing(log):
        return [record for some in read_to_end(log, topic) for record in some]


def test_what_is_recorded_and_replayed_is_the_same_byte_for_byte(broker, make_topic, run, tmp_path):
    first, second = make_topic(), make_topic()
    messages = [
        (b"plain", b'{"id":1}', []),
        (None, b'{"a":\n1}', [("content-type", b"application/json")]),  # which need not be said, and was
        (b"\xff\xfe", b"\x00\xff binary", [("content-type", PACKED.encode())]),
        (b"gone", None, []),
        (b"gone", None, [("why", b"asked for")]),
        (b"", b"", [("twice", b"1"), ("twice", b"2"), ("", b""), ("odd", b"\xff\x00\n")]),
        ("schlüssel".encode(), b"[1]", [("trace", b"t"), ("content-type", b"application/json; charset=utf-8")]),
    ]
    with contextlib.closing(KafkaProducer(bootstrap_servers=broker.address, metrics_enabled=False)) as producer:
        for key, value, headers in messages:
            producer.send(first, value, key, headers)
    run("record", "--log", broker.url, "--topic", first, "--out", tmp_path / "first.jsonl.zst")
    report = run("replay", tmp_path / "first.jsonl.zst", "--to", f"{broker.url}/{second}")
    run("record", "--log", broker.url, "--topic", second, "--out", tmp_path / "second.jsonl.zst")
    assert report["events"] == len(messages)
    assert raw(broker, first) == raw(broker, second) == messages
    recorded = [
        [record._replace(appended_at=0.0) for record in read_messages(tmp_path / f"{name}.jsonl.zst")]
        for name in ("first", "second")
    ]
    assert recorded[0] == recorded[1]


def test_a_recording_keeps_positions_and_times_and_may_be_of_a_part(broker, make_topic, run, tmp_path):
    topic = make_topic()
    began = time.time()
    with contextlib.closing(KafkaLog(Cluster(broker.address))) as log:
        for number in range(4):  # each transaction ends with a mark, which takes a position
            log.commit("writer" + topic, {topic: Move(2 * number, 2 * number + 2)}, {topic: [Message(b"%d" % number)]})
        while log.end(topic) < 8:  # the broker writes the last mark a little after it has said that all is committed
            time.sleep(0.01)
    run("record", "--log", broker.url, "--topic", topic, "--out", tmp_path / "all.jsonl")
    found = list(read_messages(tmp_path / "all.jsonl"))
    assert [(record.position, record.value) for record in found] == [(0, b"0"), (2, b"1"), (4, b"2"), (6, b"3")]
    assert all(began - 1 < record.appended_at < time.time() + 1 for record in found)
    part = "--from", 1, "--to", 6, "--out", tmp_path / "part.jsonl"
    assert run("record", "--log", broker.url, "--topic", topic, *part)["messages"] == 2
    assert list(read_messages(tmp_path / "part.jsonl")) == found[1:3]


def test_a_recording_begins_where_the_topic_does(broker, make_topic, run, tmp_path):
    topic = make_topic()
    with contextlib.closing(KafkaLog(Cluster(broker.address))) as log:
        log.append(topic, [Message(b"%d" % number) for number in range(10)])
    with contextlib.closing(Cluster(broker.address).admin()) as admin:
        admin.delete_records({TopicPartition(topic, 0): 7})
    run("record", "--log", broker.url, "--topic", topic, "--out", tmp_path / "rest.jsonl")
    assert [record.position for record in read_messages(tmp_path / "rest.jsonl")] == [7, 8, 9]


def test_all_that_is_said_of_a_product_is_in_the_partition_of_its_key(broker, make_topic, run, tmp_path):
    topic, lines = make_topic(PARTITIONS), list(synthetic_events(seed=1, limit=3000))
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    run("replay", tmp_path / "events.jsonl", "--to", f"{broker.url}/{topic}", "--key", "product")
    partition_of_id, found = {}, []
    for partition in range(PARTITIONS):
        some = records(broker, topic, partition)
        assert some
        for record in some:
            assert partition_of(record.key, PARTITIONS) == partition
            assert partition_of_id.setdefault(json.loads(record.value)["id"], partition) == partition
        values = {record.value for record in some}
        assert [record.value for record in some] == [line for line in lines if line in values]  # in order
        found += values
    assert sorted(found) == sorted(lines)


def test_packs_never_mix_partitions(broker, make_topic, run, tmp_path):
    topic, lines = make_topic(PARTITIONS), list(synthetic_events(seed=1, limit=2000))
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    to = "--to", f"{broker.url}/{topic}", "--key", "product"
    report = run("replay", tmp_path / "events.jsonl", *to, "--pack", 100, "--schema", SCHEMA)
    assert report["events"] < 50
    product_of = {event["id"]: event.get("product") for event in map(msgspec.json.decode, reversed(lines))}
    decoder, ids = Decoder(load_schema(SCHEMA)), []
    for partition in range(PARTITIONS):
        some = records(broker, topic, partition)
        assert {record.content_type for record in some} == {PACKED}
        batch, bad = decoder.decode(some)
        assert not bad
        assert {partition_of(product_of[id], PARTITIONS) for id in batch.id} == {partition}
        ids += batch.id
    assert sorted(ids) == sorted(msgspec.json.decode(line)["id"] for line in lines)


def test_without_keys_nothing_goes_to_a_topic_of_several_partitions(broker, make_topic, capsys, tmp_path):
    topic = make_topic(PARTITIONS)
    (tmp_path / "events.jsonl").write_bytes(b'{"id":1}\n')
    assert main(["replay", str(tmp_path / "events.jsonl"), "--to", f"{broker.url}/{topic}"]) == 2
    assert "message 1 has no key, and the topic has 4 partitions" in capsys.readouterr().err
    assert [records(broker, topic, partition) for partition in range(PARTITIONS)] == [[]] * PARTITIONS


def test_a_stream_without_end_goes_on_until_it_is_interrupted(broker, make_topic):
    topic = make_topic()
    words = ("import", "synthetic", "--to", f"{broker.url}/{topic}", "--key", "product", "--rate", "2000", "--json")
    line = [sys.executable, "-m", "pipeline.cli", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with contextlib.closing(KafkaLog(Cluster(broker.address))) as log:
        while log.end(topic) < 100:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert json.loads(output)["events"] == log.end(topic) >= 100
    expected = synthetic_events(seed=0)
    assert all(record.value == next(expected) for record in records(broker, topic, 0))


def test_a_producer_is_given_up_with_all_that_it_has_not_sent(broker, make_topic):
    topic = make_topic(partitions=64)
    for _ in range(10):
        producer = KafkaProducer(bootstrap_servers=broker.address, linger_ms=60_000, metrics_enabled=False)
        unsent = [producer.send(topic, b"a message", partition=partition) for partition in range(64)]
        give_up(producer)
        assert all(message.failed() for message in unsent)
        assert not producer._sender.is_alive()
