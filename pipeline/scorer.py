"""A shard: events in, scores out, no I/O.

    A  in order   graph.apply: events -> operation log, channels; the input lists obey it   -> x, means
    B  at once    layer 1                                                                   -> h
    C  in order   the hidden lists obey the same log                                        -> means of h
    D  at once    layer 2 and the classifier, for targets only                              -> scores

The result equals one event at a time: layer 1 never reads hidden features, so no stage needs a later one's output. Nor
does A of the next micro-batch, so another thread may do B to D meanwhile. Of few events all four are one call.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache, Values
from pipeline.events import EventBatch
from pipeline.explain import Seen
from pipeline.graph import FEW_EVENTS, Applied, Graph, more_than
from pipeline.graph_kernel import Known
from pipeline.graph_state import Batch, Result
from pipeline.held import Held
from pipeline.model import Model
from pipeline.stage_kernel import Made, advance, stage_c
from pipeline.transform import Raw

Floats = npt.NDArray[np.float32]
NO_EVENTS, NO_ROWS, NO_SCORES = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
NO_HIDDEN = np.zeros((0, 0), np.float32)

Explain = Callable[[Seen, Floats], Floats | None]  # what B targets read, their scores -> (B, P) or nothing


@dataclass(slots=True)
class Advanced:
    """A micro-batch of n events with B entries on its way through the stages; good until the advance after the next."""

    applied: Applied
    made: Made
    h: Floats  # (B, H), from stage B on; not where all stages were one
    stage_seconds: dict[str, float]
    settled: bool = False  # are B and C done?
    score: Floats | None = None  # (T,) from stage D on

    @property
    def row(self) -> npt.NDArray[np.int32]:
        """The targets' rows.  # (T,)"""
        row: npt.NDArray[np.int32] = self.applied.result.targets.row[: self.applied.target_count]
        return row

    @property
    def x(self) -> Floats:
        return self.made.x[: self.applied.entry_count]  # (B, K)

    @property
    def means(self) -> Floats:
        return self.made.means[: self.applied.entry_count]  # (B, R, K)

    @property
    def hidden_means(self) -> Floats:
        """From stage C on.  # (B, R, H)"""
        return self.made.hidden_means[: self.applied.entry_count]


@dataclass(slots=True)
class Scored:
    """What a micro-batch of n events gave."""

    event: npt.NDArray[np.int64]  # (B,) index of the event of each score, ascending
    row: npt.NDArray[np.int32]  # (B,) of its node
    score: Floats  # (B,)
    outcome: npt.NDArray[np.uint8]  # (n,) see graph.OUTCOMES
    stage_seconds: dict[str, float]  # A, B, C, D
    why: Floats | None = None  # (B, P) what each player adds to the logit, nan where not told; None: nobody asked


@dataclass(slots=True)
class _Place:
    """What compiled code is given for every other micro-batch, and of what it has it in hand."""

    made: Made
    held: Held = field(default_factory=Held)  # of the arrays below, and of others that are the same as long as these
    graph: Known | None = None
    out: Result | None = None
    has_hidden: bool = False  # room for all rows and lists, in the cache of hidden features


class Scorer:
    """One shard's state and the model. Deterministic: no clock (but for stage times), no randomness, no I/O."""

    def __init__(self, model: Model, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.model = model
        self._clock = clock
        self.graph = Graph(model.schema)
        self.inputs, self.hidden = Cache(len(model.input_keep)), Cache(model.layers[0].width)
        self._tables, self._network = model.transform.tables(model.input_keep), model.network
        self._few = FEW_EVENTS if model.is_compiled else 0
        self._place, self._place_before = _Place(self._room_for(FEW_EVENTS)), _Place(self._room_for(FEW_EVENTS))
        self._latest: Advanced | None = None

    def score(self, events: EventBatch, explain: Explain | None = None) -> Scored:
        """Apply `events`, score their targets, and let `explain` say why."""
        advanced = self.advance(events)
        self.settle(advanced)
        return self.classify(advanced, explain)

    def advance(self, events: EventBatch) -> Advanced:
        """Apply `events`: stage A. Few events go through all stages, if no micro-batch before is left to settle."""
        began, n = self._clock(), len(events.kind)
        self._place, self._place_before = place, _ = self._place_before, self._place
        if n > len(place.made.x):
            place.made, place.graph = self._room_for(more_than(len(place.made.x), n)), None
        made, few = place.made, n <= self._few and (self._latest is None or self._latest.settled)
        applied = self.graph.apply(events, self._run_few if few else self._run_many)
        if few:
            a, b, c, d, end = made.at.tolist()
            seconds = {"A": b - a, "B": c - b, "C": d - c, "D": end - d}
            score = made.score[: applied.target_count].copy() if applied.target_count else NO_SCORES
            self._latest = Advanced(applied, made, NO_HIDDEN, seconds, True, score)
        else:
            self._latest = Advanced(applied, made, NO_HIDDEN, {"A": self._clock() - began})
        return self._latest

    def settle(self, advanced: Advanced) -> None:
        """Make and keep the hidden features of a micro-batch: stages B and C. In order; nothing is done twice."""
        if advanced.settled:
            return
        applied, began = advanced.applied, self._clock()
        b = began
        hidden = self.hidden.with_room(applied.capacity)
        if applied.entry_count or applied.operation_count:  # else these are labels, and what changes nothing
            advanced.h = self.model.hidden(advanced.x, advanced.means)
            b = self._clock()
            stage_c(applied.result, hidden, advanced.h, advanced.hidden_means)
        advanced.stage_seconds |= {"B": b - began, "C": self._clock() - b}
        advanced.settled = True

    def classify(self, advanced: Advanced, explain: Explain | None = None) -> Scored:
        """Score the targets of a micro-batch that is settled, stage D, and let `explain` say why."""
        began, why = self._clock(), None
        applied, to = advanced.applied, advanced.applied.result.targets
        targets = applied.target_count
        score = self._scores(advanced) if advanced.score is None else advanced.score
        if explain is not None:
            read = Seen(applied.channels, advanced.x, advanced.means, advanced.hidden_means)
            why = explain(read.take(to.entry[:targets]), score)
        seconds = advanced.stage_seconds
        seconds["D"] = seconds.get("D", 0.0) + self._clock() - began
        event, row = (to.event[:targets].copy(), to.row[:targets].copy()) if targets else (NO_EVENTS, NO_ROWS)
        return Scored(event, row, score, applied.outcome.copy(), seconds, why)

    def _scores(self, advanced: Advanced) -> Floats:
        """Return the scores of the targets.  # (T,)"""
        applied = advanced.applied
        targets = applied.target_count
        if not targets:
            return NO_SCORES
        which = slice(None) if targets == applied.entry_count else applied.result.targets.entry[:targets]
        return self.model.scores(advanced.h[which], advanced.hidden_means[which])

    def _run_few(self, graph: Known, batch: Batch, out: Result, start: int) -> int:
        """Do all stages, see `stage_kernel.advance`."""
        place = self._place
        if graph is not place.graph or out is not place.out or not place.has_hidden:
            self._note(graph, out, self.hidden.with_room(self.graph.capacity))
            place.has_hidden = True
        return advance(place.held.address, place.held.kind, batch, start, True)

    def _run_many(self, graph: Known, batch: Batch, out: Result, start: int) -> int:
        """Do stage A."""
        place = self._place
        if graph is not place.graph or out is not place.out:
            self._note(graph, out, self.hidden.values)  # not used: another thread may settle, and have it grow
            place.has_hidden = False
        return advance(place.held.address, place.held.kind, batch, start, False)

    def _note(self, graph: Known, out: Result, hidden: Values) -> None:
        """Have compiled code take these apart, and what else `advance` works on."""
        place = self._place
        place.graph, place.out = graph, out
        inputs = self.inputs.with_room(self.graph.capacity)
        place.held.note((graph, out, self._tables, inputs, hidden, self._network, place.made))

    def _room_for(self, events: int) -> Made:
        relations, inputs = len(self.model.schema.relations), len(self._tables.keep)
        hidden, outputs = (layer.width for layer in self.model.layers)
        shapes = {
            "x": (events, inputs), "means": (events, relations, inputs), "hidden_means": (events, relations, hidden),
            "h": (self._few, hidden), "h2": (self._few, outputs), "score": (self._few,),
        }  # fmt: skip
        return Made(**{name: np.empty(shape, np.float32) for name, shape in shapes.items()}, at=np.zeros(5))

    def export(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the shard's whole state as plain arrays: the graph, both caches, both lists."""
        arrays: dict[str, npt.NDArray[np.generic]] = dict(self.graph.export())
        rows, lists = len(arrays["graph.rows"]), len(arrays["graph.lists"])  # those that were ever in use
        for prefix, values in (("inputs", self.inputs.values), ("hidden", self.hidden.values)):
            arrays |= {f"{prefix}.rows": values.rows[:rows], f"{prefix}.sums": values.sums[:lists]}
        return arrays

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take up the state that `export` gave; the arrays of `arrays` are this shard's from now on, or gone."""
        self.graph.restore(arrays)
        for prefix, cache in (("inputs", self.inputs), ("hidden", self.hidden)):
            cache.restore(arrays.pop(f"{prefix}.rows"), arrays.pop(f"{prefix}.sums"), self.graph.capacity)

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part, as allocated."""
        parts, inputs, hidden = self.graph.memory_bytes(), self.inputs.values, self.hidden.values
        parts["lists"] += inputs.sums.nbytes + hidden.sums.nbytes
        return parts | {"inputs": inputs.rows.nbytes, "hidden": hidden.rows.nbytes}


def raw_channels(events: EventBatch, applied: Applied) -> Raw:
    """Return where the raw channels of the entries lie, until the next micro-batch."""
    return Raw(applied.entries, events.features, applied.channels)
