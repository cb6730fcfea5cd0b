"""A shard: events in, scores out, no I/O.

    A  in order   graph.apply: events -> operation log, channels; the input lists obey it   -> x, means
    B  at once    layer 1                                                                   -> h
    C  in order   the hidden lists obey the same log                                        -> means of h
    D  at once    layer 2 and the classifier, for targets only                              -> scores

The result equals one event at a time: layer 1 never reads hidden features, so no stage needs a later one's output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache
from pipeline.events import EventBatch
from pipeline.explain import Seen
from pipeline.graph import FEW_EVENTS, Applied, Graph, capacities
from pipeline.lists import Lists
from pipeline.model import Model
from pipeline.stage_kernel import Values, stage_a, stage_c
from pipeline.transform import Raw, Tables

Floats = npt.NDArray[np.float32]
NO_SCORES = np.zeros(0, np.float32)

Explain = Callable[[Seen, Floats], Floats | None]  # what B targets read, their scores -> (B, P) or nothing


@dataclass(slots=True)
class Scored:
    """What a micro-batch of n events gave."""

    event: npt.NDArray[np.int64]  # (B,) index of the event of each score, ascending
    row: npt.NDArray[np.int32]  # (B,) of its node
    score: Floats  # (B,)
    outcome: npt.NDArray[np.uint8]  # (n,) see graph.OUTCOMES
    stage_seconds: dict[str, float]  # A, B, C, D
    why: Floats | None = None  # (B, P) what each player adds to the logit, nan where not told; None: nobody asked


class _Read(NamedTuple):
    """Room for what the B entries of a micro-batch read."""

    x: Floats  # (B, K)
    means: Floats  # (B, R, K)
    hidden_means: Floats  # (B, R, H)


class Scorer:
    """One shard's state and the model. Deterministic: no clock (but for stage times), no randomness, no I/O."""

    def __init__(self, model: Model, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.model = model
        self._clock = clock
        self.graph = Graph(model.schema)
        self.inputs, self.input_lists = Cache(len(model.input_keep)), Lists(len(model.input_keep))
        self.hidden, self.hidden_lists = Cache(model.layers[0].width), Lists(model.layers[0].width)
        self._tables = model.transform.tables(model.input_keep)
        self._make_room()
        self._read = self._room_to_read(FEW_EVENTS)

    def score(self, events: EventBatch, explain: Explain | None = None) -> Scored:
        """Apply `events`, score their targets, and let `explain` say why."""
        began = self._clock()
        if len(events.kind) > len(self._read.x):
            self._read = self._room_to_read(len(events.kind))
        applied = self.graph.apply(events, stage_a, self._for_stage_a)
        count, read = applied.entry_count, self._read
        a = self._clock()
        if not count and not applied.operation_count:  # labels, and what changes nothing
            return _scored(applied, NO_SCORES, (began, a, a, a, a))
        x, means, hidden_means = read.x[:count], read.means[:count], read.hidden_means[:count]
        h = self.model.hidden(x, means)
        b = self._clock()
        stage_c(applied.result, self._of_hidden, h, hidden_means)
        c = self._clock()
        targets = applied.result.targets.entry[: applied.target_count]
        which = slice(None) if len(targets) == count else targets
        score = self.model.scores(h[which], hidden_means[which]) if len(targets) else NO_SCORES
        why = None
        if explain is not None:
            why = explain(Seen(applied.channels, x, means, hidden_means).take(targets), score)  # copies
        return _scored(applied, score, (began, a, b, c, self._clock()), why)

    def _for_stage_a(self) -> tuple[Tables, Values, Floats, Floats]:
        if self._capacities != (self.graph.row_capacity, self.graph.list_capacity):
            self._make_room()
        return self._tables, self._of_inputs, self._read.x, self._read.means

    def _make_room(self) -> None:
        """Make room for the graph's rows and lists."""
        rows, lists = self._capacities = (self.graph.row_capacity, self.graph.list_capacity)
        self._of_inputs = values_of(self.inputs, self.input_lists, rows, lists)
        self._of_hidden = values_of(self.hidden, self.hidden_lists, rows, lists)

    def _room_to_read(self, events: int) -> _Read:
        relations, inputs, width = len(self.model.schema.relations), len(self._tables.keep), self.model.layers[0].width
        shapes = (events, inputs), (events, relations, inputs), (events, relations, width)
        return _Read(*(np.empty(shape, np.float32) for shape in shapes))

    def export(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the shard's whole state as plain arrays: the graph, both caches, both lists."""
        arrays: dict[str, npt.NDArray[np.generic]] = dict(self.graph.export())
        rows, lists = len(arrays["graph.rows"]), len(arrays["graph.lists"])  # those that were ever in use
        arrays |= {"inputs.rows": self.inputs.rows[:rows], "inputs.sums": self.input_lists.sums[:lists]}
        arrays |= {"hidden.rows": self.hidden.rows[:rows], "hidden.sums": self.hidden_lists.sums[:lists]}
        return arrays

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take up the state that `export` gave; the arrays of `arrays` are this shard's from now on, or gone."""
        rows, lists = capacities(arrays)
        for prefix, cache, running in (
            ("inputs", self.inputs, self.input_lists), ("hidden", self.hidden, self.hidden_lists)
        ):  # fmt: skip
            cache.restore(arrays.pop(f"{prefix}.rows"), rows)
            running.restore(arrays.pop(f"{prefix}.sums"), lists)
        self.graph.restore(arrays)
        self._make_room()

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part, as allocated."""
        parts = self.graph.memory_bytes()
        parts["lists"] += self.input_lists.sums.nbytes + self.hidden_lists.sums.nbytes
        return parts | {"inputs": self.inputs.rows.nbytes, "hidden": self.hidden.rows.nbytes}


def values_of(cache: Cache, lists: Lists, rows: int, count: int) -> Values:
    """Return the arrays of a stage, with room for so many rows and `count` lists."""
    cache.reserve(rows)
    lists.reserve(count)
    return Values(cache.rows, lists.sums)


def _scored(
    applied: Applied, score: Floats, times: tuple[float, float, float, float, float], why: Floats | None = None
) -> Scored:
    """Return what stays of a micro-batch; `times` are those before and after each stage."""
    began, a, b, c, d = times
    stages = {"A": a - began, "B": b - a, "C": c - b, "D": d - c}
    count, targets = applied.target_count, applied.result.targets
    return Scored(targets.event[:count].copy(), targets.row[:count].copy(), score, applied.outcome.copy(), stages, why)


def raw_channels(events: EventBatch, applied: Applied) -> Raw:
    """Return where the raw channels of the entries lie, until the next micro-batch."""
    return Raw(applied.entries, events.features, applied.channels)
