"""Message passing by DGL: the only module that imports it. Offline only; DGL 1.1.3 runs on Python 3.11, not on newer.

Graphs are int64: with int32 ids this version crashes.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError

MISSING = "DGL is not installed: on Python 3.11, pip install 'graphsieve[train,graphs]'; it exists for no newer one"


def _dgl() -> Any:
    """Import DGL without its greeting on stderr and its settings file in the home folder."""
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl
    except ImportError:
        raise ConfigError(MISSING) from None
    return dgl


def graph_of(source: npt.NDArray[np.int64], target: npt.NDArray[np.int64], nodes: int) -> Any:
    """Return the DGL graph whose node target[i] reads source[i]; ConfigError where DGL is not there.  # (E,), (E,)"""
    return _dgl().graph((torch.from_numpy(source.copy()), torch.from_numpy(target.copy())), num_nodes=nodes)


def to_dgl(mean: Any) -> Any:
    """Return the DGL graph of a neighbour matrix, row i reading from its columns."""
    target = np.repeat(np.arange(mean.shape[0]), np.diff(mean.indptr))
    return graph_of(mean.indices.astype(np.int64), target, mean.shape[0])


def mean_over_neighbours(graph: Any, h: torch.Tensor) -> torch.Tensor:
    """Return the mean over each node's neighbours, 0 where it has none; with its gradient.  # (N, H) -> (N, H)"""
    if not h.shape[1]:  # DGL refuses these, and those that are not contiguous
        return h
    averaged: torch.Tensor = _dgl().ops.copy_u_mean(graph, h.contiguous())
    return averaged


class Block(NamedTuple):
    """Edges into some nodes: what one layer of a mini-batch reads."""

    block: Any
    source: torch.Tensor  # (S,) the nodes that it reads from
    edge: torch.Tensor  # (E,) numbers of its edges in the whole graph


def block_into(graph: Any, targets: torch.Tensor, fan_out: int | None = None) -> Block:
    """Return the edges into `targets`, all of them or at most `fan_out` a target, drawn at random."""
    dgl = _dgl()
    part = (
        dgl.in_subgraph(graph, targets) if fan_out is None else dgl.sampling.sample_neighbors(graph, targets, fan_out)
    )
    block = dgl.to_block(part, targets)
    return Block(block, block.srcdata[dgl.NID], part.edata[dgl.EID][block.edata[dgl.EID]])


def weighted_sum(block: Block, h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the sum over each target's sources of weight * h.  # (S, H), (E,) -> (T, H)"""
    summed: torch.Tensor = _dgl().ops.u_mul_e_sum(block.block, h.contiguous(), weight[:, None])
    return summed
