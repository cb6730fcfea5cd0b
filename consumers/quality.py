"""What late labels say about the scores of a log, read once to its end.

`follow` stays on a log instead; both judge alike (`join`, `windows`).
"""

import math

from consumers.join import Joined, JoinState
from consumers.windows import Windows, figures_of
from pipeline.config import Quality, Topics
from pipeline.decoder import Decoder, labels_of
from pipeline.evaluate import for_json, split_rank
from pipeline.log import Log, read_to_end
from pipeline.messages import ScoreReader

TOPICS = Topics()  # a log's topics, unless told otherwise


def quality(
    log: Log,
    decoder: Decoder,
    *,
    after: int | None = None,
    last: float | None = None,
    topics: Topics = TOPICS,
    windows: Windows | None = None,
) -> dict[str, float | None]:
    """Join all scores of a log with their labels and return how good they were; `windows` take up what is read.

    `after` leaves out the scores up to that position. `last` then keeps the last share of the joined scores in order of
    their position, cut as `train` cuts off its test part: 0.3 gives the figures of its report. Needs memory for all the
    scores at once.
    """
    first = _first(log, topics.events, after)
    windows = windows or Windows(Quality())
    state, reader = JoinState(), ScoreReader()
    for records in read_to_end(log, topics.scores):
        scores = [score for score in reader.read(records) if score.position >= first]
        windows.add_scores(scores)
        for score in scores:
            state.add_score(score)
    scored = state.pending
    joined: list[Joined] = []
    for records in read_to_end(log, topics.events, first):
        events, _ = decoder.decode(records)
        windows.add_events(events)
        judged = [one for label in labels_of(events) for one in state.add_label(*label)]
        windows.add_joined(judged)
        joined += judged
    joined.sort()
    kept = joined if last is None else joined[split_rank(1 - last, len(joined)) :]
    threshold = kept[-1].threshold if kept else math.nan
    return for_json(figures_of(kept) | {"threshold": threshold, "scored": scored, "unreadable": reader.unreadable})


def _first(log: Log, topic: str, after: int | None) -> int:
    """Return the first position to judge: labels that the log no longer has judge nothing."""
    return log.begin(topic) if after is None else max(log.begin(topic), after + 1)
