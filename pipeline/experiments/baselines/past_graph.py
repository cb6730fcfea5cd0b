"""The explicit graph that a sampler would see: an edge from each earlier member of a list to whoever reads the list.

It is made from the operation logs, so it holds just what the lists held: members that left are gone, and all edges lead
forward in time. Groups are large, so only the most recent members of a list are kept, as the paper's sampler keeps 32.

    relation r:  source[r], target[r]   (E_r,) entries, targets ascending, source < target
"""

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.experiments.baselines.information import distinct_relations
from pipeline.history import History
from pipeline.operations import ADD, READ, Operations

Entries = npt.NDArray[np.int64]


class PastEdges(NamedTuple):
    source: Entries
    target: Entries

    def before(self, entry: int) -> "PastEdges":
        """Return the edges among the entries before `entry`: all that a model learns from."""
        count = int(np.searchsorted(self.target, entry))
        return PastEdges(self.source[:count], self.target[:count])


def past_edges(history: History, most: int) -> list[PastEdges]:
    """Return the edges of each relation that differs in its members; a target has at most `most` sources in each."""
    graph = _Members(distinct_relations(history.schema), most)
    for start, operations in history.operations():
        graph.obey(start, operations)
    columns = [[np.array(numbers, np.int64) for numbers in found] for found in graph.edges.values()]
    return [PastEdges(source, np.repeat(reader, count)) for source, reader, count in columns]


class _Members:
    """Who stands in each list, oldest first; `edges` collects (sources, readers, sources of each reader)."""

    def __init__(self, relations: list[int], most: int) -> None:
        self.most = most
        self.edges = {r: (array("q"), array("q"), array("q")) for r in relations}
        self.members: dict[int, list[int]] = {}
        self.entry_of: dict[int, int] = {}  # row of the store -> the entry whose values it holds

    def obey(self, start: int, operations: Operations) -> None:
        """Obey one operation log, whose first entry is `start`."""
        relations = operations.relations
        for weight, which, source, kind in operations.log.tolist():
            if kind == READ:
                self._read(start + source // relations, source % relations, which)
            elif kind == ADD:
                self._move(self.entry_of[source] if source >= 0 else start + ~source, which, weight > 0)
            elif weight == 0.0:
                self.members.pop(which, None)
        kept = zip(operations.kept["row"].tolist(), operations.kept["entry"].tolist(), strict=True)
        self.entry_of.update((row, start + entry) for row, entry in kept)

    def _read(self, reader: int, relation: int, which: int) -> None:
        if relation in self.edges:
            source, readers, counts = self.edges[relation]
            recent = self.members.get(which, [])[-self.most :]
            source.extend(recent)
            readers.append(reader)
            counts.append(len(recent))

    def _move(self, entry: int, which: int, enters: bool) -> None:
        members = self.members.setdefault(which, [])
        if enters:
            members.append(entry)
        elif entry in members:
            members.remove(entry)
