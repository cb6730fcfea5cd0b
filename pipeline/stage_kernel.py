"""Stages A and C, each in one call of compiled code; and, for few events, all stages in one: a call costs as much as
an event does.

A  the graph applies the events, the inputs are read, the input lists obey and the inputs are kept
C  the hidden lists obey the same operation log, and the hidden features are kept
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.cache import Values, keep
from pipeline.compiled import compiled, direct
from pipeline.graph_kernel import run
from pipeline.graph_state import Batch, Result
from pipeline.instructions import seconds, taken_apart
from pipeline.layer_kernel import Network, classify, forward
from pipeline.lists import obey
from pipeline.transform import Raw, look_up

Floats = npt.NDArray[np.float32]


class Made(NamedTuple):
    """Room for what n events read at most; and for what all stages give for few."""

    x: Floats  # (n, K) what layer 1 reads
    means: Floats  # (n, R, K)
    hidden_means: Floats  # (n, R, H)
    h: Floats  # (few, H)
    h2: Floats  # (few, H2)
    score: Floats  # (few,) of each target
    at: npt.NDArray[np.float64]  # (5,) seconds: when A began, and when each stage was done


@compiled
def _advance(held: int, kind: Any, batch: Batch, start: int, few: bool) -> int:
    """Apply events from `start` on, as `graph_kernel.run` does; if these were the last ones, write what layer 1 reads,
    and if they are few, do the other stages as well.

    held, kind  of a `Held`: the graph, its result, the transform's tables, both caches, the network, what is made
    """
    graph, out, tables, inputs, hidden, network, made = taken_apart(held, kind)
    if start == 0:
        made.at[0] = seconds()
    done = run(graph, batch, out, start)
    if done == len(batch.kind):
        entries = out.counts[0].entries
        look_up(tables, Raw(out.entries[:entries], batch.features, out.channels), inputs.rows, made.x)
        _stage_c(out, inputs, made.x, made.means)
        if few:
            _all_others(out, hidden, network, made)
    return done


@compiled
def _all_others(out: Result, hidden: Values, network: Network, made: Made) -> None:
    """Do stages B, C and D."""
    counts, to = out.counts[0], out.targets
    made.at[1] = seconds()
    forward(network.first, made.x[: counts.entries], made.means[: counts.entries], made.h)
    made.at[2] = seconds()
    _stage_c(out, hidden, made.h, made.hidden_means)
    made.at[3] = seconds()
    if counts.targets == counts.entries:
        classify(network, made.h[: counts.targets], made.hidden_means, made.h2, made.score)
    else:
        for t in range(counts.targets):
            e = to.entry[t]
            classify(network, made.h[e : e + 1], made.hidden_means[e : e + 1], made.h2, made.score[t : t + 1])
    made.at[4] = seconds()


@compiled
def _stage_c(out: Result, values: Values, made: Floats, means: Floats) -> None:
    """Let the lists obey the micro-batch's operations with the values of its entries, and keep those."""
    counts = out.counts[0]
    walk(out.log[: counts.operations], out.kept[: counts.kept], values, made, means[: counts.entries])


@compiled
def walk(log: npt.NDArray[np.void], kept: npt.NDArray[np.void], values: Values, made: Floats, means: Floats) -> None:
    """Obey an operation log with the values `made` of its entries, then keep these.

    made, means  (B, W), (B, R, W)
    """
    obey(log, values.sums, made, values.rows, means)
    keep(made, kept, values.rows)


# `EventBatch`, the graph and `Room` see to the types of their arrays; values are made by a layer or a transform.
advance, stage_c, walk_operations = direct(_advance), direct(_stage_c), direct(walk)
