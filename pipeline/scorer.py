"""A shard: events in, scores out, no I/O.

    A  in order   graph.apply: events -> operation log, channels; the input lists obey it   -> x, means
    B  at once    layer 1                                                                   -> h
    C  in order   the hidden lists obey the same log                                        -> means of h
    D  at once    layer 2 and the classifier, for targets only                              -> scores

The result equals one event at a time: layer 1 never reads hidden features, so no stage needs a later one's output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache
from pipeline.events import SCORE, EventBatch
from pipeline.explain import Seen
from pipeline.graph import Applied, Graph, capacities
from pipeline.lists import Lists
from pipeline.model import Model
from pipeline.operations import Operations
from pipeline.transform import Transform, side_by_side

Floats = npt.NDArray[np.float32]
NO_SCORES = np.zeros(0, np.float32)

Explain = Callable[[Seen, Floats], Floats | None]  # what B targets read, their scores -> (B, P) or nothing


@dataclass
class Scored:
    """What a micro-batch of n events gave."""

    event: npt.NDArray[np.int64]  # (B,) index of the event of each score, ascending
    row: npt.NDArray[np.int32]  # (B,) of its node
    score: Floats  # (B,)
    outcome: npt.NDArray[np.uint8]  # (n,) see graph.OUTCOMES
    stage_seconds: dict[str, float]  # A, B, C, D
    why: Floats | None = None  # (B, P) what each player adds to the logit, nan where not told; None: nobody asked


class Scorer:
    """One shard's state and the model. Deterministic: no clock (but for stage times), no randomness, no I/O."""

    def __init__(self, model: Model, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.model = model
        self._clock = clock
        self.graph = Graph(model.schema)
        self.inputs, self.input_lists = Cache(len(model.input_keep)), Lists(len(model.input_keep))
        self.hidden, self.hidden_lists = Cache(model.layers[0].width), Lists(model.layers[0].width)

    def score(self, events: EventBatch, explain: Explain | None = None) -> Scored:
        """Apply `events`, score their targets, and let `explain` say why."""
        times = [self._clock()]
        applied = self.graph.apply(events)
        x = read_inputs(self.model.transform, self.model.input_keep, events, applied, self.inputs)
        means = run_lists(applied.operations, x, self.inputs, self.input_lists)
        times.append(self._clock())
        h = self.model.hidden(x, means)
        times.append(self._clock())
        hidden_means = run_lists(applied.operations, h, self.hidden, self.hidden_lists)
        times.append(self._clock())
        targets = applied.target
        read = (h[targets], hidden_means[targets]) if len(targets) < len(h) else (h, hidden_means)
        score = self.model.scores(*read) if len(targets) else NO_SCORES
        why = None
        if explain is not None:
            seen = (applied.channels, x, means, hidden_means)
            why = explain(Seen(*(values[targets] for values in seen)), score)
        times.append(self._clock())
        stages = {stage: after - before for stage, before, after in zip("ABCD", times, times[1:], strict=False)}
        event, row = applied.entry_event.take(targets).astype(np.int64), applied.entry_row.take(targets)
        return Scored(event, row, score, applied.outcome, stages, why)

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

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part, as allocated."""
        parts = self.graph.memory_bytes()
        parts["lists"] += self.input_lists.sums.nbytes + self.hidden_lists.sums.nbytes
        return parts | {"inputs": self.inputs.rows.nbytes, "hidden": self.hidden.rows.nbytes}


def raw_channels(events: EventBatch, applied: Applied) -> Floats:
    """Return the raw channels of each entry; nan for the own ones of a `score` event: they stay.  # (B, C)"""
    raw = np.empty((len(applied.entry_event), events.features.shape[1] + applied.channels.shape[1]), np.float32)
    side_by_side(events.features, applied.entry_event, events.kind == SCORE, applied.channels, raw)
    return raw


def read_inputs(
    transform: Transform, keep: npt.NDArray[np.int32], events: EventBatch, applied: Applied, inputs: Cache
) -> Floats:
    """Return what layer 1's self branch reads.  # (B, K)"""
    x = transform.apply(raw_channels(events, applied), keep)
    inputs.reserve(applied.operations.row_capacity)
    inputs.fill(x, applied.previous)
    return x


def run_lists(operations: Operations, values: Floats, cache: Cache, lists: Lists) -> Floats:
    """Let `lists` obey the operation log with `values`, then keep those; return the means.  # (B, R, W)"""
    cache.reserve(operations.row_capacity)
    means = lists.obey(operations, values, cache.rows)
    cache.keep(operations, values)
    return means
