"""What a scorer publishes, without its process: messages for scores of one's choosing, or all those of a log."""

import threading
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from fakes import ListLog
from worlds import START, records, world

from consumers.score import ScoreConsumer
from pipeline.config import Config, Scores
from pipeline.decoder import Decoder
from pipeline.events import REASONS
from pipeline.log import Message, Record
from pipeline.messages import ScoreMessage, ScoreReader, ScoreWriter, is_spam
from pipeline.model import Model
from pipeline.scorer import Scored
from pipeline.snapshot_store import open_store
from pipeline.stats import ServiceStats

Form = Literal["single", "packed"]
Place = tuple[str, float, int]  # id, score, position


def written(form: Form, places: list[Place], threshold: float = 0.5, model: str = "m1") -> list[Message]:
    """The messages of one micro-batch."""
    nodes = [{"id": name, "ts": START, "stars": 1, "user": "u", "embedding": [0, 0]} for name, _, _ in places]
    positions = [position for _, _, position in places]
    moved = [record._replace(position=p) for record, p in zip(records(nodes), positions, strict=True)]
    events, bad = Decoder(world()).decode(moved)
    assert bad == []
    score = np.array([score for _, score, _ in places], np.float32)
    places = np.arange(len(score))
    scored = Scored(places, places, score, np.zeros(len(score), np.uint8), {})
    assert is_spam(score, threshold).tolist() == (score.astype(np.float64) >= threshold).tolist()
    return ScoreWriter(model, "5c43aa", threshold, form).write(events, scored, now=START + 0.5)


def read(messages: list[Message]) -> list[ScoreMessage]:
    """The scores in messages, all of which are sound."""
    reader = ScoreReader()
    scores = list(
        reader.read(Record(i, m.value, m.key, m.content_type, START, m.headers) for i, m in enumerate(messages))
    )
    assert reader.unreadable == 0
    return scores


def serve(
    model: Model, log: ListLog, state: Path, form: Form = "single", max_batch: int = 7, explain: bool = False
) -> None:
    """Score what the log holds, as a consumer does."""
    config = Config(scores=Scores(format=form, explain=explain))
    config = msgspec.structs.replace(config, score=msgspec.structs.replace(config.score, max_batch=max_batch))
    store = open_store(str(state), "", keep=2)
    consumer = ScoreConsumer(
        log, store, model, config, ServiceStats(reasons=REASONS), say=print, clock=log.clock, monotonic=log.clock
    )
    consumer.recover(threading.Event())
    consumer.run(threading.Event(), log.end(config.topics.events))
    consumer.finish()
    store.close()
