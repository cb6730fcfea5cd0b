"""How long it takes from producing an event to the moment at which a reader of committed messages sees its score.

    a process that produces      one event after the other, at a steady pace; it notes when it sent each
    `graphsieve score`           a process, as it is deployed: membership, shard, snapshots
    this process                 reads the scores topic, committed messages only, and notes when each score was there

All clocks are the same machine's. The parts of the way are medians of their own, so their sum is about the median:

    arrive    to the broker, and from there to the scorer
    wait      in the scorer until the micro-batch begins: for company, and for the batch before
    decode, score, commit      the scorer's own stages
    visible   from the end of the commit to the reader
"""

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.bench.kafka_process import Client, Scorer, clients, measuring, producer, scorer
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.errors import LogError
from pipeline.kafka_log.log import KafkaLog
from pipeline.kafka_log.topics import create_topic
from pipeline.log import JSON, Message, Record
from pipeline.messages import ScoreReader
from pipeline.model import Model
from pipeline.page import Table
from pipeline.schema import Schema

Delivery = Literal["exactly-once", "at-least-once"]
Figures = dict[str, Any]

RATES = (1_000, 5_000)  # events a second
SECONDS = 10.0  # of each measurement
WARM_EVENTS = 1_000  # before it, unmeasured
# For company. A transaction costs milliseconds of CPU, however small: more of them make nothing faster.
MAX_WAIT: dict[Delivery, str] = {"exactly-once": "5ms", "at-least-once": "1ms"}
PATIENCE_SECONDS = 60.0  # for scores that do not come
READ_SECONDS = 0.05
READ_RECORDS = 5_000


def run(
    servers: str, config: Config, config_file: Path | None, model: Model, lines: Sequence[bytes], repeats: int
) -> list[Figures]:
    """Measure either delivery with each client at every rate, in turn; return medians over the repeats."""
    found: dict[tuple[Delivery, Client, int], list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        for repeat in range(repeats):
            for served in itertools.product(get_args(Delivery), clients(), RATES):
                delivery, client, rate = served
                own = f"{config.topics.events}-{repeat}-{delivery}-{client}-{rate}"
                ours = _own(config, delivery, client, own)
                run = Run(servers, ours, model.schema, rate, lines[: WARM_EVENTS + int(rate * SECONDS)])
                with scorer(servers, ours, config_file, Path(folder) / "model", Path(folder) / own) as process:
                    found.setdefault(served, []).append(run.measure(process))
    return [
        {"delivery": delivery, "client": client, "offered": rate, **_summary(runs)}
        for (delivery, client, rate), runs in found.items()
    ]


def table(latency: list[Figures]) -> Table:
    header = ["delivery", "client", "events/s", "p50 ms", "p99 ms", "p99 of each repeat", "events a batch"]
    cells = [
        [row["delivery"], row["client"], f"{row['offered']:,}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}"]
        + [", ".join(f"{p99:.1f}" for p99 in row["p99_ms_of_each"]), f"{row['batch_p50']:.0f}"]
        + [f"{ms:.1f}" for ms in row["parts_ms"].values()]
        for row in latency
    ]
    return Table("latency", [*header, *latency[0]["parts_ms"]], cells)


def _own(config: Config, delivery: Delivery, client: Client, name: str) -> Config:
    """Topics and a group of one measurement, of which positions are known: they count from 0."""
    replace = msgspec.structs.replace
    return replace(
        config,
        topics=replace(config.topics, events=f"{name}-events", scores=f"{name}-scores"),
        score=replace(config.score, group=name, max_wait=MAX_WAIT[delivery]),
        kafka=replace(config.kafka, delivery=delivery, client=client),
    )


@dataclass
class Run:
    """One measurement."""

    servers: str
    config: Config
    schema: Schema
    rate: int
    lines: Sequence[bytes]

    position: list[int] = field(default_factory=list, init=False)  # of each score, in the order in which they came
    scored_at: list[float] = field(default_factory=list, init=False)
    seen_at: list[float] = field(default_factory=list, init=False)

    def measure(self, process: Scorer) -> Figures:
        """Warm the scorer up, then produce at a steady pace and watch the scores come."""
        cluster = measuring(self.servers, self.config)
        for topic in (self.config.topics.events, self.config.topics.scores):
            create_topic(cluster, topic, 1, None, {})
        log = KafkaLog(cluster, 0)
        try:
            log.append(self.config.topics.events, list(map(Message, self.lines[:WARM_EVENTS])))
            reading = self._read(log, process)
            self._wait_for(reading, self._targets(self.lines[:WARM_EVENTS]))
            with producer(cluster, self.config.topics.events, list(self.lines[WARM_EVENTS:]), self.rate) as sent:
                self._wait_for(reading, self._targets(self.lines), sent)
                sent_at = np.array(sent.recv())
            return self._figures(sent_at, process.stop())
        finally:
            log.close()

    def _targets(self, lines: Sequence[bytes]) -> int:
        """How many scores the events ask for."""
        records = [Record(i, line, None, JSON, float("nan")) for i, line in enumerate(lines)]
        return int(Decoder(self.schema).decode(records)[0].target.sum())

    def _read(self, log: KafkaLog, process: Scorer) -> Iterator[int]:
        """Read scores for ever; yield how many there are by now."""
        topic, position, reader = self.config.topics.scores, 0, ScoreReader()
        while True:
            read = log.read_batch(topic, position, READ_RECORDS, READ_SECONDS)
            now, position = time.time(), read.position
            for score in reader.read(read.records):
                self.position.append(score.position)
                self.scored_at.append(score.scored_at)
                self.seen_at.append(now)
            process.check()
            yield len(self.position)

    def _wait_for(self, reading: Iterator[int], scores: int, sent: Connection | None = None) -> None:
        """Read until so many scores are there, and the producer has said that it is done."""
        patience = PATIENCE_SECONDS + len(self.lines) / self.rate
        deadline = time.monotonic() + patience
        for count in reading:
            if count >= scores and (sent is None or sent.poll()):
                return
            if time.monotonic() > deadline:
                raise LogError(
                    f"{scores} scores expected in {patience:.0f} s, {count} came; see whether the broker is well"
                )

    def _figures(self, sent_at: npt.NDArray[np.float64], report: dict[str, Any]) -> Figures:
        position = np.array(self.position)
        measured = position > WARM_EVENTS  # the producer's first waited for its client
        scored_at, seen_at = np.array(self.scored_at)[measured], np.array(self.seen_at)[measured]
        position = position[measured]
        sent = sent_at[position - WARM_EVENTS]
        took = (seen_at - sent) * 1e3
        stages = {stage: times["p50_us"] / 1e3 for stage, times in report["stages"].items()}
        score = sum(stages[stage] for stage in "ABCD")
        wait = max(0.0, report["p50_ms"] - stages["decode"] - score - stages["commit"])
        arrive = median((scored_at - sent) * 1e3) - wait - stages["decode"] - score
        visible = median((seen_at - scored_at) * 1e3) - stages["commit"]
        return {
            "p50_ms": float(np.percentile(took, 50)),
            "p99_ms": float(np.percentile(took, 99)),
            "max_ms": float(took.max()),
            "max_wait": self.config.score.max_wait,
            "batches": _batches(position, scored_at),
            "events_per_s": (len(sent_at) - 2) / (sent_at[-1] - sent_at[1]),
            "parts_ms": {
                "arrive": float(arrive), "wait": wait, "decode": stages["decode"], "score": score,
                "commit": stages["commit"], "visible": float(visible),
            },
        }  # fmt: skip


def _batches(position: npt.NDArray[np.int64], scored_at: npt.NDArray[np.float64]) -> list[int]:
    """How many events each micro-batch had: those of one were scored at one instant."""
    last = np.flatnonzero(np.diff(scored_at, append=np.inf))
    sizes: list[int] = np.diff(position[last]).tolist()
    return sizes


def _summary(runs: list[Figures]) -> Figures:
    batches = [size for run in runs for size in run["batches"]]
    return {
        **{name: round(median(run[name] for run in runs), 3) for name in ("p50_ms", "p99_ms", "max_ms")},
        "p99_ms_of_each": [round(run["p99_ms"], 2) for run in runs],
        "events_per_s": round(median(run["events_per_s"] for run in runs)),
        "max_wait": runs[0]["max_wait"],
        "batch_p50": float(np.percentile(batches, 50)),
        "batch_p99": float(np.percentile(batches, 99)),
        "parts_ms": {
            part: round(median(run["parts_ms"][part] for run in runs), 3) for part in runs[0]["parts_ms"]
        },
    }  # fmt: skip
