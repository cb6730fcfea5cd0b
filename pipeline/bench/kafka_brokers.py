"""The brokers that the Kafka benches measure on: one of their own, unless --log names others."""

import argparse
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from pipeline.broker import ROOMY, Broker
from pipeline.broker_jars import KAFKA
from pipeline.config import Config, load_config
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.topics import partition_counts
from pipeline.log_url import split_kafka_url


def called(args: argparse.Namespace) -> str:
    """Return what a report calls them."""
    return args.log or f"Kafka {KAFKA}"


@contextmanager
def brokers(args: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    """Yield their addresses, and a configuration whose topics and group are the bench's own; these topics go again."""
    config = load_config(args.config)
    with ExitStack() as stack:
        own = f"graphsieve-bench-{uuid.uuid4().hex[:8]}"
        if args.log:
            servers, _ = split_kafka_url(args.log)
            stack.callback(_remove_topics, Cluster(servers, config.kafka), own)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphsieve-bench-"))
            servers = stack.enter_context(Broker.start(Path(folder), say=print, memory=ROOMY)).address
        topics = msgspec.structs.replace(
            config.topics, events=f"{own}-events", scores=f"{own}-scores", dead_letters=f"{own}-dead-letters"
        )
        score = msgspec.structs.replace(config.score, group=own)  # one that was killed stays a member for a while
        yield servers, msgspec.structs.replace(config, topics=topics, score=score)


def _remove_topics(cluster: Cluster, prefix: str) -> None:
    """Leave nothing on a broker that is not ours."""
    admin = cluster.admin()
    admin.delete_topics([topic for topic in partition_counts(cluster) if topic.startswith(prefix)])
    admin.close()
