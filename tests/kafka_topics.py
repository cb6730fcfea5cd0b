"""Topics of a test's own on the broker that tests share."""

import itertools
import os
import uuid
from collections.abc import Mapping, Sequence

from pipeline.config import Kafka
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.topics import create_topic
from pipeline.log import Log, Message, Move, Progress, Read

_RUN, _COUNT = uuid.uuid4().hex[:6], itertools.count()


def own_name(name: str) -> str:
    """A name that no other test uses."""
    return f"{name}-{_RUN}-{os.getpid()}-{next(_COUNT)}"


def make_topics(address: str, *topics: str, partitions: int = 1) -> list[str]:
    """Make topics of names of their own, one for each that is given."""
    names = [own_name(topic) for topic in topics]
    for name in names:
        create_topic(Cluster(address), name, partitions, None, {})
    return names


class ApartLog(Log):
    """A KafkaLog whose topics "events", "scores" and "dead-letters", and whose groups, are the test's own."""

    def __init__(self, address: str, settings: Kafka | None = None) -> None:
        topics = ("events", "scores", "dead-letters")
        self._names = dict(zip(topics, make_topics(address, *topics), strict=True))
        self._suffix = own_name("")
        self._log = KafkaLog(Cluster(address, settings or Kafka()))

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        return self._log.append(self._names[topic], messages)

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        """Give the broker a moment for what a test expects to be there at once."""
        log, name = self._log, self._names[topic]
        records: list = []
        while True:
            room = max_records - len(records)
            read = log.read_batch(name, position, room, timeout_seconds)
            records += read.records
            position = read.position
            if len(records) == max_records or (not read.records and position >= log.end(name)):
                return Read(records, position, read.end)

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        self._log.wait({self._names[topic]: position for topic, position in positions.items()}, timeout_seconds)

    def commit(self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> None:
        named = {self._names[topic]: move for topic, move in moves.items()}
        self._log.commit(group + self._suffix, named, {self._names[t]: said for t, said in outputs.items()})

    def committed(self, group: str, topic: str) -> Progress:
        return self._log.committed(group + self._suffix, self._names[topic])

    def flush(self) -> None:
        self._log.flush()

    def end(self, topic: str) -> int:
        return self._log.end(self._names[topic])

    def close(self) -> None:
        self._log.close()
