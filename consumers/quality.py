"""What late labels say about published scores.

    JoinState       scores that wait for their label; a label that comes later takes them out, joined
    QualityWindow   the last joined scores, and the figures over them

A score joins its id's first label at a later position of the events topic than the score's own, because a label never
judges a score that could have known it. Every score counts once; one that was published twice (at-least-once delivery)
is told by its position, index and model.

`quality` reads a log to its end; a `Follower` stays on it and keeps `QualityStats` for the metrics.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pipeline.config import Topics
from pipeline.evaluate import for_json, split_rank, summary
from pipeline.log import Log, Record, read_before, read_to_end
from pipeline.messages import ScoreMessage, ScoreReader
from pipeline.stats import QualityStats

Label = tuple[int, str, int]  # position in the events topic, id, 1 = spam or 0 = not
LabelsOf = Callable[[Sequence[Record]], Iterable[Label]]
TOPICS = Topics()  # a log's topics, unless told otherwise

_Key = tuple[str, int, int, str]  # id, position, index, model: two scores that agree in all are one, published twice


class Joined(NamedTuple):
    position: int  # of the event that was scored
    order: int  # among the scores, as published: tells those of one position apart
    label: int
    score: float
    is_spam: bool
    threshold: float


class JoinState:
    """Scores that wait for their label.

    A label is given when every score of an earlier position has been; the scores themselves may come in any order. At
    most `max_pending` wait, 600 bytes each: past that the one that waits longest is dropped and counted.
    """

    def __init__(self, max_pending: int | None = None) -> None:
        self.dropped = 0
        self._max_pending = math.inf if max_pending is None else max_pending
        self._pending: OrderedDict[_Key, tuple[int, ScoreMessage]] = OrderedDict()  # -> order of publication, score
        self._keys_of: dict[str, list[_Key]] = {}  # id -> its keys in _pending, in the same order
        self._published = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add_score(self, score: ScoreMessage) -> None:
        key = (score.id, score.position, score.index, score.model)
        if key in self._pending:
            return
        self._pending[key] = (self._published, score)
        self._keys_of.setdefault(score.id, []).append(key)
        self._published += 1
        if len(self._pending) > self._max_pending:
            self._drop_oldest()

    def add_label(self, position: int, node_id: str, label: int) -> list[Joined]:
        """Return the scores that `label` judges: those of `node_id` at an earlier position that still wait."""
        keys = self._keys_of.pop(node_id, [])
        later = [key for key in keys if key[1] >= position]
        if later:
            self._keys_of[node_id] = later
        judged = [self._pending.pop(key) for key in keys if key[1] < position]
        return [Joined(s.position, order, label, s.score, s.is_spam, s.threshold) for order, s in judged]

    def _drop_oldest(self) -> None:
        key, _ = self._pending.popitem(last=False)
        keys = self._keys_of[key[0]]
        keys.remove(key)  # the first of them: the oldest of all is the oldest of its id
        if not keys:
            del self._keys_of[key[0]]
        self.dropped += 1


class QualityWindow:
    """The last `window` joined scores (all of them if None), and what they say."""

    def __init__(self, window: int | None = None) -> None:
        self._joined: deque[Joined] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._joined)

    def add(self, joined: Iterable[Joined]) -> None:
        self._joined.extend(joined)

    def figures(self) -> dict[str, float]:
        """Return the figures of `evaluate.summary` and the threshold of the newest score.

        What counts as flagged is what was published as spam, whichever threshold held at the time.
        """
        labels = [one.label for one in self._joined]
        scores = [one.score for one in self._joined]
        flagged = [one.is_spam for one in self._joined]
        threshold = self._joined[-1].threshold if self._joined else math.nan
        return summary(labels, scores, flagged) | {"threshold": threshold}


def quality(
    log: Log,
    labels_of: LabelsOf,
    *,
    after: int | None = None,
    last: float | None = None,
    topics: Topics = TOPICS,
) -> dict[str, float | None]:
    """Join all scores of a log with their labels and return how good they were.

    `after` leaves out the scores up to that position. `last` then keeps the last share of the joined scores in order of
    their position, cut as `train` cuts off its test part: 0.3 gives the figures of its report. Needs memory for all the
    scores at once.
    """
    first = _first(log, topics.events, after)
    state, reader = JoinState(), ScoreReader()
    for records in read_to_end(log, topics.scores):
        for score in reader.read(records):
            if score.position >= first:
                state.add_score(score)
    scored = state.pending
    joined = [
        one
        for records in read_to_end(log, topics.events, first)
        for label in labels_of(records)
        for one in state.add_label(*label)
    ]
    joined.sort()
    window = QualityWindow()
    window.add(joined if last is None else joined[split_rank(1 - last, len(joined)) :])
    return for_json(window.figures() | {"scored": scored, "unreadable": reader.unreadable})


def _first(log: Log, topic: str, after: int | None) -> int:
    """Return the first position to judge: labels that the log no longer has judge nothing."""
    return log.begin(topic) if after is None else max(log.begin(topic), after + 1)


class Follower:
    """Joins a log's labels and scores as they come.

    `group` is the scorer's: whatever it has committed is published, so labels are read up to there and no further, and
    find all the scores that they judge. The scores must be one scorer's, in order of their position. Memory is bounded;
    nothing is kept on disk: a restart reads the log again.
    """

    def __init__(
        self,
        log: Log,
        labels_of: LabelsOf,
        group: str,
        stats: QualityStats,
        *,
        window: int = 10_000,
        max_pending: int = 200_000,
        after: int | None = None,
        topics: Topics = TOPICS,
    ) -> None:
        self._log, self._labels_of, self._group, self._stats, self._topics = log, labels_of, group, stats, topics
        self._state, self._window, self._reader = JoinState(max_pending), QualityWindow(window), ScoreReader()
        self._first = _first(log, topics.events, after)
        self._scores_position = log.begin(topics.scores)
        self._events_position = self._first
        self._published_to = 0  # all scores of events before this position have been read

    def run(self, stop: threading.Event, poll_seconds: float = 1.0) -> None:
        """Follow the log until `stop` is set."""
        while not stop.is_set():
            if not self.step():
                stop.wait(poll_seconds)

    def step(self) -> bool:
        """Read once, labels before scores, so that few scores wait; return whether there was anything to read."""
        if self._events_position < self._published_to:
            self._read_labels()
            return True
        return self._read_scores()

    def _read_scores(self) -> bool:
        topics = self._topics
        committed = self._log.committed(self._group, topics.events).position  # first: its scores are then before `end`
        end = self._log.end(topics.scores)
        records, self._scores_position, _ = read_before(self._log, topics.scores, self._scores_position, end)
        reached = 0
        # Scores come in order: one from before what has been published is published for the second time.
        first = max(self._first, self._published_to)
        for score in self._reader.read(records):
            if score.position >= first:
                self._state.add_score(score)
                reached = score.position
        if self._scores_position == end:
            reached = committed
        self._published_to = max(self._published_to, min(reached, committed))
        self._update_stats()
        return bool(records) or self._events_position < self._published_to

    def _read_labels(self) -> None:
        records, self._events_position, _ = read_before(
            self._log, self._topics.events, self._events_position, self._published_to
        )
        for label in self._labels_of(records):
            joined = self._state.add_label(*label)
            self._stats.joined += len(joined)
            self._window.add(joined)
        self._update_stats()

    def _update_stats(self) -> None:
        stats, figures = self._stats, self._window.figures()
        stats.pending, stats.dropped = self._state.pending, self._state.dropped
        stats.unreadable = self._reader.unreadable
        stats.window = len(self._window)
        stats.auroc, stats.average_precision = figures["auroc"], figures["ap"]
        stats.precision, stats.recall = figures["precision"], figures["recall"]
        stats.threshold, stats.spam_share = figures["threshold"], figures["spam_share"]
