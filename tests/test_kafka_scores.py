"""The same scores through Kafka as in an embedded run, whatever the number of consumers and however they come and go.

`make trials` holds them to it on a whole data set.
"""

from functools import cache
from pathlib import Path

import pytest
from kafka_consumers import (
    QUICK,
    SCHEMA,
    Deployment,
    Outputs,
    assert_same,
    assert_undisturbed,
    embedded_in_order,
    keyed_messages,
    stream,
    undisturbed,
)
from test_real_data import DAY, SCHEMAS, prepared
from worlds import random_model

from pipeline.broker import Broker
from pipeline.log import Message
from pipeline.schema import load_schema
from producers.reviews import read_reviews, review_events

ALL = 10**9


@cache
def reviews(path: Path, most: int) -> list[bytes]:
    table = read_reviews(path)
    return [line for line, _ in zip(review_events(table, 30 * DAY, seed=0), range(most), strict=False)]


@pytest.fixture(scope="session")
def chicago(data_dir: Path) -> Path:
    return data_dir / "reviews/yelpchi.txt.gz"


@pytest.fixture(scope="session")
def chicago_model(chicago: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights on real inputs."""
    folder = tmp_path_factory.mktemp("chicago")
    prepared(load_schema(SCHEMAS / "reviews.toml"), reviews(chicago, 16_000))[0].save(folder)
    return folder


@pytest.fixture(scope="session")
def all_chicago(chicago: Path, chicago_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outputs]:
    """What four embedded runs give for the parts of the whole data set."""
    messages = keyed_messages(reviews(chicago, ALL))
    return undisturbed(chicago_model, messages, 4, tmp_path_factory.mktemp("undisturbed"))


def test_one_partition_equals_the_embedded_run(broker, chicago, chicago_model, tmp_path):
    one_partition(broker, chicago_model, keyed_messages(reviews(chicago, 6000)), tmp_path)


@pytest.mark.trial
def test_one_partition_of_all_of_chicago_equals_the_embedded_run(broker, chicago, chicago_model, tmp_path):
    one_partition(broker, chicago_model, keyed_messages(reviews(chicago, ALL)), tmp_path)


def one_partition(broker: Broker, model: Path, messages: list[Message], folder: Path) -> None:
    with Deployment(broker, model, folder) as deployment:
        deployment.append(messages)
        assert deployment.consumer("--until-end").ended() == 0
        assert_undisturbed(deployment, undisturbed(model, messages, 1, folder))


def test_four_partitions_equal_four_embedded_runs(broker, tmp_path):
    messages, model = stream(6000), tmp_path / "model"
    random_model(load_schema(SCHEMA), width=8).save(model)
    with Deployment(broker, model, tmp_path, 4) as deployment:
        deployment.append(messages)
        for _ in range(3):
            deployment.consumer()
        deployment.wait_until_scored()
        assert_undisturbed(deployment, undisturbed(model, messages, 4, tmp_path))


@pytest.mark.trial
@pytest.mark.parametrize("consumers", [1, 2, 3, 4])
def test_four_partitions_of_all_of_chicago_equal_four_embedded_runs(
    broker, chicago, chicago_model, all_chicago, tmp_path, consumers
):
    with Deployment(broker, chicago_model, tmp_path, 4) as deployment:
        for _ in range(consumers):
            deployment.consumer()
        deployment.append(keyed_messages(reviews(chicago, ALL)))
        deployment.wait_until_scored()
        assert_undisturbed(deployment, all_chicago)


@pytest.mark.trial
def test_the_scores_of_all_of_chicago_are_the_same_while_consumers_join_and_leave(
    broker, chicago, chicago_model, all_chicago, tmp_path
):
    with Deployment(broker, chicago_model, tmp_path, 4) as deployment:
        with deployment.feeding(keyed_messages(reviews(chicago, ALL)), rate=1500):
            for _ in range(4):
                deployment.consumer()
                deployment.wait_for_scores(2000)
            for consumer in deployment.consumers[:3]:
                consumer.stop()
                deployment.wait_for_scores(2000)
        deployment.wait_until_scored()
        assert_undisturbed(deployment, all_chicago)


def test_labels_on_a_topic_of_their_own_give_the_scores_of_the_order_in_the_journal(
    broker, chicago, chicago_model, tmp_path
):
    labels_apart(broker, chicago_model, reviews(chicago, 6000), tmp_path, restarts=2)


@pytest.mark.trial
def test_all_labels_of_chicago_on_a_topic_of_their_own_give_the_scores_of_the_order_in_the_journal(
    broker, chicago, chicago_model, tmp_path
):
    labels_apart(broker, chicago_model, reviews(chicago, ALL), tmp_path, restarts=10)


def labels_apart(broker: Broker, model: Path, lines: list[bytes], folder: Path, restarts: int) -> None:
    """Kill -9 the consumer again and again; each successor replays from its snapshot in the order that was kept."""
    verdicts = [b'"label"' in line[:20] for line in lines]
    messages = keyed_messages(lines)
    size = -(-len(messages) // (restarts + 1))
    with Deployment(broker, model, folder, 2, QUICK, feeds=("reviews", "verdicts")) as deployment:
        for start in range(0, len(messages), size):
            part = list(zip(messages, verdicts, strict=True))[start : start + size]
            for feed in (0, 1):
                deployment.append([message for message, verdict in part if verdict == feed], feed)
            consumer = deployment.consumer("--snapshot-every", "200ms", "--max-batch", 64)
            deployment.wait_for_scores()
            if start + size < len(messages):
                consumer.kill()
        deployment.wait_until_scored()
        for partition in range(2):
            order = deployment.merged(partition)
            assert {record.topic for record in order} == set(deployment.events.split(","))
            assert_same(deployment.published(partition), embedded_in_order(model, order, folder / f"order{partition}"))
