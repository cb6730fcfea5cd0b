"""The paper's own pruning (GCNP, section 3), to compare with: gradient descent on beta under a growing λ, then on W.

Taken from the paper: layers are pruned from the classifier to the inputs; the two sub-problems

    beta   min over beta of ‖Y − Σ_c beta_c x_c w_cᵀ‖² + λ‖beta‖₁    by Adam on mini-batches of nodes, λ growing after
           every epoch until enough of beta is 0
    W      min over W of ‖Y − Σ_c beta_c x_c w_cᵀ‖²                  by Adam likewise, with the beta that was found

are solved once each (more rounds gained them nothing), in batches of 1,024 nodes, beta at a learning rate of 0.05; a
beta is shared by the branches of a layer (full inference), or there is one for each (batched inference).

Chosen here, for the paper tunes them by hand for each layer of each data set: the error is divided by the variance of
Y, so that one λ fits all; λ grows by a fixed part of 1/K each epoch; a beta that reaches or crosses 0 stays 0; W ends
after a fixed number of epochs at a falling learning rate. How long it takes depends on these: λ growing four times as
fast, with half the epochs of W, took a third of the time on amazon_cs and ended no worse at 4x, but worse at 8x.

n training nodes, K input channels, O outputs of a branch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.channels_kept import Floats, Order, Plan, Ranker, plan_backwards
from pipeline.experiments.graphs.prune import Unpruned
from pipeline.model import Layer

BATCH = 1024
BETA_RATE = 0.05
LAMBDA_STEP = 0.005  # of 1/K, an epoch
BETA_EPOCHS = 400  # at most
WEIGHT_RATE = 0.01
WEIGHT_EPOCHS = 60


class Term(NamedTuple):
    """A branch that shares beta: its inputs and its matrix."""

    x: Floats  # (n, K)
    weight: Floats  # (K, O)


def plan_by_descent(unpruned: Unpruned, scheme: str, budget: float, seed: int) -> Plan:
    """Choose the channels of a budget."""
    torch.manual_seed(seed)
    layers = unpruned.network.layers

    def ranker(blocks: list[Floats], layer: Layer) -> Ranker:
        def ranked(outputs: list[Order], counts: list[int]) -> list[Order]:
            weights = [b.weight[:, kept] for b, kept in zip(layer.branches, outputs, strict=True)]
            terms = [Term(x, w) for x, w in zip(blocks, weights, strict=True)]
            if scheme == "batched":
                return [fade([term], count) for term, count in zip(terms, counts, strict=True)]
            return [fade(terms, max(counts))] * 2

        return ranked

    few = int(unpruned.h2.shape[1] * budget**-0.5)  # inputs and outputs of a matrix shrink alike
    classifier = fade([Term(unpruned.h2, unpruned.network.weight)], few)
    first = ranker(unpruned.inputs, layers[0]) if unpruned.inputs else unpruned.all_inputs
    second = ranker(unpruned.hidden, layers[1])
    return plan_backwards(classifier, second, first, unpruned.work, budget, scheme)


def fade(terms: Sequence[Term], count: int) -> Order:
    """Solve the first sub-problem until `count` of beta are left; return the channels, the last to fade first."""
    k = len(terms[0].weight)
    parts = [(torch.from_numpy(t.x - t.x.mean(axis=0)), torch.from_numpy(t.weight)) for t in terms]
    scale = max(sum(float(((x @ w) ** 2).mean()) for x, w in parts if w.numel()), 1e-12)
    beta = torch.ones(k, requires_grad=True)
    faded_in = np.full(k, BETA_EPOCHS)
    optimizer = torch.optim.Adam([beta], lr=BETA_RATE)
    for epoch in range(BETA_EPOCHS):
        penalty = epoch * LAMBDA_STEP / k
        for batch in torch.split(torch.randperm(len(parts[0][0])), BATCH):
            optimizer.zero_grad()
            # Y is X W: the error is what beta takes from it.
            errors = [((((beta - 1) * x[batch]) @ w) ** 2).mean() for x, w in parts if w.numel()]
            loss: Any = sum(errors, torch.zeros(())) / scale + penalty * beta.abs().sum()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                faded_in[(beta <= 0).numpy() & (faded_in == BETA_EPOCHS)] = epoch
                beta.mul_(torch.from_numpy(faded_in == BETA_EPOCHS))
        if np.count_nonzero(faded_in == BETA_EPOCHS) <= count:
            break
    return np.lexsort((-beta.detach().numpy(), -faded_in))


class Descent:
    """The second sub-problem, in place of the ridge."""

    def first(self, unpruned: Unpruned, branch: int, keep: Order, kept: Order) -> tuple[Floats, Floats]:
        x, layer = unpruned.inputs[branch], unpruned.network.layers[0].branches[branch]
        y = x @ layer.weight[:, kept] + layer.bias[kept]
        return self.later(x[:, keep], y, layer.weight[np.ix_(keep, kept)])

    def later(self, x: Floats, y: Floats, before: Floats) -> tuple[Floats, Floats]:
        return by_descent(x, y, before)


def by_descent(x: Floats, y: Floats, before: Floats) -> tuple[Floats, Floats]:
    """Solve the second sub-problem from the weights before.  # (n, K), (n, O), (K, O) -> weight, bias"""
    if 0 in before.shape:
        return np.zeros(before.shape, np.float32), y.mean(axis=0)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    inputs, target = torch.from_numpy(x - x_mean), torch.from_numpy(y - y_mean)
    weight = torch.from_numpy(before.copy()).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=WEIGHT_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, WEIGHT_EPOCHS)
    scale = max(float((target**2).mean()), 1e-12)
    for _ in range(WEIGHT_EPOCHS):
        for batch in torch.split(torch.randperm(len(inputs)), BATCH):
            optimizer.zero_grad()
            loss: Any = ((inputs[batch] @ weight - target[batch]) ** 2).mean() / scale
            loss.backward()
            optimizer.step()
        schedule.step()
    found = weight.detach().numpy()
    return found, y_mean - x_mean @ found
