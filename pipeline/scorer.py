"""A shard: events in, scores out, no I/O.

    A  in order   graph.apply: events -> operation log, channels; the input lists obey it   -> x, means
    B  at once    layer 1                                                                   -> h
    C  in order   the hidden lists obey the same log                                        -> means of h
    D  at once    layer 2 and the classifier, for targets only                              -> scores

The result equals one event at a time: layer 1 never reads hidden features, so no stage needs a later one's output. Nor
does A of the next micro-batch, so another thread may do B to D meanwhile.
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
NO_SCORES, NO_HIDDEN = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)

Explain = Callable[[Seen, Floats], Floats | None]  # what B targets read, their scores -> (B, P) or nothing


@dataclass(slots=True)
class Advanced:
    """A micro-batch of n events with B entries on its way through the stages; good until the advance after the next."""

    applied: Applied
    x: Floats  # (B, K)
    means: Floats  # (B, R, K)
    hidden_means: Floats  # (B, R, H), from stage C on
    h: Floats  # (B, H), from stage B on
    stage_seconds: dict[str, float]
    settled: bool = False  # are B and C done?

    @property
    def row(self) -> npt.NDArray[np.int32]:
        """The targets' rows.  # (T,)"""
        row: npt.NDArray[np.int32] = self.applied.result.targets.row[: self.applied.target_count]
        return row


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
        self._of_inputs, self._of_hidden = self._remembered()
        self._read, self._read_before = self._room_to_read(FEW_EVENTS), self._room_to_read(FEW_EVENTS)

    def score(self, events: EventBatch, explain: Explain | None = None) -> Scored:
        """Apply `events`, score their targets, and let `explain` say why."""
        advanced = self.advance(events)
        self.settle(advanced)
        return self.classify(advanced, explain)

    def advance(self, events: EventBatch) -> Advanced:
        """Apply `events`: stage A."""
        began = self._clock()
        self._read, self._read_before = self._read_before, self._read
        if len(events.kind) > len(self._read.x):
            self._read = self._room_to_read(len(events.kind))
        applied = self.graph.apply(events, stage_a, self._for_stage_a)
        count, read = applied.entry_count, self._read
        made = read.x[:count], read.means[:count], read.hidden_means[:count], NO_HIDDEN
        return Advanced(applied, *made, {"A": self._clock() - began})

    def settle(self, advanced: Advanced) -> None:
        """Make and keep the hidden features of a micro-batch: stages B and C. Each is settled once, in order."""
        applied, began = advanced.applied, self._clock()
        b, rows, lists = began, applied.row_capacity, applied.list_capacity
        if not _has_room(self._of_hidden, rows, lists):
            self._of_hidden = values_of(self.hidden, self.hidden_lists, rows, lists)
        if applied.entry_count or applied.operation_count:  # else these are labels, and what changes nothing
            advanced.h = self.model.hidden(advanced.x, advanced.means)
            b = self._clock()
            stage_c(applied.result, self._of_hidden, advanced.h, advanced.hidden_means)
        advanced.stage_seconds |= {"B": b - began, "C": self._clock() - b}
        advanced.settled = True

    def classify(self, advanced: Advanced, explain: Explain | None = None) -> Scored:
        """Score the targets of a micro-batch that is settled, stage D, and let `explain` say why."""
        began, score, why = self._clock(), NO_SCORES, None
        applied, to = advanced.applied, advanced.applied.result.targets
        targets = applied.target_count
        which = slice(None) if targets == applied.entry_count else to.entry[:targets]
        if targets:
            score = self.model.scores(advanced.h[which], advanced.hidden_means[which])
        if explain is not None:
            read = Seen(applied.channels, advanced.x, advanced.means, advanced.hidden_means)
            why = explain(read.take(to.entry[:targets]), score)
        seconds = advanced.stage_seconds | {"D": self._clock() - began}
        event, row = to.event[:targets].copy(), to.row[:targets].copy()
        return Scored(event, row, score, applied.outcome.copy(), seconds, why)

    def _for_stage_a(self) -> tuple[Tables, Values, Floats, Floats]:
        rows, lists = self.graph.row_capacity, self.graph.list_capacity
        if not _has_room(self._of_inputs, rows, lists):
            self._of_inputs = values_of(self.inputs, self.input_lists, rows, lists)
        return self._tables, self._of_inputs, self._read.x, self._read.means

    def _remembered(self) -> tuple[Values, Values]:
        """Return inputs and hidden features as they are kept, with room for the graph's rows and lists."""
        room = self.graph.row_capacity, self.graph.list_capacity
        return values_of(self.inputs, self.input_lists, *room), values_of(self.hidden, self.hidden_lists, *room)

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
        self._of_inputs, self._of_hidden = self._remembered()

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


def _has_room(values: Values, rows: int, count: int) -> bool:
    return len(values.rows) >= rows and len(values.sums) >= count


def raw_channels(events: EventBatch, applied: Applied) -> Raw:
    """Return where the raw channels of the entries lie, until the next micro-batch."""
    return Raw(applied.entries, events.features, applied.channels)
