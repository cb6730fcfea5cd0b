"""What the doctor asks a cluster: by looking, but for one transactional id, which is taken and not used."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource
from kafka.protocol.consumer import HeartbeatRequest

from pipeline.kafka_log.client import Cluster, one_line
from pipeline.kafka_log.sending import give_up

PROBE_MS = 15_000
COORDINATOR_SECONDS = 15.0


@dataclass(frozen=True)
class Topic:
    """One topic; `refused` says why it could not be looked at, None where there is none of that name."""

    partitions: int
    replicas: int  # the fewest of any partition
    configs: Mapping[str, str]  # nothing where the user may not see them
    allowed: frozenset[str] | None  # operations, in Kafka's words; None: the broker does not tell
    refused: str | None = None


@dataclass(frozen=True)
class Facts:
    brokers: int
    topics: Mapping[str, Topic]  # those that were asked for and are there
    instances: tuple[str | None, ...]  # the names of the group's members, None where one has none
    group_refused: str | None  # why this user could not be a member


def examine(cluster: Cluster, topics: Sequence[str], group: str) -> Facts:
    """Return what there is; LogError where no broker answers, at once where nothing listens."""
    cluster.check_that_something_listens()
    admin = cluster.admin()
    try:
        with one_line(cluster.servers):
            brokers = len(admin.describe_cluster()["brokers"])
            described = {topic["name"]: topic for topic in admin.describe_topics(list(topics))}
            configs = _configs(admin, [name for name, topic in described.items() if not topic["error_code"]])
            members, refused = _group(admin, group)
    finally:
        admin.close()
    missing = kafka_errors.UnknownTopicOrPartitionError.errno
    found = {
        name: _topic(topic, configs.get(name, {}))
        for name, topic in described.items()
        if topic["error_code"] != missing
    }
    return Facts(brokers, found, members, refused)


def try_transactional_id(cluster: Cluster, group: str) -> Exception | None:
    """Take a transactional id as a scorer of the group would; return what the broker refuses it with.

    It is the doctor's own, so nobody is fenced; no transaction is begun, and nothing is published.
    """
    options = {"transaction_timeout_ms": PROBE_MS, "max_block_ms": PROBE_MS}
    producer = cluster.producer(transactional_id=f"graphsieve-{group}-doctor", **options)
    try:
        producer.init_transactions()
    except kafka_errors.KafkaError as error:
        refused: Exception = error
        return refused
    finally:
        give_up(producer)
    return None


def _topic(described: Mapping[str, Any], configs: Mapping[str, str]) -> Topic:
    partitions = described["partitions"]
    error, allowed = described["error_code"], described.get("authorized_operations")
    return Topic(
        len(partitions),
        min((len(partition["replica_nodes"]) for partition in partitions), default=0),
        configs,
        frozenset(allowed) if allowed else None,
        kafka_errors.for_code(error).__name__ if error else None,
    )


def _configs(admin: Any, topics: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    if not topics:
        return {}
    asked = [ConfigResource("TOPIC", topic) for topic in topics]
    found = admin.describe_configs(asked, config_filter="all").get("topic", {})
    return {topic: {name: str(config["value"]) for name, config in configs.items()} for topic, configs in found.items()}


def _group(admin: Any, group: str) -> tuple[tuple[str | None, ...], str | None]:
    """Return who is in a group, and what a member that it does not know is refused with, if not for that alone.

    A heartbeat in the name of nobody changes nothing, and needs the right that a member needs. What the broker tells of
    rights does not do: it tells none of a group that is not there yet.
    """
    try:
        coordinator = _coordinator(admin, group)
        found = admin.describe_groups([group], coordinator)[group]
        code = admin._manager.run(_heartbeat_of_nobody, admin, group, coordinator)
    except kafka_errors.AuthorizationError as error:
        return (), type(error).__name__
    refused = kafka_errors.for_code(code)
    members = tuple(member.get("group_instance_id") for member in found["members"])
    return members, refused.__name__ if issubclass(refused, kafka_errors.AuthorizationError) else None


def _coordinator(admin: Any, group: str) -> int:
    """Return which broker keeps the group's positions: a new cluster first makes a topic for them."""
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            return int(admin._manager.run(admin._find_coordinator_id, group))
        except kafka_errors.CoordinatorNotAvailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _heartbeat_of_nobody(admin: Any, group: str, coordinator: int) -> int:
    request = HeartbeatRequest(group_id=group, generation_id=-1, member_id="graphsieve-doctor")
    answer = await admin._manager.send(request, node_id=coordinator)
    return int(answer.error_code)
