"""Published scores and late labels, joined.

A score joins its id's first label at a later position of the events topic than the score's own, because a label never
judges a score that could have known it. Every score counts once; one that was published twice (at-least-once delivery)
is told by its position, index and model. Partitions have positions of their own: a label joins within its partition.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

from pipeline.messages import ScoreMessage

_Node = tuple[int, str]  # partition, id
_Key = tuple[int, str, int, int, str]  # and position, index, model: two scores that agree in all were published twice


class Joined(NamedTuple):
    position: int  # of the event that was scored
    order: int  # among the scores, as published: tells those of one position apart
    label: int
    score: float
    is_spam: bool
    threshold: float


class JoinState:
    """Scores that wait for their label.

    A label is given when every score of an earlier position of its partition has been; the scores themselves may come
    in any order. At most `max_pending` wait, 800 bytes each: past that the one that waits longest is dropped and
    counted.
    """

    def __init__(self, max_pending: int | None = None) -> None:
        self.dropped = 0
        self._max_pending = math.inf if max_pending is None else max_pending
        self._pending: OrderedDict[_Key, tuple[int, ScoreMessage]] = OrderedDict()  # -> order of publication, score
        self._keys_of: dict[_Node, list[_Key]] = {}  # -> its keys in _pending, in the same order
        self._published = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add_score(self, score: ScoreMessage, partition: int = 0) -> None:
        key = (partition, score.id, score.position, score.index, score.model)
        if key in self._pending:
            return
        self._pending[key] = (self._published, score)
        self._keys_of.setdefault((partition, score.id), []).append(key)
        self._published += 1
        if len(self._pending) > self._max_pending:
            self._drop_oldest()

    def add_label(self, position: int, node_id: str, label: int, partition: int = 0) -> list[Joined]:
        """Return the scores that `label` judges: those of `node_id` at an earlier position that still wait."""
        node = partition, node_id
        keys = self._keys_of.pop(node, [])
        later = [key for key in keys if key[2] >= position]
        if later:
            self._keys_of[node] = later
        judged = [self._pending.pop(key) for key in keys if key[2] < position]
        return [Joined(s.position, order, label, s.score, s.is_spam, s.threshold) for order, s in judged]

    def _drop_oldest(self) -> None:
        key, _ = self._pending.popitem(last=False)
        node = key[:2]
        keys = self._keys_of[node]
        keys.remove(key)  # the first of them: the oldest of all is the oldest of its node
        if not keys:
            del self._keys_of[node]
        self.dropped += 1
