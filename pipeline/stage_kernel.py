"""Stages A and C, each in one call of compiled code: a call costs as much as an event does.

A  the graph applies the events, the inputs are read, the input lists obey and the inputs are kept
C  the hidden lists obey the same operation log, and the hidden features are kept
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.cache import keep
from pipeline.compiled import compiled, direct
from pipeline.graph_kernel import run
from pipeline.graph_state import Batch, Result, Rules, State
from pipeline.lists import obey
from pipeline.names_kernel import Table
from pipeline.transform import Raw, Tables, look_up

Floats = npt.NDArray[np.float32]


class Values(NamedTuple):
    """What is remembered of one stage's values: of each row, and their sums over each list."""

    rows: Floats  # (N, W)
    sums: npt.NDArray[np.float64]  # (L, W)


@compiled
def _stage_a(
    g: State,
    rules: Rules,
    ids: Table,
    keys: Table,
    batch: Batch,
    out: Result,
    start: int,
    tables: Tables,
    values: Values,
    x: Floats,
    means: Floats,
) -> int:
    """Apply events from `start` on, as `graph_kernel.run` does; if these were the last ones, write what layer 1 reads.

    x, means  (n, K), (n, R, K): room for what each of n events could read
    """
    done = run(g, rules, ids, keys, batch, out, start)
    if done == len(batch.kind):
        entries = out.counts[0].entries
        look_up(tables, Raw(out.entries[:entries], batch.features, out.channels), values.rows, x)
        _stage_c(out, values, x, means)
    return done


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
stage_a, stage_c, walk_operations = direct(_stage_a), direct(_stage_c), direct(walk)
