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

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache
from pipeline.decoder import Decoder
from pipeline.errors import DataError
from pipeline.evaluate import split_rank
from pipeline.events import LABEL, BadEvent, EventBatch
from pipeline.graph import Applied, Graph
from pipeline.lists import Lists
from pipeline.log import Record
from pipeline.model import Layer
from pipeline.operations import Operations
from pipeline.schema import Schema
from pipeline.scorer import raw_channels, run_lists
from pipeline.transform import Transform

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


class History:
    """One replay of a log through the graph."""

    def __init__(self, schema: Schema, records: Iterable[Record]) -> None:
        self.schema = schema
        self._chunks: list[Applied] = []
        self._raw: list[Floats] = []
        self.events = self.bad = 0
        first_bad: BadEvent | None = None
        entry_ids: list[str] = []
        order, target, ts, position = [], [], [], []
        labels: dict[str, list[tuple[int, int]]] = {}
        graph, decoder = Graph(schema), Decoder(schema)
        for chunk in _chunks(records):
            batch, bad = decoder.decode(chunk)
            applied = graph.apply(batch)
            self._chunks.append(applied)
            self._raw.append(raw_channels(batch, applied))
            entry_ids += [batch.id[e] for e in applied.entry_event.tolist()]
            order.append(self.events + applied.entry_event)
            target.append(batch.target[applied.entry_event])
            ts.append(batch.ts[applied.entry_event])
            position.append(batch.position[applied.entry_event])
            _note_labels(batch, self.events, labels)
            self.events += len(batch)
            self.bad += len(bad)
            first_bad = first_bad or next(iter(bad), None)
        self.entry_ids = entry_ids  # (N,) the node that each entry is of
        self.entries = len(entry_ids)
        if not self.entries:
            why = f"; the first bad one: {first_bad.reason}, {first_bad.detail}" if first_bad else ""
            raise DataError(f"no node event that fits the schema among {self.events + self.bad} events{why}")
        self._find_samples(np.concatenate(order), np.concatenate(target), labels)
        self.sample_ts = np.concatenate(ts)[self.sample_entry]  # (n,) event time, seconds since the epoch
        self.sample_position = np.concatenate(position)[self.sample_entry]  # (n,) of its message in the log

    def _find_samples(
        self,
        order: npt.NDArray[np.int64],
        target: npt.NDArray[np.bool_],
        labels: dict[str, list[tuple[int, int]]],
    ) -> None:
        samples, truth = [], []
        for entry in np.flatnonzero(target).tolist():
            later = [label for when, label in labels.get(self.entry_ids[entry], ()) if when > order[entry]]
            if later:
                samples.append(entry)
                truth.append(later[0])
        self.target = target  # (N,) is the entry's event to be scored?
        self.sample_entry = np.array(samples, np.int64)  # (n,) ascending
        self.truth = np.array(truth, np.int8)  # (n,) 1 spam, 0 not

    def raw_until(self, entry: int) -> Floats:
        """Return the raw channels of the entries before `entry`.  # (entry, C)"""
        return np.concatenate(self._raw)[:entry]

    def inputs(self, transform: Transform, keep: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Run stage A; return what layer 1 reads.  # (N, K), (N, R, K)"""
        cache, lists = Cache(len(keep)), Lists(len(keep))
        own = np.empty((self.entries, len(keep)), np.float32)
        means = np.empty((self.entries, len(self.schema.relations), len(keep)), np.float32)
        for place, applied, raw in self._walk():
            x = transform.apply(raw, keep)
            cache.reserve(applied.operations.row_capacity)
            cache.fill(x, applied.previous)
            own[place], means[place] = x, run_lists(applied, x, cache, lists)
        return own, means

    def hidden(self, layer: Layer, own: Floats, means: Floats) -> tuple[Floats, Floats]:
        """Run stages B and C with layer 1 on its inputs; return what layer 2 reads.  # (N, H), (N, R, H)"""
        h = np.empty((self.entries, layer.width), np.float32)
        for place, _, _ in self._walk():
            h[place] = layer.forward(own[place], means[place])
        return h, self.means_of(h)

    def means_of(self, values: Floats) -> Floats:
        """Return, for each entry, the means over its lists of the members' `values`.  # (N, W) -> (N, R, W)"""
        cache, lists = Cache(values.shape[1]), Lists(values.shape[1])
        means = np.empty((self.entries, len(self.schema.relations), values.shape[1]), np.float32)
        for place, applied, _ in self._walk():
            means[place] = run_lists(applied, values[place], cache, lists)
        return means

    def operations(self) -> Iterator[tuple[int, Operations]]:
        """Yield the operation logs in order, each with the number of its first entry."""
        for place, applied, _ in self._walk():
            yield place.start, applied.operations

    def _walk(self) -> Iterator[tuple[slice, Applied, Floats]]:
        start = 0
        for applied, raw in zip(self._chunks, self._raw, strict=True):
            yield slice(start, start + len(raw)), applied, raw
            start += len(raw)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    source = iter(records)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _note_labels(batch: EventBatch, start: int, labels: dict[str, list[tuple[int, int]]]) -> None:
    for i in np.flatnonzero(batch.kind == LABEL).tolist():
        labels.setdefault(batch.id[i], []).append((start + i, int(batch.label[i])))
