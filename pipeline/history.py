"""A recorded log, replayed once: what training and pruning learn from.

    graph.apply, chunk by chunk   -> operation logs, raw channels        (once, needs no model)
    stage A on those logs         -> x, means: layer 1's inputs          (once the transform is fitted)
    stages B and C likewise       -> h, means: layer 2's inputs          (once layer 1 is fitted)

It is the serving code that runs here: whatever serving does (updates, retractions, expiry, half-lives, late labels),
training has seen. A *sample* is a scored event whose node gets a label later in the log; one scored after its label
could know the answer and is no sample.

N entries (nodes as of an event), n samples among them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache
from pipeline.decoder import Decoder
from pipeline.errors import DataError
from pipeline.evaluate import split_rank
from pipeline.events import LABEL, BadEvent, EventBatch
from pipeline.graph import Applied, Graph
from pipeline.log import Record
from pipeline.model import Layer
from pipeline.operations import Operations
from pipeline.schema import Schema
from pipeline.scorer import raw_channels
from pipeline.stage_kernel import walk_operations
from pipeline.transform import Raw, Transform

Floats = npt.NDArray[np.float32]
CHUNK = 4096  # events; a matter of speed only


@dataclass(frozen=True)
class Split:
    """Samples in time order: training, validation, test."""

    train: slice
    validation: slice
    test: slice

    @staticmethod
    def of(samples: int, shares: tuple[float, float, float]) -> "Split":
        """Cut `samples` by shares that add up to 1; the test part is the last ones from rank floor(n * (1 - test))."""
        first, second = split_rank(shares[0], samples), split_rank(shares[0] + shares[1], samples)
        return Split(slice(0, first), slice(first, second), slice(second, samples))


ENTRY = np.dtype([("node", "i8"), ("order", "i8"), ("target", "?"), ("ts", "f8"), ("position", "i8")])
JUDGED = np.dtype([("node", "i8"), ("order", "i8"), ("label", "i1")])
Table = npt.NDArray[np.void]


class _Chunk(NamedTuple):
    """What stays of a chunk of events: what stages A and C read, and nothing of labels."""

    operations: Operations
    raw: Raw


class History:
    """One replay of a log through the graph; no event is kept as an object.

    Memory: 4 C + 29 bytes an entry of C raw channels, 25 a sample, 24 an operation (a new node has two a relation).
    """

    def __init__(self, schema: Schema, records: Iterable[Record]) -> None:
        self.schema = schema
        self._chunks: list[_Chunk] = []
        self.events = self.bad = 0
        first_bad: BadEvent | None = None
        numbers: dict[str, int] = {}  # of nodes, in the order in which the log names them
        entries, labels = [], []
        graph, decoder = Graph(schema), Decoder(schema)
        for chunk in _chunks(records):
            batch, bad = decoder.decode(chunk)
            applied = graph.apply(batch)
            self._chunks.append(_Chunk(applied.operations.copy(), raw_channels(batch, applied).copy()))
            entries.append(_entries(batch, applied, self.events, numbers))
            labels.append(_labels(batch, self.events, numbers))
            self.events += len(batch)
            self.bad += len(bad)
            first_bad = first_bad or next(iter(bad), None)
        self.entries = sum(map(len, entries))
        if not self.entries:
            why = f"; the first bad one: {first_bad.reason}, {first_bad.detail}" if first_bad else ""
            raise DataError(f"no node event that fits the schema among {self.events + self.bad} events{why}")
        self._find_samples(np.concatenate(entries), np.concatenate(labels))

    def _find_samples(self, entries: Table, labels: Table) -> None:
        """Find the first label that comes after each target's event."""
        place = np.flatnonzero(entries["target"])
        # A number for a node and a time: one search finds the next label, if it is the same node's.
        known, asked = (table["node"] * self.events + table["order"] for table in (labels, entries[place]))
        by_node = np.argsort(known)
        known, labels = known[by_node], labels[by_node]
        first = np.searchsorted(known, asked)
        later = first < len(labels)
        later[later] = labels["node"][first[later]] == entries["node"][place[later]]
        self.entry_node: npt.NDArray[np.int64] = entries["node"].copy()  # (N,) the node that an entry is of, by number
        self.target: npt.NDArray[np.bool_] = entries["target"].copy()  # (N,) is the entry's event to be scored?
        self.sample_entry: npt.NDArray[np.int64] = place[later]  # (n,) ascending
        self.truth: npt.NDArray[np.int8] = labels["label"][first[later]]  # (n,) 1 spam, 0 not
        samples = entries[self.sample_entry]
        self.sample_ts: npt.NDArray[np.float64] = samples["ts"].copy()  # (n,) event time, seconds since the epoch
        self.sample_position: npt.NDArray[np.int64] = samples["position"].copy()  # (n,) of its message in the log

    def raw_until(self, entry: int, columns: slice | list[int] = slice(None)) -> Floats:
        """Return raw channels of the entries before `entry`.  # (entry, columns)"""
        parts = ((chunk.raw.matrix(), max(0, entry - place.start)) for place, chunk in self._walk())
        return np.concatenate([matrix[:count, columns] for matrix, count in parts])

    def inputs(self, transform: Transform, keep: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Run stage A; return what layer 1 reads.  # (N, K), (N, R, K)"""
        cache = Cache(len(keep))
        own = np.empty((self.entries, len(keep)), np.float32)
        means = np.empty((self.entries, len(self.schema.relations), len(keep)), np.float32)
        for place, chunk in self._walk():
            x = transform.inputs(chunk.raw, keep, cache.with_room(chunk.operations.capacity).rows)
            own[place], means[place] = x, _means(chunk.operations, x, cache)
        return own, means

    def hidden(self, layer: Layer, own: Floats, means: Floats) -> tuple[Floats, Floats]:
        """Run stages B and C with layer 1 on its inputs; return what layer 2 reads.  # (N, H), (N, R, H)"""
        h = np.empty((self.entries, layer.width), np.float32)
        for place, _ in self._walk():
            h[place] = layer.forward(own[place], means[place])
        return h, self.means_of(h)

    def means_of(self, values: Floats) -> Floats:
        """Return, for each entry, the means over its lists of the members' `values`.  # (N, W) -> (N, R, W)"""
        cache = Cache(values.shape[1])
        means = np.empty((self.entries, len(self.schema.relations), values.shape[1]), np.float32)
        for place, chunk in self._walk():
            means[place] = _means(chunk.operations, values[place], cache)
        return means

    def operations(self) -> Iterator[tuple[int, Operations]]:
        """Yield the operation logs in order, each with the number of its first entry."""
        for place, chunk in self._walk():
            yield place.start, chunk.operations

    def _walk(self) -> Iterator[tuple[slice, _Chunk]]:
        start = 0
        for chunk in self._chunks:
            yield slice(start, start + chunk.operations.entries), chunk
            start += chunk.operations.entries


def _means(operations: Operations, values: Floats, cache: Cache) -> Floats:
    """Let the lists obey with a chunk's values, then keep these; return the means that were read.  # (b, R, W)"""
    means = np.empty((operations.entries, operations.relations, values.shape[1]), np.float32)
    walk_operations(operations.log, operations.kept, cache.with_room(operations.capacity), values, means)
    return means


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    source = iter(records)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _entries(batch: EventBatch, applied: Applied, start: int, numbers: dict[str, int]) -> Table:
    at = applied.entries["event"]
    table = np.empty(len(at), ENTRY)
    table["node"], table["order"] = _nodes(batch, at, numbers), start + at
    table["target"], table["ts"], table["position"] = batch.target[at], batch.ts[at], batch.position[at]
    return table


def _labels(batch: EventBatch, start: int, numbers: dict[str, int]) -> Table:
    at = np.flatnonzero(batch.kind == LABEL)
    table = np.empty(len(at), JUDGED)
    table["node"], table["order"], table["label"] = _nodes(batch, at, numbers), start + at, batch.label[at]
    return table


def _nodes(batch: EventBatch, at: npt.NDArray[np.integer], numbers: dict[str, int]) -> list[int]:
    return [numbers.setdefault(name, len(numbers)) for name in batch.id[at].known()]
