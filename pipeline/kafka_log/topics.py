"""Topics of a cluster: made on request, never silently."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import errors as kafka_errors
from kafka.admin import NewTopic

from pipeline.errors import LogError
from pipeline.kafka_log.client import Cluster, explain, one_line

FENCED_SECONDS = 30.0  # how long brokers may take to come back into a cluster that answers
LOOK_SECONDS = 0.2


def create_topic(
    cluster: Cluster, topic: str, partitions: int, replication: int | None, configs: Mapping[str, str]
) -> dict[str, Any]:
    """Make a topic and return what it is; LogError if it exists already."""
    admin = cluster.admin()
    try:
        new = NewTopic(topic, partitions, -1 if replication is None else replication, topic_configs=dict(configs))
        _create(admin, new)
    except kafka_errors.TopicAlreadyExistsError:
        raise LogError(f"kafka {cluster.servers}: topic {topic!r} exists already; use it, or name another") from None
    except kafka_errors.KafkaError as error:
        raise LogError(f"kafka {cluster.servers}/{topic}: {explain(error)}") from error
    finally:
        admin.close()
    return {"topic": topic, "partitions": partitions, **configs}


def _create(admin: Any, new: NewTopic) -> None:
    """Make it; where all brokers are fenced, as just after they stalled or began, wait until one is back."""
    until = time.monotonic() + FENCED_SECONDS
    while True:
        try:
            admin.create_topics([new], timeout_ms=30_000, wait_for_metadata=True)
            return
        except kafka_errors.InvalidReplicationFactorError as error:
            if "currently fenced" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(LOOK_SECONDS)


def partition_counts(cluster: Cluster) -> dict[str, int]:
    """Return how many partitions each topic has, those of Kafka itself left out."""
    consumer = cluster.consumer()
    try:
        with one_line(cluster.servers):
            names = sorted(topic for topic in consumer.topics() if not topic.startswith("__"))
            return {topic: len(consumer.partitions_for_topic(topic) or ()) for topic in names}
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)


def shared_partitions(cluster: Cluster, topics: Sequence[str]) -> int:
    """Return how many partitions each of the topics has; LogError if one is not there, or they differ."""
    counts = partition_counts(cluster)
    for topic in topics:
        if topic not in counts:
            create = f"graphsieve topics create kafka://{cluster.servers}/{topic} --partitions N"
            raise LogError(f"kafka {cluster.servers}: topic {topic!r} does not exist; make it: {create}")
    if len({counts[topic] for topic in topics}) > 1:
        found = ", ".join(f"{topic!r} has {counts[topic]}" for topic in topics)
        raise LogError(
            f"kafka {cluster.servers}: topics with different numbers of partitions: {found}; "
            "all topics of a scorer need as many as its events have"
        )
    return counts[topics[0]]
