"""What one shard scored lately, for the live page: its newest spam, and the groups that spam struck.

    newest   at most NEWEST     what the newest micro-batches with spam said of it, columns; put together when asked for
    lists    (K, R)  int32      of the last K = WINDOW scores, a ring: the list that the node reads, -1 none
    spam     (K,)    bool       ... whether it is spam

R counts all relations. To note a micro-batch costs some operations on arrays, whatever it holds; names are looked up by
who asks. Memory: K * (4 R + 1) bytes, and the newest ids.

One thread notes, others read, without a lock: what they read may be of two neighbouring micro-batches. Counts are exact
over the window, but for lists that the graph has forgotten: such a group is left out, and if another one got its list
within the window, it counts as that one.
"""

from collections import deque
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


class _Columns(NamedTuple):
    """The spam of a micro-batch, as it came."""

    id: list[str]
    score: npt.NDArray[np.float32]
    ts: npt.NDArray[np.float64]
    position: npt.NDArray[np.int64]
    place: npt.NDArray[np.int32]  # `index` of Spam; a tuple has a method of that name

    def each(self) -> list[Spam]:
        numbers = (column.tolist() for column in self[1:])
        return list(map(Spam, self.id, *numbers))


class _Grouping(NamedTuple):
    """A group relation."""

    relation: int  # among all relations
    name: str
    fields: tuple[str, ...]


class Recent:
    """What the shard of a graph scored lately."""

    def __init__(self, schema: Schema, graph: Graph) -> None:
        by_fields: dict[tuple[str, ...], _Grouping] = {}
        for relation, about in schema.groups:
            fields = tuple(about.group_by)
            by_fields.setdefault(fields, _Grouping(relation, schema.relation_names[relation], fields))
        self._groupings = list(by_fields.values())  # those of the same fields would say the same twice
        self._graph = graph
        self._lists = np.full((WINDOW, len(schema.relations)), -1, np.int32)
        self._spam = np.zeros(WINDOW, np.bool_)
        self._newest: deque[_Columns] = deque(maxlen=NEWEST)
        self.noted = 0  # scores so far

    def lists_of(self, row: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the lists of the last rows that the window has room for, as they are now.  # (B,) -> (at most B, R)"""
        return self._graph.lists_of(row[-WINDOW:])

    def note(
        self, events: EventBatch, scored: Scored, spam: npt.NDArray[np.bool_], lists: npt.NDArray[np.int32]
    ) -> None:
        """Note a micro-batch.

        spam   (B,) which of its scores are
        lists  of its rows, as `lists_of` gave them right after these had read them
        """
        hits = np.flatnonzero(spam)[-NEWEST:]
        if len(hits):
            at = scored.event[hits]
            where = events.ts[at], events.position[at], events.index[at]
            self._newest.append(_Columns(events.id[at].known(), scored.score[hits], *where))
        struck = spam[-WINDOW:]
        start = (self.noted + len(spam) - len(struck)) % WINDOW
        room = min(WINDOW - start, len(struck))
        self._lists[start : start + room], self._spam[start : start + room] = lists[:room], struck[:room]
        rest = len(struck) - room
        self._lists[:rest], self._spam[:rest] = lists[room:], struck[room:]
        self.noted += len(spam)

    @property
    def newest(self) -> list[Spam]:
        """The newest spam scores, the newest first."""
        found: list[Spam] = []
        for columns in reversed(self._newest.copy()):
            found += columns.each()[::-1]
            if len(found) >= NEWEST:
                break
        return found[:NEWEST]

    @property
    def window(self) -> int:
        """How many scores the groups are counted over."""
        return min(self.noted, WINDOW)

    def groups(self, most: int) -> list[Group]:
        """Return the groups with at least two spam scores in the window, those of the greatest weight first."""
        lists, spam = self._lists.copy(), self._spam.copy()
        found: list[Group] = []
        for one in self._groupings:
            numbers, struck, scored = _heaviest(lists[:, one.relation], spam, most)
            keys = self._graph.group_keys(numbers)
            counted = zip(keys, struck, scored, strict=True)
            found += [Group(one.name, one.fields, key, *counts) for key, *counts in counted if key is not None]
        return sorted(found, key=lambda group: group.weight, reverse=True)[:most]


def _heaviest(
    lists: npt.NDArray[np.int32], spam: npt.NDArray[np.bool_], most: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the numbers of the lists of the greatest weight, and how many spam and how many scores each has."""
    numbers, hits = np.unique(lists[spam & (lists >= 0)], return_counts=True)
    scored = np.unique(lists[np.isin(lists, numbers)], return_counts=True)[1]
    heaviest = np.argsort(-(hits * hits / scored), kind="stable")
    best = heaviest[hits[heaviest] > 1][:most]
    return numbers[best].tolist(), hits[best].tolist(), scored[best].tolist()
