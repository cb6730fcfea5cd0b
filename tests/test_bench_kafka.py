"""The benches on Kafka: what their reports hold. Tiny runs; what they measure says nothing."""

import math

import pytest
from benches import told

from pipeline.bench import kafka, kafka_handover, kafka_latency, kafka_soak
from pipeline.broker import Broker
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.topics import partition_counts

EVENTS = 6000  # about the fewest that have spam in each part of what is trained on


@pytest.fixture(scope="module")
def report(broker: Broker) -> dict:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kafka_latency, "SECONDS", 2.0)
        return told(kafka, events=EVENTS, log=broker.url)


def test_the_report_compares_ours_with_every_peer(report: dict):
    assert {"bare loop", "unpruned", "at least once", "no log"} <= set(report["peers"])
    assert {f"packed, {peer}" for peer in ("bare loop", "unpruned", "at least once", "no log")} <= set(report["peers"])
    for peer, ratio in report["ratio"].items():
        ours = report["ours"]["packed"] if peer.startswith("packed, ") else report["ours"]
        assert ratio == pytest.approx(ours["events_per_s"] / report["peers"][peer]["events_per_s"], abs=2e-3), peer


def test_the_tables_have_a_line_for_each_contender(report: dict):
    single, packed, latency = kafka.tables(report)
    assert [line[0] for line in single.cells] == [line[0] for line in packed.cells]
    assert len(single.cells) + len(packed.cells) == len(report["peers"]) + 2
    assert len(latency.cells) == len(report["ours"]["latency"])


def test_the_breakdown_adds_up_to_the_whole_time(report: dict):
    for figures in (report["ours"], report["ours"]["packed"]):
        parts = figures["us_per_event"]
        assert {"poll", "decode", "A", "B", "C", "D", "messages", "commit"} < set(parts)
        assert min(parts.values()) >= -0.01
        assert sum(parts.values()) == pytest.approx(1e6 / figures["events_per_s"], rel=0.01)


def test_the_latency_of_either_delivery_is_told_with_its_batches_and_parts(report: dict):
    latency = report["ours"]["latency"]
    served = {(row["delivery"], row["client"], row["offered"]) for row in latency}
    assert len(served) == len(latency)
    assert {
        (delivery, client, rate)
        for delivery in ("exactly-once", "at-least-once")
        for client in ("kafka-python", "confluent")
        for rate in (1000, 5000)
    } == served
    for row in latency:
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert 1 <= row["batch_p50"] <= row["batch_p99"]
        assert set(row["parts_ms"]) == {"arrive", "wait", "decode", "score", "commit", "visible"}


def test_a_hand_over_tells_for_how_long_partitions_are_silent(broker: Broker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_handover, "CALM_SECONDS", 1.0)
    report = told(kafka_handover, events=2000, log=broker.url)

    assert report["ours"]["nodes"] >= 2000
    assert set(report["peers"]) == {"those that stay", "any, before"}
    assert all(0 < row["silence_s"] < 60 for row in (report["ours"], *report["peers"].values()))


def test_a_soak_tells_lag_and_memory_and_leaves_nothing_on_the_broker(broker: Broker):
    report = told(kafka_soak, minutes=0.1, log=broker.url)

    assert report["command"] == "graphsieve bench kafka_soak --minutes 0.1"
    assert report["ours"]["events"] > 0
    assert report["load_events_per_s"] == pytest.approx(report["most_events_per_s"] / 2, abs=1)
    assert len(report["ours"]["samples"]) == 12
    assert report["ours"]["lag_max"] >= 0
    assert math.isfinite(report["ours"]["resident_mb_an_hour"])
    assert [name for name in partition_counts(Cluster(broker.address)) if name.startswith("graphsieve-bench-")] == []
