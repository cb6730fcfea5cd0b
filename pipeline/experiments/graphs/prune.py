"""Prune a network on its training nodes: rank, choose, refit; all methods alike but for the ranking.

    selected   the matrices cut to the channels that stay, nothing fitted
    refitted   layer by layer, from the inputs on: ridge least squares towards what the unpruned layer gave

The paper's own procedure fits W by gradient descent in place of the ridge (`paper_lasso`).

Sparse features of thousands of channels are not pruned: a product that skips zeros costs the non-zeros of a node, and
few of them would be saved. Layer 1 loses outputs there, no inputs.

n training nodes, K input channels of a branch, H hidden channels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.channels_kept import (
    Floats,
    Order,
    Plan,
    Product,
    Work,
    gram,
    joined,
    plan_backwards,
    ranker,
    ranking,
    ridge,
    ridge_of_product,
)
from pipeline.experiments.graphs.network import Network, layer_output, sparse_inputs
from pipeline.model import Branch, Layer


@dataclass
class Unpruned:
    """A network with what its layers read on the training nodes: computed once, for every method and budget."""

    network: Network
    x: Any  # (N, C), an array or CSR
    mean: Any  # (N, N) CSR
    train: npt.NDArray[np.int64]  # (n,)

    @cached_property
    def inputs(self) -> list[Floats]:
        """What layer 1's branches read; nothing where it is sparse."""
        return self.blocks(self.x) if isinstance(self.x, np.ndarray) else []

    @cached_property
    def h1(self) -> Floats:
        return layer_output(self.network.layers[0], self.x, self.mean)

    @cached_property
    def hidden(self) -> list[Floats]:
        """What layer 2's branches read."""
        return self.blocks(self.h1)

    @cached_property
    def h2(self) -> Floats:
        """What the classifier reads.  # (n, H2)"""
        outputs = [x @ b.weight + b.bias for x, b in zip(self.hidden, self.network.layers[1].branches, strict=True)]
        return np.maximum(np.concatenate(outputs, axis=1), 0.0)

    @property
    def work(self) -> Work:
        hidden, outputs = ([len(branch.bias) for branch in layer.branches] for layer in self.network.layers)
        return Work(self.x.shape[1], hidden, outputs, len(self.network.bias), sparse_inputs(self.x))

    def all_inputs(self, outputs: list[Order], counts: list[int]) -> list[Order]:
        """Rank sparse inputs: they all stay."""
        return [np.arange(self.x.shape[1])] * len(outputs)

    def blocks(self, x: Floats) -> list[Floats]:
        return [x[self.train], self.mean[self.train] @ x]

    @cached_property
    def products(self) -> tuple[list[Product], list[Product], Product]:
        """What the closed form needs to know of layer 1 (nothing where it is sparse), layer 2 and the classifier."""
        first, second = (
            [_product(x, b.weight) for x, b in zip(blocks, layer.branches, strict=False)]
            for blocks, layer in zip((self.inputs, self.hidden), self.network.layers, strict=True)
        )
        return first, second, _product(self.h2, self.network.weight)


def _product(block: Floats, weight: Floats) -> Product:
    return Product(gram(block), weight.astype(np.float64))


def plan_by(unpruned: Unpruned, method: str, scheme: str, budget: float, seed: int) -> Plan:
    """Rank by one of the closed forms, and choose."""
    first, second, classifier = unpruned.products
    rank = ranking(method, np.random.default_rng(seed))
    last = rank([classifier], len(classifier.gram))
    of_first = ranker(first, rank, scheme) if first else unpruned.all_inputs
    return plan_backwards(last, ranker(second, rank, scheme), of_first, unpruned.work, budget, scheme)


class Refit(Protocol):
    """How a matrix is fitted anew; both return weight and bias."""

    def first(self, unpruned: Unpruned, branch: int, keep: Order, kept: Order) -> tuple[Floats, Floats]:
        """Fit layer 1: inputs `keep` towards outputs `kept` of the same inputs."""
        ...

    def later(self, x: Floats, y: Floats, before: Floats) -> tuple[Floats, Floats]:
        """Fit y (n, O) by x (n, K); `before` (K, O) is the weight before."""
        ...


class Ridge:
    """Ridge least squares; layer 1's from the Gram matrix that ranked it."""

    def first(self, unpruned: Unpruned, branch: int, keep: Order, kept: Order) -> tuple[Floats, Floats]:
        x, layer = unpruned.inputs[branch], unpruned.network.layers[0].branches[branch]
        weight = ridge_of_product(unpruned.products[0][branch], keep, kept).astype(np.float32)
        mean = x.mean(axis=0)
        return weight, layer.bias[kept] + mean @ layer.weight[:, kept] - mean[keep] @ weight

    def later(self, x: Floats, y: Floats, before: Floats) -> tuple[Floats, Floats]:
        weight, bias = ridge(x, y)
        return weight.astype(np.float32), bias.astype(np.float32)


def selected(unpruned: Unpruned, plan: Plan) -> Network:
    """Cut the matrices to what stays."""
    network, places = unpruned.network, _places(unpruned, plan)
    first = [
        Branch(keep.astype(np.int32), b.weight[np.ix_(keep, kept)], b.bias[kept])
        for b, keep, kept in zip(network.layers[0].branches, plan.first, plan.hidden, strict=True)
    ]
    second = [
        Branch(place, b.weight[np.ix_(keep, kept)], b.bias[kept])
        for b, place, keep, kept in zip(network.layers[1].branches, places, plan.second, plan.outputs, strict=True)
    ]
    return Network((Layer(first), Layer(second)), network.weight[_last(unpruned, plan)], network.bias)


def refitted(unpruned: Unpruned, plan: Plan, refit: Refit | None = None) -> Network:
    """Fit what stays anew, each layer on the outputs of the small one before it."""
    refit = refit or Ridge()
    small = selected(unpruned, plan)
    first = small.layers[0]
    if unpruned.inputs:
        first = Layer([
            Branch(cut.keep, *refit.first(unpruned, b, plan.first[b], plan.hidden[b]))
            for b, cut in enumerate(first.branches)
        ])  # fmt: skip
    h1 = unpruned.blocks(layer_output(first, unpruned.x, unpruned.mean))
    targets = [
        x @ b.weight[:, kept] + b.bias[kept]
        for x, b, kept in zip(unpruned.hidden, unpruned.network.layers[1].branches, plan.outputs, strict=True)
    ]
    second = Layer([
        Branch(b.keep, *refit.later(x[:, b.keep], y, b.weight))
        for x, y, b in zip(h1, targets, small.layers[1].branches, strict=True)
    ])  # fmt: skip
    outputs = [x[:, b.keep] @ b.weight + b.bias for x, b in zip(h1, second.branches, strict=True)]
    h2 = np.maximum(np.concatenate(outputs, axis=1), 0.0)
    logits = unpruned.h2 @ unpruned.network.weight + unpruned.network.bias
    return Network((first, second), *refit.later(h2, logits, small.weight))


def _places(unpruned: Unpruned, plan: Plan) -> list[npt.NDArray[np.int32]]:
    """Where layer 2's branches find their channels among the hidden ones that are still computed."""
    needed = joined(plan.hidden, unpruned.work.hidden)
    return [np.searchsorted(needed, keep).astype(np.int32) for keep in plan.second]


def _last(unpruned: Unpruned, plan: Plan) -> Order:
    return joined(plan.outputs, unpruned.work.outputs)
