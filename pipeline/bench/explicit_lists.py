"""The lists as a sampler sees them: of each entry, whose values it averages and with which weights. For peers only.

Made from the operation logs, so a peer that sums over them computes just what our running sums hold. They are long:
an entry's list is all earlier reviews of its product.

    relation r:  start[r] (N + 1,)   entry i reads the sources start[i] .. start[i + 1]
                 source[r] (E_r,)    entries, each before its reader
                 weight[r] (E_r,)    float32, adding up to 1 for each reader with a source
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.history import History
from pipeline.operations import ADD, READ, SCALE, Operations


class ExplicitList(NamedTuple):
    start: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    @property
    def reader(self) -> npt.NDArray[np.int64]:
        """Who reads each source.  # (E,)"""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


def explicit_lists(history: History) -> list[ExplicitList]:
    """Return the lists of each relation, in the schema's order."""
    members = _Members(len(history.schema.relations), history.entries)
    for start, operations in history.operations():
        members.obey(start, operations)
    return [members.of_relation(r) for r in range(len(history.schema.relations))]


class _Members:
    """Who stands in each list with which weight, and what every reader met there."""

    def __init__(self, relations: int, entries: int) -> None:
        self._met: list[dict[int, tuple[list[int], npt.NDArray[np.float64]]]] = [{} for _ in range(relations)]
        self._entries = entries
        self._members: dict[int, dict[int, float]] = {}  # list -> entry -> weight
        self._entry_of: dict[int, int] = {}  # row of the store -> the entry whose values it holds

    def obey(self, start: int, operations: Operations) -> None:
        """Obey one operation log, whose first entry is `start`."""
        for weight, which, source, kind in operations.log.tolist():
            members = self._members.setdefault(which, {})
            if kind == READ:
                reader, relation = divmod(source, operations.relations)
                weights = np.fromiter(members.values(), np.float64, len(members)) * weight
                self._met[relation][start + reader] = list(members), weights
            elif kind == ADD:
                entry = self._entry_of[source] if source >= 0 else start + ~source
                if weight > 0:
                    members[entry] = weight
                else:
                    members.pop(entry)
            elif kind == SCALE:
                self._members[which] = {entry: old * weight for entry, old in members.items()} if weight else {}
        kept = zip(operations.kept["row"].tolist(), operations.kept["entry"].tolist(), strict=True)
        self._entry_of.update((row, start + entry) for row, entry in kept)

    def of_relation(self, relation: int) -> ExplicitList:
        met = self._met[relation]
        counts = np.zeros(self._entries + 1, np.int64)
        for reader, (sources, _) in met.items():
            counts[reader + 1] = len(sources)
        readers = sorted(met)
        source = np.concatenate([np.array(met[reader][0], np.int64) for reader in readers])
        weight = np.concatenate([met[reader][1] for reader in readers]).astype(np.float32)
        return ExplicitList(np.cumsum(counts), source, weight)
