"""Which channels stay, and how what stays is fitted anew (GCNP, section 3): for `prune` and for whole graphs alike.

From the classifier back to layer 1, each layer's input channels get a factor beta:

    min  ‖Y − Σ_c beta_c x_c w_cᵀ‖² + λ‖beta‖₁          Y = X W, what the unpruned layer gives before its relu

then W is refitted on the channels that stay. The paper solves this by gradient descent under a growing λ. It is a
plain LASSO in beta, with the Gram matrix G = (XᵀX) ∘ (W Wᵀ) and the right side b_c = (XᵀY Wᵀ)_cc, so one LARS path on
(G, b) ranks the channels for every budget at once, in well under a second, with no λ to tune.

    scheme "full"      one ranking for all branches of a layer: whole-graph inference computes every node anyway
    scheme "batched"   a ranking for each branch, the relations' pruned harder than self

A hidden channel that no branch of layer 2 reads is never computed, nor is one that the classifier drops.

n samples, K input channels of a branch, O outputs of a branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import lars_path_gram

from pipeline.errors import ConfigError

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]  # channels, the most worthwhile first

METHODS = ("lasso", "random", "first", "magnitude")
SCHEMES = ("batched", "full")
SELF_SHARE = 1.5  # scheme batched: self keeps this many times the relations' share of channels
RIDGE = 1e-3  # of the mean diagonal of XᵀX


class Product(NamedTuple):
    """What a ranking may know of Y = X W."""

    gram: Matrix  # (K, K) XᵀX, of centred X
    weight: Matrix  # (K, O)


Ranking = Callable[[Sequence[Product], int], Order]  # ..., how many channels at the front of the order will stay
# By branch: the outputs of a layer that stay, and how many inputs will -> its input channels, ranked.
Ranker = Callable[[list[Order], list[int]], list[Order]]


@dataclass
class Plan:
    """Which channels stay, everywhere. Outputs and the classifier's channels are the same thing seen from two sides."""

    first: list[Order]  # layer 1, a branch each: raw channels
    hidden: list[Order]  # layer 1's outputs that stay, a branch each
    second: list[Order]  # layer 2, a branch each: channels of the unpruned h1
    outputs: list[Order]  # layer 2's outputs that the classifier keeps, a branch each


class Orders(NamedTuple):
    """Every layer's input channels, ranked."""

    first: list[Order]  # a branch each
    second: list[Order]
    classifier: Order


class Work(NamedTuple):
    """What a node costs: the unpruned model's widths, and how its inputs are multiplied."""

    inputs: int  # channels of layer 1's input
    hidden: list[int]  # outputs of layer 1, a branch each
    outputs: list[int]  # of layer 2
    classes: int = 1
    sparse_inputs: float | None = None  # non-zeros a node, where products skip the zeros: then all inputs stay

    def multiply_adds(self, plan: Plan) -> float:
        """Return the multiply-adds a node, all layers and the classifier together."""
        reads = [len(keep) if self.sparse_inputs is None else self.sparse_inputs for keep in plan.first]
        first = sum(read * len(o) for read, o in zip(reads, plan.hidden, strict=True))
        second = sum(len(keep) * len(o) for keep, o in zip(plan.second, plan.outputs, strict=True))
        return first + second + sum(map(len, plan.outputs)) * self.classes


# ---- rankings ----


def ranking(method: str, rng: np.random.Generator) -> Ranking:
    """Return the function that orders the channels of one or several matrix products that share them."""
    if method == "lasso":
        return lasso_order
    if method == "random":
        return lambda products, _: rng.permutation(len(products[0].gram))
    if method == "first":
        return lambda products, _: np.arange(len(products[0].gram))
    return lambda products, _: np.argsort(-sum(np.abs(p.weight).sum(axis=1) for p in products), kind="stable")


def lasso_order(products: Sequence[Product], longest: int | None = None) -> Order:
    """Order channels by when the LARS path of the LASSO in beta takes them up.

    Products that share beta add up. With Y = X W the right side is b = G · 1: beta = 1 for all channels gives Y. The
    path ends after `longest` steps (none given: one a channel); the channels that it has not met by then come last,
    those that would explain most of what is left first. A step costs O(K · channels so far).
    """
    g = np.sum([product.gram * (product.weight @ product.weight.T) for product in products], axis=0)
    scale = np.sqrt(np.maximum(np.diag(g), 1e-12 * max(np.diag(g).max(), 1e-300)))
    b = g.sum(axis=1)
    steps = len(g) if longest is None else min(longest, len(g))
    _, _, path = lars_path_gram(b, g + np.diag(1e-9 * scale**2), n_samples=1, max_iter=steps, method="lasso")
    joins = np.where((path != 0).any(axis=1), (path != 0).argmax(axis=1), path.shape[1])
    left = np.abs(b - g @ path[:, -1]) / scale
    return np.lexsort((-left, -np.abs(path[:, -1]) * scale, joins))


def ranker(products: Sequence[Product], rank: Ranking, scheme: str) -> Ranker:
    """Return what ranks each branch's input channels by the outputs that stay; scheme full: one ranking for all."""

    def ranked(outputs: list[Order], counts: list[int]) -> list[Order]:
        read = [Product(p.gram, p.weight[:, kept]) for p, kept in zip(products, outputs, strict=True)]
        if scheme == "batched":
            return [rank([product], count) for product, count in zip(read, counts, strict=True)]
        return [rank(read, max(counts))] * len(read)

    return ranked


def gram(block: npt.NDArray[Any]) -> Matrix:
    """Return XᵀX of the centred block: the bias takes care of the mean.  # (n, K) -> (K, K)"""
    moments = Moments(block.shape[1])
    moments.add(block)
    return moments.gram


# ---- how many of them stay ----


def plan_backwards(classifier: Order, second: Ranker, first: Ranker, work: Work, budget: float, scheme: str) -> Plan:
    """Choose from the classifier back to layer 1: a layer's channels are ranked by those of its outputs that are read.

    budget  the unpruned model's multiply-adds a node over the pruned one's; ConfigError where it is beyond reach
    """
    inputs, hidden = ([np.arange(k)] * len(work.hidden) for k in (work.inputs, sum(work.hidden)))
    plan = _choose(Orders(inputs, hidden, classifier), work, budget, scheme)
    hidden = second(plan.outputs, _counts(plan.second))
    plan = _choose(Orders(inputs, hidden, classifier), work, budget, scheme)
    return _choose(Orders(first(plan.hidden, _counts(plan.first)), hidden, classifier), work, budget, scheme)


def _counts(keeps: list[Order]) -> list[int]:
    return [len(keep) for keep in keeps]


def _choose(orders: Orders, work: Work, budget: float, scheme: str) -> Plan:
    """Keep the largest share of every layer's channels that the budget allows."""
    unpruned = work.multiply_adds(_plan(orders, work, 1.0, scheme))
    wanted = unpruned / budget
    low, high, best = 0.0, 1.0, _plan(orders, work, 0.0, scheme)
    while high - low > 1e-3:  # the work only grows with the share
        share = (low + high) / 2
        plan = _plan(orders, work, share, scheme)
        if work.multiply_adds(plan) <= wanted:
            low, best = share, plan
        else:
            high = share
    if work.multiply_adds(best) > wanted:
        most = unpruned / work.multiply_adds(best)
        raise ConfigError(f"budget {budget:g}: this model can be pruned {most:.0f}x at most")
    return best


def _plan(orders: Orders, work: Work, share: float, scheme: str) -> Plan:
    """Keep `share` of every layer's channels, the best ranked; self keeps more under scheme batched."""
    kept = np.sort(orders.classifier[: _count(len(orders.classifier), share)])
    outputs = by_branch(kept, work.outputs)
    second = [_best(o, share, b, scheme) for b, o in enumerate(orders.second)]
    needed = np.unique(np.concatenate([k for k, o in zip(second, outputs, strict=True) if len(o)]))
    hidden = by_branch(needed, work.hidden)
    of_inputs = share if work.sparse_inputs is None else 1.0
    first = [_best(o, of_inputs, b, scheme) for b, o in enumerate(orders.first)]
    empty = np.zeros(0, np.int64)
    second = [k if len(o) else empty for k, o in zip(second, outputs, strict=True)]
    first = [k if len(o) else empty for k, o in zip(first, hidden, strict=True)]
    return Plan(first, hidden, second, outputs)


def _best(order: Order, share: float, branch: int, scheme: str) -> Order:
    if scheme == "batched" and branch == 0:
        share *= SELF_SHARE
    return np.sort(order[: _count(len(order), share)])


def _count(channels: int, share: float) -> int:
    return min(channels, max(1, int(channels * share)))


def by_branch(channels: Order, widths: list[int]) -> list[Order]:
    """Split channel numbers of a concatenation into numbers within each branch."""
    starts = np.cumsum([0, *widths])
    return [channels[(channels >= a) & (channels < b)] - a for a, b in zip(starts[:-1], starts[1:], strict=True)]


def joined(channels: list[Order], widths: list[int]) -> Order:
    """Return numbers within each branch as numbers of the concatenation: the reverse of `by_branch`."""
    starts = np.cumsum([0, *widths[:-1]])
    return np.concatenate([kept + start for kept, start in zip(channels, starts, strict=True)])


# ---- what stays is fitted anew ----


class Moments:
    """All that least squares of y on x need to know of samples, which come some at a time: no copy of all is made."""

    def __init__(self, inputs: int, outputs: int = 0) -> None:
        self._inputs, self._count = inputs, 0
        self._origin, self._sum = np.zeros((2, inputs + outputs))  # near the mean: a sum of squares keeps its digits
        self._products = np.zeros((inputs, inputs + outputs))

    def add(self, *values: npt.NDArray[Any]) -> None:
        """Add samples: x, and y if there are outputs.  # (b, K), (b, O)"""
        both: Matrix = np.concatenate(values, axis=1, dtype=np.float64)
        if not self._count:
            self._origin = both.mean(axis=0)
        both -= self._origin
        self._count += len(both)
        self._sum += both.sum(axis=0)
        self._products += both[:, : self._inputs].T @ both

    @property
    def mean(self) -> Matrix:
        """The means of x, then those of y.  # (K + O,)"""
        mean: Matrix = self._origin + self._sum / self._count
        return mean

    @property
    def gram(self) -> Matrix:
        """XᵀX of the centred x.  # (K, K)"""
        return self._centred()[:, : self._inputs]

    def ridge(self) -> tuple[Matrix, Matrix]:
        """Return the weight (K, O) and bias (O,) with which x comes closest to y, by ridge least squares."""
        x_mean, y_mean = np.split(self.mean, [self._inputs])
        square, right = np.split(self._centred(), [self._inputs], axis=1)
        weight = _solved(square, right) if right.size else right
        return weight, y_mean - x_mean @ weight

    def _centred(self) -> Matrix:
        centred: Matrix = self._products - np.outer(self._sum[: self._inputs], self._sum) / self._count
        return centred


def ridge(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[Matrix, Matrix]:
    """Return the weight (K, O) and bias (O,) with which x comes closest to y, by ridge least squares."""
    moments = Moments(x.shape[1], y.shape[1])
    moments.add(x, y)
    return moments.ridge()


def ridge_of_product(product: Product, keep: Order, kept: Order) -> Matrix:
    """Return the weight by which the kept inputs come closest to the kept outputs of Y = X W; no pass over X."""
    if not len(keep) or not len(kept):
        return np.zeros((len(keep), len(kept)))
    return _solved(product.gram[np.ix_(keep, keep)], product.gram[keep] @ product.weight[:, kept])


def _solved(square: Matrix, right: Matrix) -> Matrix:
    penalty = RIDGE * max(float(np.trace(square)) / len(square), 1e-12)
    return np.asarray(np.linalg.solve(square + penalty * np.eye(len(square)), right), np.float64)
