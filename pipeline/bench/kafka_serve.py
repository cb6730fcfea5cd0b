"""One run of a contender of `bench kafka`: the real consumer over a topic, the bare loop, or scoring without Kafka."""

import math
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from consumers.score import ScoreConsumer
from consumers.service import warm_up
from pipeline.bench.kafka_process import Client
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.events import REASONS
from pipeline.kafka_log.bare import echo
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import Message, Move, Read, Record, Underway
from pipeline.messages import ScoreWriter
from pipeline.model import Model
from pipeline.scorer import Scorer
from pipeline.snapshot_store import open_store
from pipeline.stats import STAGES, ServiceStats

PARTS = ("poll", *STAGES[:-1], "messages", "commit", "rest")


@dataclass(frozen=True)
class Contender:
    """How the events come, and how they are served."""

    form: Literal["single", "packed"]  # of events and scores
    model: Model
    batch: int  # messages
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    client: Client = "kafka-python"


@dataclass
class Place:
    """Where the contenders read and write."""

    servers: str
    config: Config  # its topics are the bench's own
    messages: dict[str, list[Message]]  # what is on the topic of each form
    topics: dict[str, str]  # by form
    events: int  # that the messages of either form hold
    samples: dict[str, Message] = field(default_factory=dict)  # a score message of each form

    def cluster(self, contender: Contender) -> Cluster:
        settings = msgspec.structs.replace(self.config.kafka, delivery=contender.delivery, client=contender.client)
        return Cluster(self.servers, settings)


class _TimedLog(KafkaLog):
    """Counts the seconds that the loop spends in the log, and before a commit with its messages."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, 0)
        self.sample: Message | None = None
        self._asked = 0.0
        self.count_anew()

    def count_anew(self) -> None:
        """Forget what was counted: to recover takes the log's time too."""
        self.seconds = dict.fromkeys(("poll", "messages", "commit"), 0.0)

    def clock(self) -> float:
        """The consumer's clock: it asks for the time just before it makes the messages of a batch."""
        self._asked = time.perf_counter()
        return time.time()

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        began = time.perf_counter()
        read = super().read_batch(topic, position, max_records, timeout_seconds)
        self.seconds["poll"] += time.perf_counter() - began
        return read

    def commit(
        self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]
    ) -> Underway | None:
        began = time.perf_counter()
        self.seconds["messages"] += began - self._asked
        underway = super().commit(group, moves, outputs)
        self.seconds["commit"] += time.perf_counter() - began
        self.sample = next((said[0] for said in outputs.values()), self.sample)
        return underway

    def flush(self) -> None:
        began = time.perf_counter()
        super().flush()
        self.seconds["commit"] += time.perf_counter() - began


def serve(place: Place, contender: Contender, group: str) -> dict[str, Any]:
    """Run the consumer over the whole topic, until all is committed; snapshots are left out.

    On one thread, as where each core has a shard: what two do at once would not add up to the time that it takes.
    """
    config = _config(place, contender, group)
    stats = ServiceStats(reasons=REASONS)
    warm_up(contender.model)
    log = _TimedLog(place.cluster(contender))
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, "", config.score.snapshots_kept)
        consumer = ScoreConsumer(
            log, store, contender.model, config, stats, lambda line: None, log.clock, core_is_free=lambda: False
        )
        consumer.recover(threading.Event())
        end = log.end(config.topics.events)
        log.count_anew()
        cpu, began = time.process_time(), time.perf_counter()
        consumer.run(threading.Event(), end)
        consumer.finish()
        seconds = time.perf_counter() - began - stats.snapshot_seconds
        cpu = time.process_time() - cpu
        store.close()
    log.close()
    if log.sample is not None:
        place.samples[contender.form] = log.sample
    return {
        "events_per_s": place.events / seconds,
        "cpu_us_per_event": cpu / place.events * 1e6,
        "events_per_batch": place.events / stats.micro_batch_events.count,
        "us_per_event": _parts(stats, log.seconds, seconds, place.events),
    }


def _config(place: Place, contender: Contender, group: str) -> Config:
    config, replace = place.config, msgspec.structs.replace
    return replace(
        config,
        score=replace(config.score, group=group, max_batch=contender.batch),
        topics=replace(config.topics, events=place.topics[contender.form]),
        scores=replace(config.scores, format=contender.form),
    )


def _parts(stats: ServiceStats, in_log: Mapping[str, float], seconds: float, events: int) -> dict[str, float]:
    """Where the loop's time went, microseconds an event; a commit is finished beside the loop, which waits for it."""
    parts: dict[str, float] = {stage: stats.stage_seconds[stage].sum for stage in STAGES} | dict(in_log)
    parts["rest"] = seconds - sum(parts.values())
    return {part: parts[part] / events * 1e6 for part in PARTS}


def bare(place: Place, contender: Contender, group: str) -> dict[str, Any]:
    """Poll the same messages and produce as many scores, in as many transactions, without looking at any."""
    topics, sample = place.topics, place.samples[contender.form]
    share = 0.5 if contender.form == "single" else 1 / contender.batch  # a review is two events: itself, its label
    cpu = time.process_time()
    cluster, topic, to = place.cluster(contender), topics[contender.form], place.config.topics.scores
    _, seconds = echo(cluster, topic, to, group, contender.batch, share, sample)
    return {
        "events_per_s": place.events / seconds,
        "cpu_us_per_event": (time.process_time() - cpu) / place.events * 1e6,
    }


def score_only(place: Place, contender: Contender, _group: str) -> dict[str, Any]:
    """Decode and score the same messages and write score messages, without a log."""
    model, now = contender.model, time.time()
    records = [
        Record(i, value, key, content_type, now)
        for i, (value, key, content_type, _) in enumerate(place.messages[contender.form])
    ]
    decoder, scorer = Decoder(model.schema), Scorer(model, time.perf_counter)
    writer = ScoreWriter(model.version, model.schema.fingerprint, model.threshold, contender.form)
    warm_up(model)
    seconds = dict.fromkeys(PARTS, 0.0)
    began = time.perf_counter()
    for start in range(0, len(records), contender.batch):
        times = [time.perf_counter()]
        events, _ = decoder.decode(records[start : start + contender.batch])
        times.append(time.perf_counter())
        scored = scorer.score(events)
        times.append(time.perf_counter())
        writer.write(events, scored, now)
        seconds["messages"] += time.perf_counter() - times[2]
        seconds["decode"] += times[1] - times[0]
        for stage, took in scored.stage_seconds.items():
            seconds[stage] += took
    whole = time.perf_counter() - began
    seconds["rest"] = whole - math.fsum(seconds.values())
    return {
        "events_per_s": place.events / whole,
        "us_per_event": {part: took / place.events * 1e6 for part, took in seconds.items()},
    }
