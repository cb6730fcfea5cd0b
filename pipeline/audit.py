"""Audit: recompute published scores from the log with the slow twin, and say how far they are off."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.decoder import Decoder
from pipeline.errors import LogError
from pipeline.events import EventBatch
from pipeline.log import Log, check_history, read_to_end
from pipeline.messages import ScoreMessage, ScoreReader
from pipeline.model import Model
from pipeline.twin import Twin

Place = tuple[int, int]  # position of the message, index of the event in it


@dataclass
class Audit:
    compared: int
    max_abs_difference: float
    worst: ScoreMessage | None  # the score that differs most
    unreadable: int  # messages among the scores that are none


def audit(
    model: Model,
    log: Log,
    group: str,
    events_topic: str,
    scores_topic: str,
    sample: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Recompute `sample` of the model's scores that `group` published, spread evenly; LogError where there are none.

    A score rests on all that came before it, so the twin walks the whole log up to the last one: its cost is the sum
    of all the lists that were read, minutes for a hundred thousand nodes.
    """
    reader = ScoreReader()
    published = _sample(list(_published(reader, log, scores_topic, model.version)), sample)
    if not published:
        raise LogError(f"no score of model {model.version} in topic {scores_topic!r}; score the log with it first")
    check_history(log, group, events_topic)
    last = max(position for position, _ in published)
    twin, decoder = Twin(model), Decoder(model.schema)
    result = Audit(0, 0.0, None, reader.unreadable)
    for records in read_to_end(log, events_topic, end=last + 1):
        events, _ = decoder.decode(records)
        _compare(twin, events, published, result)
        if records:
            progress(records[-1].position + 1, last + 1)
    if result.compared < len(published):
        missing = len(published) - result.compared
        raise LogError(f"{missing} published scores are of events that the twin scores not; the log is not theirs")
    return result


def _compare(twin: Twin, events: EventBatch, published: dict[Place, ScoreMessage], result: Audit) -> None:
    places = list(zip(events.position.tolist(), events.index.tolist(), strict=True))
    wanted: npt.NDArray[np.bool_] = np.array([place in published for place in places], np.bool_)
    for place, (_, score) in zip(places, twin.run(events, wanted), strict=True):
        if score is None:
            continue
        message = published[place]
        difference = abs(message.score - score)
        result.compared += 1
        if result.worst is None or difference > result.max_abs_difference:
            result.max_abs_difference, result.worst = difference, message


def _published(reader: ScoreReader, log: Log, topic: str, version: str) -> Iterator[ScoreMessage]:
    for records in read_to_end(log, topic):
        yield from (message for message in reader.read(records) if message.model == version)


def _sample(messages: list[ScoreMessage], sample: int) -> dict[Place, ScoreMessage]:
    chosen = np.linspace(0, len(messages) - 1, min(sample, len(messages))).astype(int).tolist()
    return {(messages[i].position, messages[i].index): messages[i] for i in chosen}
