"""`graphsieve quality --follow` beside real consumers of a real broker, which dies and comes back."""

import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka_consumers import SCHEMA, Deployment, stream
from kafka_topics import make_topics, own_name
from quality_process import QualityProcess
from worlds import random_model

from consumers.quality import quality
from pipeline.broker import Broker
from pipeline.config import Topics
from pipeline.decoder import Decoder
from pipeline.drift import Reference, fit_bins, watched
from pipeline.events import NODE
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import JSON, Record
from pipeline.schema import load_schema

PARTITIONS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that holds a reference of the stream's own features."""
    folder, model = tmp_path_factory.mktemp("model"), random_model(load_schema(SCHEMA), width=8)
    records = (Record(i, m.value, m.key, JSON, float("nan")) for i, m in enumerate(stream(6000)))
    events, _ = Decoder(model.schema).decode(list(records))
    own = events.features[events.kind == NODE]
    features = {model.schema.own_channels[c]: fit_bins(own[:, c]) for c in watched(model.schema)}
    reference = Reference(features, fit_bins(np.linspace(0, 1, 1000), by_value=False))
    model.report = {"metrics": {"test": {"auroc": 0.5}}, "reference": msgspec.to_builtins(reference)}
    model.save(folder)
    return folder


def follow(deployment: Deployment, model: Path, *options: object) -> QualityProcess:
    words = [
        "--follow", "--log", deployment.broker.url, "--model", model, "--events", deployment.events,
        "--scores", deployment.scores, "--group", deployment.group, *options,
    ]  # fmt: skip
    journal = {"GRAPHSIEVE_TOPICS_JOURNAL": deployment.journal}
    follower = QualityProcess(words, deployment.folder / own_name("quality"), journal)
    deployment.consumers.append(follower)
    return follower


def judged(deployment: Deployment, partition: int) -> int:
    """How many labelled scores a partition has, by reading it to its end."""
    topics = Topics(events=deployment.events, scores=deployment.scores)
    with contextlib.closing(KafkaLog(Cluster(deployment.broker.address), partition)) as log:
        return int(quality(log, Decoder(load_schema(SCHEMA)), topics=topics)["labelled"] or 0)


LABELLED = "graphsieve_quality_labelled_scores_total"


def test_one_process_follows_all_partitions_through_the_brokers_death(own_broker: Broker, model: Path, tmp_path: Path):
    messages = stream(6000)
    with Deployment(own_broker, model, tmp_path, PARTITIONS) as deployment:
        deployment.append(messages[:3000])
        deployment.consumer()
        deployment.wait_until_scored()
        first = [judged(deployment, partition) for partition in range(PARTITIONS)]
        assert min(first) > 20  # every partition has a part in what follows
        both, one = follow(deployment, model), follow(deployment, model, "--partition", 1)
        deployment.wait_until(lambda: both.metric(LABELLED) == sum(first) and one.metric(LABELLED) == first[1])
        deployment.wait_until(lambda: both.answers("/readyz") == 200)

        own_broker.kill()
        deployment.wait_until(lambda: "tried again, from where it stands" in both.said)
        assert both.answers("/healthz") == 200
        own_broker.restart()
        deployment.append(messages[3000:])
        deployment.wait_until_scored()

        last = [judged(deployment, partition) for partition in range(PARTITIONS)]
        assert sum(last) > sum(first)
        deployment.wait_until(lambda: both.metric(LABELLED) == sum(last) and one.metric(LABELLED) == last[1])
        assert both.metric('graphsieve_quality_window_scores{window="long"}') == sum(last)
        assert 0 < both.metric('graphsieve_drift_psi{channel="stars=5"}') < 0.1
        both.stop()
        assert both.report["labelled"] == sum(last)
        assert max(both.report["drift"]["channels"].values()) < 0.1
        assert both.report["expected"] == {"model": deployment.published(0).scores[0].model, "auroc": 0.5}
        assert "is read again" in both.said


def test_labels_on_a_topic_of_their_own_are_followed_in_the_order_of_the_journal(
    broker: Broker, model: Path, tmp_path: Path
):
    messages = stream(2000)
    labels = [b'"type":"label"' in message.value for message in messages]
    with Deployment(broker, model, tmp_path, 2, feeds=("events", "verdicts")) as deployment:
        deployment.append([m for m, label in zip(messages, labels, strict=True) if not label])
        deployment.append([m for m, label in zip(messages, labels, strict=True) if label], feed=1)
        deployment.consumer()
        deployment.wait_until_scored()
        follower = follow(deployment, model)
        deployment.wait_until(lambda: follower.metric(LABELLED) == sum(labels) > 20)


def refusal(*words: object) -> str:
    line = [sys.executable, "-m", "pipeline.cli", "quality", "--follow", *map(str, words), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    return said


def test_topics_that_do_not_fit_are_refused_in_one_line(broker: Broker):
    (events,), (scores,) = make_topics(broker.address, "events", partitions=3), make_topics(broker.address, "scores")
    absent = own_name("absent")
    said = refusal("--log", broker.url, "--events", events, "--scores", absent)
    create = f"graphsieve topics create {broker.url}/{absent} --partitions N"
    assert said == f"graphsieve: kafka {broker.address}: topic {absent!r} does not exist; make it: {create}"
    said = refusal("--log", broker.url, "--events", events, "--scores", scores)
    assert f"topics with different numbers of partitions: {events!r} has 3, {scores!r} has 1; all topics of a" in said
    said = refusal("--log", broker.url, "--events", events, "--scores", events, "--partition", 7)
    assert f"topic {events!r} has 3 partitions, not one of number 7; all topics of a scorer need" in said
