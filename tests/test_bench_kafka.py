"""The bench on Kafka: what its report holds. A tiny run; what it measures says nothing."""

import argparse
import json
import math

import pytest

from pipeline.bench.kafka import run
from pipeline.broker import Broker
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.topics import partition_counts

EVENTS = 6000  # about the fewest that have spam in each part of what is trained on


def options(broker: Broker, **given: object) -> argparse.Namespace:
    usual = {
        "events": EVENTS,
        "repeats": 1,
        "soak": False,
        "handover": False,
        "minutes": 30.0,
        "log": broker.url,
        "config": None,
    }
    return argparse.Namespace(**usual | given)


@pytest.fixture(scope="module")
def report(broker: Broker) -> dict:
    return json.loads(json.dumps(run(options(broker))))


def test_the_report_compares_ours_with_every_peer(report: dict):
    assert {"bare loop", "unpruned", "at least once", "no log"} <= set(report["peers"])
    assert {f"packed, {peer}" for peer in ("bare loop", "unpruned", "at least once", "no log")} <= set(report["peers"])
    assert set(report["ratio"]) == set(report["peers"])
    packed = report["peers"]["packed"]
    for peer, ratio in report["ratio"].items():
        ours = packed if peer.startswith("packed, ") else report["ours"]
        assert ratio == pytest.approx(ours["events_per_s"] / report["peers"][peer]["events_per_s"], abs=2e-3), peer


def test_the_breakdown_adds_up_to_the_whole_time(report: dict):
    for name, figures in (("pruned 4x", report["ours"]), ("packed", report["peers"]["packed"])):
        parts = report["breakdown_us_per_event"][name]
        assert {"poll", "decode", "A", "B", "C", "D", "messages", "commit"} < set(parts)
        assert min(parts.values()) >= -0.01
        assert sum(parts.values()) == pytest.approx(1e6 / figures["events_per_s"], rel=0.01)


def test_the_latency_of_either_delivery_is_told_with_its_batches_and_parts(report: dict):
    served = ("exactly-once", "exactly-once, confluent", "at-least-once", "at-least-once, confluent")
    assert set(report["latency"]) == {f"{how}, {rate}/s" for how in served for rate in (1000, 5000)}
    for row in report["latency"].values():
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert 1 <= row["batch_p50"] <= row["batch_p99"]
        assert set(row["parts_ms"]) == {"arrive", "wait", "decode", "score", "commit", "visible"}


def test_a_soak_tells_lag_and_memory_and_leaves_nothing_on_the_broker(broker: Broker):
    report = run(options(broker, soak=True, minutes=0.1))

    assert report["events"] > 0
    assert report["load_events_per_s"] == pytest.approx(report["most_events_per_s"] / 2, abs=1)
    assert len(report["samples"]) == 12
    assert report["lag_max"] >= 0
    assert math.isfinite(report["resident_mb_an_hour"])
    assert [name for name in partition_counts(Cluster(broker.address)) if name.startswith("graphsieve-bench-")] == []
