"""Message passing by DGL: the only module that imports it. Offline only; DGL 1.1.3 runs on Python 3.11, not on newer.

Graphs are int64: with int32 ids this version crashes.
"""

import os
from typing import Any

import numpy as np
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


def to_dgl(mean: Any) -> Any:
    """Return the DGL graph of a neighbour matrix, row i reading from its columns."""
    target = np.repeat(np.arange(mean.shape[0]), np.diff(mean.indptr))
    source = mean.indices.astype(np.int64)
    return _dgl().graph((torch.from_numpy(source), torch.from_numpy(target)), num_nodes=mean.shape[0])


def mean_over_neighbours(graph: Any, h: torch.Tensor) -> torch.Tensor:
    """Return the mean over each node's neighbours, 0 where it has none; with its gradient.  # (N, H) -> (N, H)"""
    averaged: torch.Tensor = _dgl().ops.copy_u_mean(graph, h)
    return averaged
