"""Which log a URL means: the one place that knows them all.

    sqlite:FILE                                          the embedded log
    FILE.jsonl, FILE.jsonl.gz, FILE.jsonl.zst, file:FILE a recorded file
    kafka://HOST:PORT[,HOST:PORT][/TOPIC]                Apache Kafka; with a topic where a command is about one

Where `topics.events` names several topics, they are merged into one. Kafka's client is imported when a URL asks for it.
"""

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pipeline.config import Config
from pipeline.errors import ConfigError, LogError
from pipeline.log import Log
from pipeline.recorded import RecordedFile
from pipeline.sqlite_log import SqliteLog

if TYPE_CHECKING:
    from pipeline.kafka_log.client import Cluster
    from pipeline.kafka_log.membership import Served

KAFKA = "kafka://HOST:PORT[,HOST:PORT]"
EXPECTED = f"sqlite:FILE, or a recorded file (.jsonl, .jsonl.gz, .jsonl.zst, file:PATH), or {KAFKA}"

DEFAULTS = Config()

_HOST_PORT = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
_TOPIC = r"[A-Za-z0-9._-]+"
_KAFKA_URL = re.compile(rf"kafka://({_HOST_PORT}(?:,{_HOST_PORT})*)(?:/((?:{_TOPIC}(?:,{_TOPIC})*)?))?")


class Membership(Protocol):
    """This process's place among the consumers of its group."""

    @property
    def rebalances(self) -> int: ...

    def poll(self) -> None: ...

    def close(self, timeout_seconds: float = ...) -> None: ...


def open_log(url: str, config: Config = DEFAULTS, *, create: bool = True, partition: int | None = None) -> Log:
    """Open the log of a URL, with `topics.events` as its events; with `create=False` it must exist.

    partition  which one of each topic; None: the only one, and appends go where their keys say
    """
    return _merged(_open(url, config, create, partition), config, live=False)


def open_shard_log(url: str, config: Config, say: Callable[[str], None], partition: int, lost: threading.Event) -> Log:
    """Open what one shard reads and writes: its partition, or all there is; `lost` is set once it is another's."""
    if is_kafka(url) and "," in config.topics.events and config.kafka.delivery == "at-least-once":
        raise ConfigError(
            f"kafka.delivery is 'at-least-once', and topics.events merges {config.topics.events}: their order is kept "
            "by transactions; use exactly-once"
        )
    base = _open_kafka(url, config, partition, say, lost) if is_kafka(url) else _open(url, config, False, partition)
    return _merged(base, config, live=True)


def join_group(url: str, config: Config, served: "Served") -> Membership | None:
    """Join the group `score.group`, whose members share the partitions; None for a log that has one partition."""
    if not is_kafka(url):
        return None
    cluster = open_cluster(url, config)
    from pipeline.kafka_log.membership import Membership as KafkaMembership

    return KafkaMembership(cluster, config.score.group, config.topics.events.split(",")[0], served)


def partitions_of(url: str, config: Config) -> list[int]:
    """Return the partitions of the events, which are those of the scores; of a log that is not Kafka's, one."""
    if not is_kafka(url):
        return [0]
    cluster = open_cluster(url, config)
    from pipeline.kafka_log.topics import shared_partitions

    return list(range(shared_partitions(cluster, [*config.topics.events.split(","), config.topics.scores])))


def is_kafka(url: str) -> bool:
    return url.startswith("kafka://")


def split_kafka_url(url: str) -> tuple[str, str | None]:
    """Return the servers and the topic, or several with commas between; LogError says what is wrong with the URL."""
    found = _KAFKA_URL.fullmatch(url)
    if found is None:
        hint = "; user and password belong in kafka.username and GRAPHSIEVE_KAFKA_PASSWORD" if "@" in url else ""
        raise LogError(f"log {_without_password(url)!r}: expected {KAFKA}[/TOPIC]{hint}")
    return found[1], found[2] or None


def split_topic(url: str) -> tuple[str, str | None]:
    """Return a log's URL, and the topic that was named in it."""
    if not is_kafka(url):
        return url, None
    servers, topic = split_kafka_url(url)
    return f"kafka://{servers}", topic


def open_cluster(url: str, config: Config) -> "Cluster":
    """Return the brokers that a URL names; ConfigError where the client is not installed."""
    servers, _ = split_kafka_url(url)
    try:
        from pipeline.kafka_log.client import Cluster
    except ModuleNotFoundError as error:
        raise ConfigError(f"a kafka:// log needs the module {error.name}: pip install 'graphsieve[kafka]'") from None
    return Cluster(servers, config.kafka)


def _open(url: str, config: Config, create: bool, partition: int | None) -> Log:
    if is_kafka(url):
        return _open_kafka(url, config, partition)
    if partition:
        raise LogError(f"log {url!r} has no partition {partition}: only topics of Kafka have several; leave it out")
    scheme, colon, path = url.partition(":")
    if colon and scheme == "sqlite" and path:
        return SqliteLog(path, create)
    if (colon and scheme == "file" and path) or url.endswith((".jsonl", ".gz", ".zst")):
        return RecordedFile(path if scheme == "file" else url, config.topics.events, create)
    raise LogError(f"log {_without_password(url)!r}: expected {EXPECTED}")


def _open_kafka(
    url: str,
    config: Config,
    partition: int | None,
    say: Callable[[str], None] = lambda line: None,
    lost: threading.Event | None = None,
) -> Log:
    _, topic = split_kafka_url(url)
    if topic is not None:
        raise LogError(f"log {url!r}: expected {KAFKA}; topics are named by --events, --scores and --dead-letters")
    cluster = open_cluster(url, config)
    from pipeline.kafka_log.log import KafkaLog

    return KafkaLog(cluster, partition, say, lost)


def _merged(base: Log, config: Config, live: bool) -> Log:
    topics = config.topics.events.split(",")
    if len(topics) == 1:
        return base
    from pipeline.merged_log import MergedLog

    return MergedLog(base, topics, config.topics.journal, config.score.group, live)


def _without_password(url: str) -> str:
    return re.sub(r"//.*@", "//...@", url)
