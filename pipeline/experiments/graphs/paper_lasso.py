"""The paper's own pruning (GCNP, section 3), to compare with: gradient descent on beta under a growing λ, then on W.

Taken from the paper: layers are pruned from the classifier to the inputs; the two sub-problems

    beta   min over beta of ‖Y − Σ_c beta_c x_c w_cᵀ‖² + λ‖beta‖₁    by Adam on mini-batches of nodes, λ growing after
           every epoch; at the end the smallest of beta are dropped
    W      min over W of ‖Y − Σ_c beta_c x_c w_cᵀ‖²                  by Adam likewise, on the channels that stay

are solved once each (more rounds gained them nothing); a beta is shared by the branches of a layer (full inference),
or there is one for each (batched inference).

Taken from the settings that its authors published for batched inference (github.com/tedzhouhk/GCNP, train_config):
batches of 1,024 nodes, 20 epochs of each, beta at a learning rate of 0.05. For full inference they take 5 to 15 epochs
of beta and 3 of W.

Chosen here, for theirs differ by layer and data set: the error is divided by the variance of Y, so that one λ fits
all; λ grows by a fixed part of 1/K an epoch, and W is learnt at a falling rate. Of three steps of λ and two rates these
were best on amazon_cs, seed 0, by validation.

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
LAMBDA_STEP = 0.02  # of 1/K, an epoch
BETA_EPOCHS = 20
WEIGHT_RATE = 0.01
WEIGHT_EPOCHS = 20


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
                return [fade([term]) for term in terms]
            return [fade(terms)] * 2

        return ranked

    classifier = fade([Term(unpruned.h2, unpruned.network.weight)])
    first = ranker(unpruned.inputs, layers[0]) if unpruned.inputs else unpruned.all_inputs
    second = ranker(unpruned.hidden, layers[1])
    return plan_backwards(classifier, second, first, unpruned.work, budget, scheme)


def fade(terms: Sequence[Term]) -> Order:
    """Solve the first sub-problem; return the channels, the largest beta first."""
    k = len(terms[0].weight)
    parts = [(torch.from_numpy(t.x - t.x.mean(axis=0)), torch.from_numpy(t.weight)) for t in terms if t.weight.size]
    scale = max(sum(float(((x @ w) ** 2).mean()) for x, w in parts), 1e-12)
    beta = torch.ones(k, requires_grad=True)
    optimizer = torch.optim.Adam([beta], lr=BETA_RATE)
    for epoch in range(BETA_EPOCHS):
        penalty = epoch * LAMBDA_STEP / k
        for batch in torch.split(torch.randperm(len(terms[0].x)), BATCH):
            optimizer.zero_grad()
            # Y is X W: the error is what beta takes from it.
            errors = [((((beta - 1) * x[batch]) @ w) ** 2).mean() for x, w in parts]
            loss: Any = sum(errors, torch.zeros(())) / scale + penalty * beta.abs().sum()
            loss.backward()
            optimizer.step()
    return np.argsort(-beta.detach().abs().numpy(), kind="stable")


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
