"""What the scorer publishes: score messages and dead letters, both JSON.

A score message is keyed by the node's id; id, position, index and model name it, so readers can drop repeats. A dead
letter holds the event's bytes as they came: as text where they are UTF-8, else as base64.
"""

import base64
from collections.abc import Iterator

import msgspec
import numpy as np

from pipeline.events import BadEvent, EventBatch
from pipeline.log import Message
from pipeline.scorer import Scored

MAX_RAW_BYTES = 2**20  # of a dead letter; a longer event is cut, and stands whole in the log at its position


class ScoreMessage(msgspec.Struct):
    id: str
    score: float  # 0 to 1
    is_spam: bool  # score >= threshold
    threshold: float
    model: str  # version
    ts: float  # event time, seconds since the epoch
    position: int  # of the event's message in the events topic
    index: int  # of the event in a packed message
    scored_at: float  # seconds since the epoch


class DeadLetter(msgspec.Struct, omit_defaults=True):
    position: int
    index: int
    reason: str  # one of events.REASONS
    detail: str
    bytes: int  # of the whole message
    text: str | None = None
    base64: str | None = None


_encode = msgspec.json.Encoder().encode


def score_messages(
    events: EventBatch, scored: Scored, threshold: float, model: str, now: float
) -> tuple[list[Message], int]:
    """Return the score messages of a micro-batch, and how many of them are spam."""
    place = scored.event
    scores = scored.score.astype(np.float64)
    spam = scores >= threshold
    columns = (scores.round(8), spam, events.ts[place], events.position[place], events.index[place])
    ids = [events.id[i] for i in place.tolist()]
    messages = [
        Message(_encode(ScoreMessage(name, score, is_spam, threshold, model, ts, position, index, now)), name)
        for name, score, is_spam, ts, position, index in zip(ids, *(c.tolist() for c in columns), strict=True)
    ]
    return messages, int(np.count_nonzero(spam))


def dead_letters(bad: list[BadEvent]) -> Iterator[Message]:
    """Yield a dead letter for each bad event."""
    for event in bad:
        raw = event.raw[:MAX_RAW_BYTES]
        letter = DeadLetter(event.position, event.index, event.reason, event.detail[:500], len(event.raw))
        try:
            letter.text = raw.decode()
        except UnicodeDecodeError:
            letter.base64 = base64.b64encode(raw).decode()
        yield Message(_encode(letter))
