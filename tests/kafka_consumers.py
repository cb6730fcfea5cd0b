"""Real consumers of a real broker, to be disturbed; and what they publish, beside what an undisturbed run does.

with Deployment(broker, model, tmp_path, partitions=4) as deployment:
    consumer = deployment.consumer("--max-batch", 64)       a process, `graphsieve score`
    deployment.append(messages)
    consumer.kill()
    deployment.consumer()
    deployment.wait_until_scored()
    assert_undisturbed(deployment, undisturbed(model, messages, 4, tmp_path))
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fakes import FakeClock, ListLog
from kafka import TopicPartition
from kafka_topics import own_name
from published import serve

from pipeline.broker import Broker
from pipeline.config import Kafka
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.partitioner import partition_of
from pipeline.kafka_log.positions import Note, offset
from pipeline.kafka_log.topics import create_topic
from pipeline.log import JSON, Log, Message, Record, read_to_end
from pipeline.merged_log import MergedLog
from pipeline.messages import ScoreMessage, ScoreReader
from pipeline.model import load_model
from producers.keys import keyed
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
WAIT_SECONDS = 120.0  # for what must come to pass; long, for machines are busy
LOOK_SECONDS = 0.02

COMMAND = (sys.executable, "-m", "pipeline.cli")
QUICK = {"GRAPHSIEVE_KAFKA_SESSION": "3s"}  # who is dead is missed soon


# ---- what is scored ----


def stream(count: int, seed: int = 3) -> list[Message]:
    """A synthetic stream keyed by product, with bad events now and then, and some that are too old for their ttl."""
    messages = keyed_messages(synthetic_events(seed=seed, limit=count))
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, count, count // 100).tolist():
        messages[place] = messages[place]._replace(value=messages[place].value[: int(rng.integers(1, 40))])
    for place in rng.integers(count // 2, count, count // 500).tolist():
        messages[place] = messages[place]._replace(value=_late(place))
    return messages


def keyed_messages(lines: Iterable[bytes]) -> list[Message]:
    """Events with their product as key; what is about an event goes where that went."""
    records = (Record(i, line, None, JSON, 0.0) for i, line in enumerate(lines))
    return [Message(record.value, record.key) for record in keyed(records, "product")]


def _late(number: int) -> bytes:
    node = {"type": "node", "id": f"late{number}", "ts": 1.5e9, "user": "u", "product": "p", "stars": 5}
    return json.dumps(node | {"text_length": 1, "embedding": [0] * 8}).encode()


def parts(messages: Sequence[Message], partitions: int) -> list[list[Message]]:
    """The messages of each partition."""
    split: list[list[Message]] = [[] for _ in range(partitions)]
    for message in messages:
        split[partition_of(message.key, partitions)].append(message)
    return split


class Outputs(NamedTuple):
    """What one partition gave."""

    scores: list[ScoreMessage]
    letters: list[dict]


def undisturbed(model: Path, messages: Sequence[Message], partitions: int, folder: Path) -> list[Outputs]:
    """What an embedded run gives for each partition's part."""
    return [embedded(model, part, folder / f"undisturbed-{i}") for i, part in enumerate(parts(messages, partitions))]


def embedded(model: Path, messages: Sequence[Message], folder: Path) -> Outputs:
    log = ListLog(FakeClock(time.time()))
    log.append("events", messages)
    return served(model, log, folder)


def embedded_in_order(model: Path, records: Sequence[Record], folder: Path) -> Outputs:
    """What an embedded run gives for the records of a merged log."""
    log = ListLog(FakeClock(time.time()))
    log.topics["events"] = list(records)
    return served(model, log, folder)


def served(model: Path, log: ListLog, folder: Path) -> Outputs:
    serve(load_model(model), log, folder, max_batch=512)
    return outputs_of(log, "scores", "dead-letters")


def outputs_of(log: Log, scores: str, letters: str) -> Outputs:
    reader = ScoreReader()
    found = list(reader.read(itertools.chain.from_iterable(read_to_end(log, scores))))
    assert reader.unreadable == 0
    return Outputs(found, [json.loads(r.value) for r in itertools.chain.from_iterable(read_to_end(log, letters))])


def assert_undisturbed(deployment: "Deployment", wanted: Sequence[Outputs]) -> None:
    """Every partition gave the same scores of the same events, in the same order, once each."""
    for partition, outputs in enumerate(wanted):
        assert_same(deployment.published(partition), outputs)


def assert_same(found: Outputs, wanted: Outputs) -> None:
    places, expected = list(map(_place, found.scores)), list(map(_place, wanted.scores))
    counts = Counter(places)
    lost = [place for place in expected if place not in counts]
    doubled = [place for place, count in counts.items() if count > 1]
    assert (lost[:5], doubled[:5]) == ([], []), f"{len(lost)} lost, {len(doubled)} doubled of {len(expected)}"
    assert places == expected
    assert_same_scores(found.scores, wanted.scores)
    assert found.letters == wanted.letters


def assert_same_scores(found: Sequence[ScoreMessage], wanted: Sequence[ScoreMessage]) -> None:
    # Two batch sizes may round the last bit of a matrix product differently.
    np.testing.assert_allclose([s.score for s in found], [s.score for s in wanted], rtol=0, atol=1e-6)


def _place(score: ScoreMessage) -> tuple[str, int, int, str]:
    return score.id, score.position, score.index, score.model


# ---- who scores it ----


@dataclass
class Deployment:
    """Topics, a group and a state of a test's own, and the consumers that serve them; all are killed at its end."""

    broker: Broker
    model: Path
    folder: Path
    partitions: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)  # of every consumer
    configs: Mapping[str, str] = field(default_factory=dict)  # of the topics
    feeds: tuple[str, ...] = ("events",)  # the topics of events; several are merged
    state: Path = field(default=Path())  # by default one in `folder`

    def __post_init__(self) -> None:
        cluster = Cluster(self.broker.address)
        self.scores, self.letters, self.journal, self.group = map(own_name, ("scores", "letters", "journal", "group"))
        self.events = ",".join(map(own_name, self.feeds))
        for topic in (*self.events.split(","), self.scores, self.letters, self.journal):
            create_topic(cluster, topic, self.partitions, None, self.configs)
        if self.state == Path():
            self.state = self.folder / self.group
        self.consumers: list[Consumer] = []
        self._stable = cluster.consumer()
        self._high = cluster.consumer(isolation_level="read_uncommitted", group_id=self.group)
        self._log = KafkaLog(cluster)

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *error: object) -> None:
        for consumer in self.consumers:
            consumer.kill()
        for client in (self._stable, self._high):
            client.close(autocommit=False, timeout_ms=1000)
        self._log.close()

    def consumer(self, *options: object, python: Sequence[str] = COMMAND, **environment: str) -> "Consumer":
        """Start one more consumer of the group; `python` is what runs the command line."""
        command = [
            "--model", self.model, "--log", self.broker.url, "--events", self.events, "--scores", self.scores,
            "--dead-letters", self.letters, "--group", self.group, "--state", self.state, *options,
        ]  # fmt: skip
        name = f"{self.group}.{len(self.consumers)}"
        journal = {"GRAPHSIEVE_TOPICS_JOURNAL": self.journal}
        consumer = Consumer(command, self.folder / name, {**journal, **self.environment, **environment}, python)
        self.consumers.append(consumer)
        return consumer

    # -- what goes in --

    def append(self, messages: Sequence[Message], feed: int = 0) -> None:
        self._log.append(self.events.split(",")[feed], messages)

    @contextmanager
    def feeding(self, messages: Sequence[Message], rate: float) -> Iterator[None]:
        """Append the messages meanwhile, so many a second; the rest at once where the block is through with them."""
        hurry = threading.Event()

        def feed() -> None:
            chunk = max(1, round(rate * 0.05))
            for start in range(0, len(messages), chunk):
                self.append(messages[start : start + chunk])
                hurry.wait(0.05)

        with ThreadPoolExecutor(1) as pool:
            fed = pool.submit(feed)
            try:
                yield
            finally:
                hurry.set()
            fed.result()

    def forget_events_before(self, position: int) -> None:
        """Remove the oldest events of the first partition, as retention does."""
        admin = Cluster(self.broker.address).admin()
        admin.delete_records({TopicPartition(self.events, 0): position})
        admin.close()

    def leave_open_transaction(self) -> None:
        """Do as a consumer that is killed just before it commits its first batch."""
        cluster = Cluster(self.broker.address, Kafka(stall="10m"))
        producer = cluster.sender(0, f"graphsieve-{self.group}-{self.events}-0")
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(self.scores, b"never committed", partition=0)
        producer.flush(WAIT_SECONDS)
        moved = {TopicPartition(self.events, 0): offset(1, Note(0, "never committed"))}
        producer.send_offsets_to_transaction(moved, self.group)
        producer.close(timeout=0)

    # -- how far they are --

    def positions(self) -> list[int]:
        """Where the group stands in each partition of the events."""
        return [self._high.committed(place) or 0 for place in self._places(self.events)]

    def ends(self, topics: str) -> list[int]:
        """Where each partition ends for readers of committed messages."""
        ends: list[int] = []
        for topic in topics.split(","):
            found = self._stable.end_offsets(self._places(topic))
            ends += [found[place] for place in self._places(topic)]
        return ends

    def scored(self) -> int:
        """How many score messages can be read, and marks of transactions: it grows as long as there are new ones."""
        return sum(self.ends(self.scores))

    def is_scored(self) -> bool:
        """Is everything scored, committed and visible?"""
        if any(position < end for position, end in zip(self.positions(), self.ends(self.events), strict=True)):
            return False
        outputs = map(self._places, (self.scores, self.letters))
        return all(self._stable.end_offsets(places) == self._high.end_offsets(places) for places in outputs)

    def snapshot_positions(self, partition: int) -> list[int]:
        """The positions of a shard's snapshots."""
        names = (path.parent.name for path in self.shard_state(partition).glob("snapshot-*/manifest.json"))
        return sorted(int(name.split("-")[1]) for name in names)

    def shard_state(self, partition: int) -> Path:
        return self.state / f"{self.events}-{partition}@{self.group}"

    def wait_until_scored(self) -> None:
        self.wait_until(self.is_scored)

    def wait_for_scores(self, count: int = 1) -> None:
        """Wait for so many more."""
        before = self.scored()
        self.wait_until(lambda: self.scored() >= before + count)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for what must come to pass; where it does not, tell what the consumers said."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            in_vain = time.monotonic() > deadline or not any(consumer.runs for consumer in self.consumers)
            assert not in_vain, self._account()
            time.sleep(LOOK_SECONDS)

    def _account(self) -> str:
        places = f"positions {self.positions()} of {self.ends(self.events)}, scores {self.ends(self.scores)}"
        return "\n".join([places, *(consumer.account() for consumer in self.consumers)])

    def _places(self, topics: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics.split(",") for number in range(self.partitions)]

    # -- what comes out --

    def published(self, partition: int) -> Outputs:
        """What a reader of committed messages sees."""
        log = KafkaLog(Cluster(self.broker.address), partition)
        try:
            return outputs_of(log, self.scores, self.letters)
        finally:
            log.close()

    def merged(self, partition: int) -> list[Record]:
        """The events of several topics in the order in which they were merged."""
        base = KafkaLog(Cluster(self.broker.address), partition)
        log = MergedLog(base, self.events.split(","), self.journal, self.group)
        try:
            return list(itertools.chain.from_iterable(read_to_end(log, self.events)))
        finally:
            log.close()


class Consumer:
    """A process, `graphsieve score`. What it says goes to a file, so that it never waits for us to read."""

    name = "score"  # of the command

    def __init__(
        self, options: Sequence[object], path: Path, environment: Mapping[str, str], python: Sequence[str] = COMMAND
    ) -> None:
        self._out, self._err = path.with_suffix(path.suffix + ".out"), path.with_suffix(path.suffix + ".err")
        self.port = _free_port()
        command = [*python, self.name, *options, "--metrics-port", self.port, "--json"]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                list(map(str, command)), stdout=out, stderr=err,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
            )  # fmt: skip

    def __str__(self) -> str:
        state = "runs" if self._process.poll() is None else f"ended with {self._process.returncode}"
        return f"{self._err.stem} {state}"

    @property
    def said(self) -> str:
        return self._err.read_text(encoding="utf-8")

    @property
    def report(self) -> dict:
        """What it reports at its end."""
        report: dict = json.loads(self._out.read_text(encoding="utf-8").splitlines()[-1])
        return report

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def account(self) -> str:
        """What it has counted and said, and where its threads stand: telling that ends it."""
        state = str(self)
        counted = re.findall(r"^graphsieve_\S+_total\S* \S+$", self._metrics(), re.MULTILINE)
        if self.runs:
            self.send(signal.SIGABRT)
            self._process.wait(WAIT_SECONDS)
        return "\n".join([state, *counted, self.said[-8000:]])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM; it ends in order."""
        self.send(signal.SIGTERM)
        assert self.ended() == 0, self.said

    def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        return self._process.wait(WAIT_SECONDS)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def serves(self) -> set[int]:
        """The partitions whose shards are live."""
        states = re.findall(r'^graphsieve_shard_state{partition="(\d+)",state="live"} 1', self._metrics(), re.MULTILINE)
        return set(map(int, states))

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, or the one with these labels; 0 as long as there is none."""
        pattern = re.escape(name) if "{" in name else rf"{name}(?:{{.*}})?"
        return sum(map(float, re.findall(rf"^{pattern} (\S+)$", self._metrics(), re.MULTILINE)))

    def _metrics(self) -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            return str(page.read().decode())
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
