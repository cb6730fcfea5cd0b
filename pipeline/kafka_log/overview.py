"""What is in a cluster, by looking: topics and their partitions, groups and where they stand."""

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition

from pipeline.kafka_log.client import Cluster, one_line
from pipeline.kafka_log.topics import partition_counts

Report = dict[str, Any]


def overview(cluster: Cluster, group: str | None = None) -> Report:
    """Return every topic and every group, or the one group that is named, partition by partition.

    Ends are those that readers of committed messages see. None: the group has no position there.
    """
    counts = partition_counts(cluster)
    places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    begins, ends = _offsets(cluster, places)
    topics = {
        topic: {
            "partitions": count,
            "begin": [begins[TopicPartition(topic, number)] for number in range(count)],
            "end": [ends[TopicPartition(topic, number)] for number in range(count)],
        }
        for topic, count in counts.items()
    }
    groups = {name: _standing(found, counts, ends) for name, found in _positions(cluster, group).items()}
    return {"topics": topics, "groups": groups}


def assignments(cluster: Cluster, group: str) -> dict[str, set[int]]:
    """Return which partitions each member of a group has been given; none while the group shares them out anew."""
    admin = cluster.admin()
    try:
        with one_line(f"{cluster.servers}, group {group}"):
            found = admin.describe_groups([group])[group]
    finally:
        admin.close()
    return {
        member["member_id"]: {
            number for given in member["member_assignment"]["assigned_partitions"] for number in given["partitions"]
        }
        for member in found["members"]
        if member["member_assignment"]
    }


def _offsets(cluster: Cluster, places: list[TopicPartition]) -> tuple[Mapping[Any, int], Mapping[Any, int]]:
    consumer = cluster.consumer()
    try:
        with one_line(cluster.servers):
            return consumer.beginning_offsets(places), consumer.end_offsets(places)
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)


def _positions(cluster: Cluster, group: str | None) -> Mapping[str, Mapping[Any, Any]]:
    """Return what each group has committed."""
    admin = cluster.admin()
    try:
        with one_line(cluster.servers):
            names = sorted(found["group_id"] for found in admin.list_groups()) if group is None else [group]
            positions: Mapping[str, Mapping[Any, Any]] = admin.list_group_offsets(names) if names else {}
            return positions
    finally:
        admin.close()


def _standing(found: Mapping[Any, Any], counts: Mapping[str, int], ends: Mapping[Any, int]) -> Report:
    """Return where a group stands in each topic, and how far behind the end that is."""
    standing: Report = {}
    for topic in sorted({place.topic for place in found} & set(counts)):
        places = [TopicPartition(topic, number) for number in range(counts[topic])]
        positions = [found[place].offset if place in found else None for place in places]
        behind = [None if at is None else ends[place] - at for place, at in zip(places, positions, strict=True)]
        standing[topic] = {"position": positions, "behind": behind}
    return standing
