"""What one shard scored lately, for the live page: its newest spam, and the groups that spam struck.

    newest   at most NEWEST     the last spam scores, newest first; replaced as a whole, never changed
    lists    (K, R)  int32      of the last K = WINDOW scores, a ring: the list that the node reads, -1 none
    spam     (K,)    bool       ... whether it is spam
    keys     K                  ... if so, the keys of its groups, cut to KEPT characters

R counts all relations, G those of groups, less any that groups by the same fields as an earlier one.

To note a micro-batch costs some operations on arrays, and O(1) for each of its spam; a score that is no spam gets no
object of its own. Memory: K * (4 R + 9) bytes, and the keys.

One thread notes, others read, without a lock: what they read may be of two neighbouring micro-batches. Counts are exact
over the window but in one case: a list that was forgotten, and whose number another group got within the window, counts
as that one's.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.events import EventBatch
from pipeline.graph import Graph
from pipeline.schema import Schema
from pipeline.scorer import Scored

NEWEST = 50
WINDOW = 5000
KEPT = 256


class Spam(Struct, frozen=True, gc=False):
    """A score at or above its threshold."""

    id: str
    score: float
    ts: float  # event time, seconds since the epoch
    position: int
    index: int  # of the event in a packed message


class Group(NamedTuple):
    """A group that spam struck, as the window has it."""

    relation: str
    fields: tuple[str, ...]  # that the relation groups by
    key: str
    spam: int
    scored: int

    @property
    def weight(self) -> float:
        """What groups are ranked by: much spam, and little else."""
        return self.spam * self.spam / self.scored


class _Grouping(NamedTuple):
    """A group relation."""

    group: int  # among the schema's group relations
    relation: int  # among all relations
    name: str
    fields: tuple[str, ...]


class Recent:
    """What the shard of a schema scored lately."""

    def __init__(self, schema: Schema) -> None:
        by_fields: dict[tuple[str, ...], _Grouping] = {}
        for group, (relation, about) in enumerate(schema.groups):
            fields = tuple(about.group_by)
            by_fields.setdefault(fields, _Grouping(group, relation, schema.relation_names[relation], fields))
        self._groupings = list(by_fields.values())  # G
        self._lists = np.full((WINDOW, len(schema.relations)), -1, np.int32)
        self._spam = np.zeros(WINDOW, np.bool_)
        self._keys: list[tuple[str | None, ...]] = [()] * WINDOW
        self.noted = 0  # scores so far
        self.newest: tuple[Spam, ...] = ()

    def note(self, events: EventBatch, scored: Scored, spam: npt.NDArray[np.bool_], graph: Graph) -> None:
        """Note a micro-batch right after it was scored; `spam` tells which of its B scores are.  # (B,)"""
        lists = graph.lists_of(scored.row)
        place = (self.noted + np.arange(len(spam))) % WINDOW
        hits = np.flatnonzero(spam)
        if len(hits):
            columns = lists[hits].T.tolist()
            keys = (_cut(graph.group_keys(one.group, columns[one.relation])) for one in self._groupings)
            for one, struck in zip(place[hits].tolist(), zip(*keys, strict=True), strict=False):
                self._keys[one] = struck
            self._note_newest(events, scored, hits[-NEWEST:][::-1])
        self._lists[place], self._spam[place] = lists, spam
        self.noted += len(spam)

    def _note_newest(self, events: EventBatch, scored: Scored, newest: npt.NDArray[np.int64]) -> None:
        at = scored.event[newest]
        ids = (events.id[i] for i in at.tolist())
        numbers = (scored.score[newest], events.ts[at], events.position[at], events.index[at])
        spam = map(Spam, ids, *(column.tolist() for column in numbers))
        self.newest = (*spam, *self.newest)[:NEWEST]

    @property
    def window(self) -> int:
        """How many scores the groups are counted over."""
        return min(self.noted, WINDOW)

    def groups(self, most: int) -> list[Group]:
        """Return the groups with at least two spam scores in the window, those of the greatest weight first."""
        lists, spam, keys = self._lists.copy(), self._spam.copy(), list(self._keys)
        found = [
            group
            for i, one in enumerate(self._groupings)
            for place, struck, scored in _heaviest(lists[:, one.relation], spam, most)
            if (key := keys[place][i] if keys[place] else None) is not None
            for group in [Group(one.name, one.fields, key, struck, scored)]
        ]
        return sorted(found, key=lambda group: group.weight, reverse=True)[:most]


def _cut(keys: Iterable[str | None]) -> list[str | None]:
    return [key and key[:KEPT] for key in keys]


def _heaviest(lists: npt.NDArray[np.int32], spam: npt.NDArray[np.bool_], most: int) -> list[tuple[int, int, int]]:
    """Return the place of a spam score, the number of spam and of all scores, of the lists of the greatest weight."""
    struck = np.flatnonzero(spam & (lists >= 0))
    numbers, first, hits = np.unique(lists[struck], return_index=True, return_counts=True)
    scored = np.unique(lists[np.isin(lists, numbers)], return_counts=True)[1]
    heaviest = np.argsort(-(hits * hits / scored), kind="stable")
    best = heaviest[hits[heaviest] > 1][:most]
    return list(zip(struck[first[best]].tolist(), hits[best].tolist(), scored[best].tolist(), strict=True))
