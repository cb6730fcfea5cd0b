"""Channel pruning: fewer multiply-adds a target for hardly any accuracy (GCNP, section 3).

From the classifier back to layer 1, each layer's input channels get a factor beta:

    min  ‖Y − Σ_c beta_c x_c w_cᵀ‖² + λ‖beta‖₁          Y = X W, what the unpruned layer gives before its relu

then W is refitted on the channels that stay, and layer 2 and the classifier are tuned to the unpruned model's scores
(distillation: Hinton et al., arXiv 1503.02531). The paper solves this by gradient descent under a growing λ. It is a
plain LASSO in beta, with the Gram matrix G = (XᵀX) ∘ (W Wᵀ) and the right side b_c = (XᵀY Wᵀ)_cc, so one LARS path on
(G, b) ranks the channels for every budget at once, in well under a second, with no λ to tune.

    scheme "full"      one ranking for all branches of a layer: whole-graph inference computes every node anyway
    scheme "batched"   a ranking for each branch, the relations' pruned harder than self

A hidden channel that no branch of layer 2 reads is never computed, nor is one that the classifier drops.

n samples, K input channels of a branch, O outputs of a branch, R relations.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import lars_path_gram

from pipeline.errors import ConfigError
from pipeline.fit import FitOptions, fit_layer
from pipeline.history import History, Split
from pipeline.log import Record
from pipeline.model import Branch, Layer, Model
from pipeline.train import branch_blocks, check_samples, judge, learn_reference

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]  # channels, the most worthwhile first

METHODS = ("lasso", "random", "first", "magnitude")
SCHEMES = ("batched", "full")
SELF_SHARE = 1.5  # scheme batched: self keeps this many times the relations' share of channels
RIDGE = 1e-3  # of the mean diagonal of XᵀX
# What the unpruned model says is smoother than labels are: it can be learned for longer, and without dropout.
FINE_TUNING = FitOptions(epochs=30, patience=8, learning_rate=1e-3, weight_decay=0.01, dropout=0.0)


class Product(NamedTuple):
    """What a ranking may know of Y = X W."""

    gram: Matrix  # (K, K) XᵀX, of centred X
    weight: Matrix  # (K, O)


Ranking = Callable[[Sequence[Product]], Order]


@dataclass(frozen=True)
class PruneOptions:
    budget: float = 4.0  # the unpruned model's multiply-adds a target over the pruned one's
    scheme: str = "batched"
    method: str = "lasso"
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    fit: FitOptions = field(default_factory=lambda: FINE_TUNING)


@dataclass
class Plan:
    """Which channels stay, everywhere. Outputs and the classifier's channels are the same thing seen from two sides."""

    first: list[Order]  # layer 1, a branch each: raw channels
    hidden: list[Order]  # layer 1's outputs that stay, a branch each
    second: list[Order]  # layer 2, a branch each: channels of the unpruned h1
    outputs: list[Order]  # layer 2's outputs that the classifier keeps, a branch each

    @property
    def multiply_adds(self) -> int:
        layers = ((self.first, self.hidden), (self.second, self.outputs))
        products = sum(len(k) * len(o) for keeps, outputs in layers for k, o in zip(keeps, outputs, strict=True))
        return products + sum(map(len, self.outputs))


class Pruned(NamedTuple):
    """A model pruned on a history, before and after fine-tuning."""

    refitted: Model
    tuned: Model
    hidden: tuple[Floats, Floats]  # what layer 2 of both reads
    seconds: float  # of ranking and refitting layer 1


def prune(model: Model, records: Iterable[Record], options: PruneOptions) -> tuple[Model, dict[str, Any]]:
    """Prune a model on the log that it was trained on; return the small model and its report."""
    _check(model, options)
    history = History(model.schema, records)
    split = check_samples(history, options.shares)
    inputs = history.inputs(model.transform, model.input_keep)
    hidden = history.hidden(model.layers[0], *inputs)
    before = judge(replace(model), history, split, hidden)
    pruned = prune_on(model, history, split, inputs, hidden, options)
    refitted = judge(pruned.refitted, history, split, pruned.hidden)
    metrics = judge(pruned.tuned, history, split, pruned.hidden)
    small, seconds = pruned.tuned, round(pruned.seconds, 3)
    small.report["pruning"] |= {"seconds": seconds, "unpruned": before["test"], "refitted": refitted["test"]}
    small.report["metrics"] = metrics
    small.report["reference"] = learn_reference(small, history, split, pruned.hidden)
    return small, {
        **metrics["test"],
        "before": before["test"],
        "refitted": refitted["test"],
        "multiply_adds": small.multiply_adds,
        "multiply_adds_before": model.multiply_adds,
        "pruning_seconds": seconds,
    }


def prune_on(
    model: Model,
    history: History,
    split: Split,
    inputs: tuple[Floats, Floats],
    hidden: tuple[Floats, Floats],
    options: PruneOptions,
) -> Pruned:
    """Prune a model where its history is replayed already: `inputs` and `hidden` are what its two layers read.

    Nothing of the test part is looked at; thresholds and reports are left to the caller.
    """
    _check(model, options)
    began = time.perf_counter()
    train = history.sample_entry[split.train]
    blocks = (branch_blocks(inputs, train), branch_blocks(hidden, train))
    plan = make_plan(model, blocks, options)
    first = _refit(model.layers[0], blocks[0], plan.first, plan.hidden)
    seconds = time.perf_counter() - began
    return _finish(model, plan, first, history, split, inputs, hidden, options, seconds)


def _check(model: Model, options: PruneOptions) -> None:
    if options.budget < 1:
        raise ConfigError(f"budget {options.budget:g}: expected at least 1, for example 4 for a quarter of the work")
    if "pruning" in model.report:
        raise ConfigError("the model is pruned already; prune the one it was made from")


# ---- which channels stay ----


def make_plan(model: Model, blocks: tuple[list[Floats], list[Floats]], options: PruneOptions) -> Plan:
    """Rank every layer's channels, then keep the largest share of them that the budget allows."""
    rank = ranking(options.method, np.random.default_rng(options.fit.seed))
    first, second = model.layers
    classifier = _rank_classifier(model, blocks[1], rank)
    orders = [_rank_layer(layer, x, rank, options.scheme) for layer, x in zip((first, second), blocks, strict=True)]
    wanted = model.multiply_adds / options.budget
    low, high, best = 0.0, 1.0, _plan(model, orders, classifier, 0.0, options.scheme)
    while high - low > 1e-3:  # the work only grows with the share
        share = (low + high) / 2
        plan = _plan(model, orders, classifier, share, options.scheme)
        if plan.multiply_adds <= wanted:
            low, best = share, plan
        else:
            high = share
    if best.multiply_adds > wanted:
        most = model.multiply_adds / best.multiply_adds
        raise ConfigError(f"budget {options.budget:g}: this model can be pruned {most:.0f}x at most")
    return best


def ranking(method: str, rng: np.random.Generator) -> Ranking:
    """Return the function that orders the channels of one or several matrix products that share them."""
    if method == "lasso":
        return lasso_order
    if method == "random":
        return lambda products: rng.permutation(len(products[0].gram))
    if method == "first":
        return lambda products: np.arange(len(products[0].gram))
    return lambda products: np.argsort(-sum(np.abs(p.weight).sum(axis=1) for p in products), kind="stable")


def lasso_order(products: Sequence[Product]) -> Order:
    """Order channels by when the LARS path of the LASSO in beta takes them up; those it never does come last.

    Products that share beta add up. With Y = X W the right side is b = G · 1: beta = 1 for all channels gives Y.
    """
    g = np.sum([product.gram * (product.weight @ product.weight.T) for product in products], axis=0)
    scale = np.sqrt(np.maximum(np.diag(g), 1e-12 * max(np.diag(g).max(), 1e-300)))
    _, _, path = lars_path_gram(g.sum(axis=1), g + np.diag(1e-9 * scale**2), n_samples=1, method="lasso")
    joins = np.where((path != 0).any(axis=1), (path != 0).argmax(axis=1), path.shape[1])
    return np.lexsort((-np.abs(path[:, -1]) * scale, joins))


def _rank_classifier(model: Model, blocks: list[Floats], rank: Ranking) -> Order:
    h2 = model.layers[1].forward(blocks[0], np.stack(blocks[1:], axis=1))
    return rank([Product(_gram(h2), model.weight[:, None].astype(np.float64))])


def _rank_layer(layer: Layer, blocks: list[Floats], rank: Ranking, scheme: str) -> list[Order]:
    """Rank each branch's input channels; scheme full gives all branches one ranking."""
    products = [
        Product(_gram(x[:, branch.keep]), branch.weight.astype(np.float64))
        for x, branch in zip(blocks, layer.branches, strict=True)
    ]
    if scheme == "batched":
        return [rank([product]) for product in products]
    return [rank(products)] * len(products)


def _gram(block: Floats) -> Matrix:
    x = block.astype(np.float64)
    x -= x.mean(axis=0)  # the bias takes care of the mean
    return x.T @ x


def _plan(model: Model, orders: list[list[Order]], classifier: Order, share: float, scheme: str) -> Plan:
    """Keep `share` of every layer's channels, the best ranked; self keeps more under scheme batched."""
    widths = [len(branch.bias) for branch in model.layers[1].branches]
    kept = np.sort(classifier[: _count(len(classifier), share)])
    outputs = _by_branch(kept, widths)
    second = [_best(o, share, b, scheme) for b, o in enumerate(orders[1])]
    needed = np.unique(np.concatenate([k for k, o in zip(second, outputs, strict=True) if len(o)]))
    hidden = _by_branch(needed, [len(branch.bias) for branch in model.layers[0].branches])
    first = [_best(o, share, b, scheme) for b, o in enumerate(orders[0])]
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


def _by_branch(channels: Order, widths: list[int]) -> list[Order]:
    """Split channel numbers of a concatenation into numbers within each branch."""
    starts = np.cumsum([0, *widths])
    return [channels[(channels >= a) & (channels < b)] - a for a, b in zip(starts[:-1], starts[1:], strict=True)]


# ---- what stays is fitted anew ----


def _refit(layer: Layer, blocks: list[Floats], keeps: list[Order], outputs: list[Order]) -> Layer:
    """Ridge least squares: the kept channels give, as well as they can, what all of them gave."""
    branches = []
    for branch, block, keep, kept in zip(layer.branches, blocks, keeps, outputs, strict=True):
        full = block[:, branch.keep].astype(np.float64)
        y = full @ branch.weight[:, kept].astype(np.float64) + branch.bias[kept]
        branches.append(_ridge(full[:, keep], y, branch.keep[keep]))
    return Layer(branches)


def _ridge(x: Matrix, y: Matrix, keep: npt.NDArray[np.int32]) -> Branch:
    if x.shape[1] == 0 or y.shape[1] == 0:
        return Branch(keep, np.zeros((x.shape[1], y.shape[1]), np.float32), y.mean(axis=0).astype(np.float32))
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    gram = (x - x_mean).T @ (x - x_mean)
    penalty = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    weight = np.linalg.solve(gram + penalty * np.eye(len(gram)), (x - x_mean).T @ (y - y_mean))
    return Branch(keep, weight.astype(np.float32), (y_mean - x_mean @ weight).astype(np.float32))


def _finish(
    model: Model,
    plan: Plan,
    first: Layer,
    history: History,
    split: Split,
    inputs: tuple[Floats, Floats],
    hidden: tuple[Floats, Floats],
    options: PruneOptions,
    seconds: float,
) -> Pruned:
    """Run stages B and C with the small layer 1, refit and fine-tune what follows."""
    train = history.sample_entry[split.train]
    small = history.hidden(first, *inputs)
    needed = _joined(plan.hidden, [len(branch.bias) for branch in model.layers[0].branches])
    second, weight, bias = _refit_second(model, plan, needed, branch_blocks(hidden, train), branch_blocks(small, train))
    used = np.unique(np.concatenate([branch.keep for branch in first.branches])).astype(np.int32)
    pruned = replace(
        model,
        input_keep=model.input_keep[used],
        layers=(_renumbered(first, used), second),
        weight=weight,
        bias=bias,
    )
    blocks = [b[:, k.keep] for b, k in zip(branch_blocks(small, history.sample_entry), second.branches, strict=True)]
    large = model.layers[1].forward(*(values[history.sample_entry] for values in hidden))
    fitted = fit_layer(
        blocks, [b.keep for b in second.branches], [len(b.bias) for b in second.branches], history.truth, split,
        options.fit, start=(second, weight, bias), taught=model.classify(large), title="fine-tune",
    )  # fmt: skip
    tuned = replace(pruned, layers=(pruned.layers[0], fitted.layer), weight=fitted.weight, bias=fitted.bias)
    about = {"budget": options.budget, "scheme": options.scheme, "method": options.method, "kept": _kept(model, plan)}
    tuned.report = dict(model.report) | {"pruning": about}
    return Pruned(pruned, tuned, small, seconds)


def _refit_second(
    model: Model, plan: Plan, needed: Order, full: list[Floats], small: list[Floats]
) -> tuple[Layer, Floats, float]:
    """Refit layer 2 on the small layer 1's outputs, towards what it gave before; the classifier on what stays."""
    branches = []
    for b, branch in enumerate(model.layers[1].branches):
        kept = plan.outputs[b]
        y = full[b][:, branch.keep].astype(np.float64) @ branch.weight[:, kept] + branch.bias[kept]
        place = np.searchsorted(needed, plan.second[b]).astype(np.int32)
        branches.append(_ridge(small[b][:, place].astype(np.float64), y, place))
    second = Layer(branches)
    logits = model.layers[1].forward(full[0], np.stack(full[1:], axis=1)) @ model.weight + np.float32(model.bias)
    h2 = second.forward(small[0], np.stack(small[1:], axis=1)).astype(np.float64)
    last = _ridge(h2, logits.astype(np.float64)[:, None], np.arange(h2.shape[1], dtype=np.int32))
    return second, last.weight[:, 0], float(last.bias[0])


def _renumbered(layer: Layer, used: npt.NDArray[np.int32]) -> Layer:
    """Number a layer's channels among those that any branch uses: the others are never computed or stored."""
    return Layer([replace(b, keep=np.searchsorted(used, b.keep).astype(np.int32)) for b in layer.branches])


def _joined(by_branch: list[Order], widths: list[int]) -> Order:
    starts = np.cumsum([0, *widths[:-1]])
    return np.concatenate([channels + start for channels, start in zip(by_branch, starts, strict=True)])


def _kept(model: Model, plan: Plan) -> dict[str, Any]:
    """What stayed, for people: channel names of layer 1's inputs, numbers of the hidden channels."""
    names = np.array(model.schema.channel_names)[model.input_keep]
    branches = ["self", *model.schema.relation_names]
    return {
        "inputs": {b: names[keep].tolist() for b, keep in zip(branches, plan.first, strict=True)},
        "hidden": {b: keep.tolist() for b, keep in zip(branches, plan.hidden, strict=True)},
        "outputs": {b: keep.tolist() for b, keep in zip(branches, plan.outputs, strict=True)},
    }
