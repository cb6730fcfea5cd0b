"""Seconds of inference, unpruned against pruned: measured in turn in one process, for only their ratio says much.

    full       every node at once: torch with sparse products, and DGL's message passing
    batched    some target nodes, all neighbours: hidden features of the neighbours are recomputed from two hops,
               or read from where they are stored; the targets' own are computed either way

A pruned network reads features that are stored with the kept channels only, computes only the hidden channels that
somebody reads, and stores only these.

N nodes, B targets, C channels, H hidden channels.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.channels_kept import Floats
from pipeline.experiments.graphs.network import Network, layer_output
from pipeline.experiments.graphs.sage import csr_tensor
from pipeline.experiments.message_passing import mean_over_neighbours
from pipeline.model import Branch, Layer

Rows = npt.NDArray[np.int64]


def seconds_in_turn(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Return each run's median seconds; one repeat of all after the other, after one that does not count."""
    taken = np.empty((repeats + 1, len(runs)))
    for repeat in range(repeats + 1):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            taken[repeat, i] = time.perf_counter() - began
    return [float(value) for value in np.median(taken[1:], axis=0)]


# ---- full ----

Mean = Callable[[torch.Tensor], torch.Tensor]


class Full:
    """A network with its inputs, ready to compute the logits of all nodes."""

    def __init__(self, network: Network, x: Any, mean: Any) -> None:
        own, near = (branch.keep for branch in network.layers[0].branches)
        kept = _columns(x, own)
        self.blocks = [_tensor(kept), _tensor(kept if np.array_equal(own, near) else _columns(x, near))]
        self.mean = csr_tensor(mean)
        self.layers = [[_matrices(branch) for branch in layer.branches] for layer in network.layers]
        self.keeps = [torch.from_numpy(branch.keep).long() for branch in network.layers[1].branches]
        self.classifier = torch.from_numpy(network.weight), torch.from_numpy(network.bias)

    def by_torch(self) -> torch.Tensor:
        return self._logits(lambda h: self.mean @ h)

    def by_dgl(self, edges: Any) -> torch.Tensor:
        return self._logits(lambda h: mean_over_neighbours(edges, h))

    def _logits(self, mean: Mean) -> torch.Tensor:
        with torch.no_grad():
            h1 = _layer(self.layers[0], self.blocks, mean)
            h2 = _layer(self.layers[1], [_picked(h1, keep) for keep in self.keeps], mean)
            return torch.addmm(self.classifier[1], h2, self.classifier[0])


def _layer(matrices: list[tuple[torch.Tensor, torch.Tensor]], blocks: list[torch.Tensor], mean: Mean) -> torch.Tensor:
    (w_own, c_own), (w_near, c_near) = matrices
    own, near = blocks
    narrow = near.layout is torch.strided and near.shape[1] <= w_near.shape[1]
    neighbours = mean(near) @ w_near if narrow else mean(near @ w_near)
    return torch.cat([own @ w_own + c_own, neighbours + c_near], dim=1).relu_()


def _matrices(branch: Branch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(branch.weight), torch.from_numpy(branch.bias)


def _picked(h: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return h if len(keep) == h.shape[1] else h[:, keep]


def _tensor(x: Any) -> torch.Tensor:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else csr_tensor(x)


def _columns(x: Any, keep: npt.NDArray[np.int32]) -> Any:
    if len(keep) == x.shape[1]:
        return x
    return np.ascontiguousarray(x[:, keep]) if isinstance(x, np.ndarray) else x[:, keep]


# ---- batched ----


class Batched:
    """A network with its stores, ready to compute the logits of some targets."""

    def __init__(self, network: Network, x: Any, mean: Any) -> None:
        self.network, self.mean = network, mean
        own, near = network.layers[0].branches
        self.own, self.near = _columns(x, own.keep), _columns(x, near.keep)
        hidden = layer_output(network.layers[0], x, mean)
        self.stored = _columns(hidden, network.layers[1].branches[1].keep)  # what neighbours show of themselves

    def with_stored(self, targets: Rows) -> Floats:
        """Return the logits, reading the neighbours' hidden features from the store.  # (B, classes)"""
        return self._logits(targets, self._hidden(targets), self.mean[targets] @ self.stored)

    def from_scratch(self, targets: Rows) -> Floats:
        """Return the logits, recomputing the hidden features of targets and neighbours.  # (B, classes)"""
        near = self.mean[targets]
        rows = np.union1d(targets, near.indices)
        hidden = self._hidden(rows)
        of_neighbours = near[:, rows] @ hidden[:, self.network.layers[1].branches[1].keep]
        return self._logits(targets, hidden[np.searchsorted(rows, targets)], of_neighbours)

    def _hidden(self, rows: Rows) -> Floats:
        """Layer 1 of some nodes.  # (B, H)"""
        own, near = self.network.layers[0].branches
        means = _weighted(self.mean[rows], self.near, near.weight) + near.bias
        hidden: Floats = np.maximum(np.concatenate([self.own[rows] @ own.weight + own.bias, means], axis=1), 0.0)
        return hidden

    def _logits(self, targets: Rows, own: Floats, near: Floats) -> Floats:
        layer: Layer = self.network.layers[1]
        of_self, of_near = layer.branches
        outputs = [own[:, of_self.keep] @ of_self.weight + of_self.bias, near @ of_near.weight + of_near.bias]
        h2 = np.maximum(np.concatenate(outputs, axis=1), 0.0)
        logits: Floats = h2 @ self.network.weight + self.network.bias
        return logits


def _weighted(mean: Any, x: Any, weight: Floats) -> Floats:
    """Return (mean x) W; the matrix first where the neighbours' product is the cheaper way.  # (B, N), (N, K) -> (B, O)

    Sparse features are averaged as such, then multiplied, or the other way round: again by the fewer multiply-adds.
    """
    met = np.unique(mean.indices)
    k, o = weight.shape
    read = k if isinstance(x, np.ndarray) else x.nnz / x.shape[0]
    mean_first = mean.nnz * read + mean.shape[0] * min(k, read * mean.nnz / max(mean.shape[0], 1)) * o
    if mean_first <= len(met) * read * o + mean.nnz * o:
        product: Floats = (mean @ x) @ weight
        return product
    found: Floats = mean[:, met] @ (x[met] @ weight)
    return found
