"""Channel pruning: fewer multiply-adds a target for hardly any accuracy (GCNP, section 3).

`channels_kept` ranks and chooses; here the choice is made on a model's training log, what stays is refitted, and layer
2 with the classifier is fine-tuned on the small layer 1's outputs, to the unpruned model's scores (distillation: Hinton
et al., arXiv 1503.02531).

n samples, K input channels of a branch, O outputs of a branch, R relations.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.channels_kept import (
    Floats,
    Matrix,
    Order,
    Plan,
    Product,
    Ranking,
    Work,
    gram,
    joined,
    plan_backwards,
    ranker,
    ranking,
    ridge,
)
from pipeline.errors import ConfigError
from pipeline.fit import FitOptions, fit_layer
from pipeline.fit_inputs import Reads
from pipeline.history import History, Split
from pipeline.log import Record
from pipeline.model import Branch, Layer, Model, probability
from pipeline.train import Trained, branch_blocks, calibrate, check_samples, judge, learn_reference, logits

# What the unpruned model says is smoother than labels are: it can be learned for longer, and without dropout.
FINE_TUNING = FitOptions(epochs=30, patience=8, learning_rate=1e-3, weight_decay=0.01, dropout=0.0)


@dataclass(frozen=True)
class PruneOptions:
    budget: float = 4.0  # the unpruned model's multiply-adds a target over the pruned one's
    scheme: str = "batched"
    method: str = "lasso"
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    precision: float | None = None  # as in training
    fit: FitOptions = field(default_factory=lambda: FINE_TUNING)


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
    unpruned = Trained(model, inputs, history.hidden(model.layers[0], *inputs))
    before = judge(replace(model), history, split, unpruned.hidden, options.precision)
    pruned = prune_on(unpruned, history, split, options)
    refitted = judge(pruned.refitted, history, split, pruned.hidden, options.precision)
    metrics = judge(pruned.tuned, history, split, pruned.hidden, options.precision)
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


def prune_on(unpruned: Trained, history: History, split: Split, options: PruneOptions) -> Pruned:
    """Prune a model where its history is replayed already.

    Nothing of the test part is looked at; thresholds and reports are left to the caller.
    """
    model = unpruned.model
    _check(model, options)
    began = time.perf_counter()
    train = history.sample_entry[split.train]
    blocks = (branch_blocks(unpruned.inputs, train), branch_blocks(unpruned.hidden, train))
    plan = make_plan(model, blocks, options)
    first = _refit(model.layers[0], blocks[0], plan.first, plan.hidden)
    seconds = time.perf_counter() - began
    small = history.hidden(first, *unpruned.inputs)
    refitted = _refitted(model, plan, first, blocks[1], branch_blocks(small, train))
    tuned = _tuned(refitted, unpruned, history, split, small, options)
    about = {"budget": options.budget, "scheme": options.scheme, "method": options.method, "kept": _kept(model, plan)}
    tuned.report = dict(model.report) | {"pruning": about}
    return Pruned(refitted, tuned, small, seconds)


def _check(model: Model, options: PruneOptions) -> None:
    if options.budget < 1:
        raise ConfigError(f"budget {options.budget:g}: expected at least 1, for example 4 for a quarter of the work")
    if "pruning" in model.report:
        raise ConfigError("the model is pruned already; prune the one it was made from")


# ---- which channels stay ----


def make_plan(model: Model, blocks: tuple[list[Floats], list[Floats]], options: PruneOptions) -> Plan:
    """Rank every layer's channels, then keep the largest share of them that the budget allows."""
    rank = ranking(options.method, np.random.default_rng(options.fit.seed))
    classifier = _rank_classifier(model, blocks[1], rank)
    first, second = (
        ranker(_products(layer, x), rank, options.scheme) for layer, x in zip(model.layers, blocks, strict=True)
    )
    hidden, outputs = ([len(branch.bias) for branch in layer.branches] for layer in model.layers)
    work = Work(len(model.input_keep), hidden, outputs)
    return plan_backwards(classifier, second, first, work, options.budget, options.scheme)


def _rank_classifier(model: Model, blocks: list[Floats], rank: Ranking) -> Order:
    h2 = model.layers[1].forward(blocks[0], np.stack(blocks[1:], axis=1))
    return rank([Product(gram(h2), model.weight[:, None].astype(np.float64))], h2.shape[1])


def _products(layer: Layer, blocks: list[Floats]) -> list[Product]:
    return [
        Product(gram(x[:, branch.keep]), branch.weight.astype(np.float64))
        for x, branch in zip(blocks, layer.branches, strict=True)
    ]


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
    weight, bias = ridge(x, y)
    return Branch(keep, weight.astype(np.float32), bias.astype(np.float32))


def _refitted(model: Model, plan: Plan, first: Layer, full: list[Floats], small: list[Floats]) -> Model:
    """Put the small layer 1 in place, with all that follows refitted to it.

    full, small  what layer 2 reads on the training part, behind the unpruned layer 1 and behind the small one
    """
    needed = joined(plan.hidden, [len(branch.bias) for branch in model.layers[0].branches])
    second, weight, bias = _refit_second(model, plan, needed, full, small)
    used = np.unique(np.concatenate([branch.keep for branch in first.branches])).astype(np.int32)
    layers = (_renumbered(first, used), second)
    return replace(model, input_keep=model.input_keep[used], layers=layers, weight=weight, bias=bias)


def _tuned(
    refitted: Model,
    unpruned: Trained,
    history: History,
    split: Split,
    hidden: tuple[Floats, Floats],
    options: PruneOptions,
) -> Model:
    """Fine-tune layer 2 and the classifier towards the unpruned model's scores; `hidden` is what layer 2 reads."""
    first, second = refitted.layers
    reads = Reads(*hidden, history.sample_entry, [branch.keep for branch in second.branches])
    large = probability(logits(unpruned.model, history, slice(None), unpruned.hidden))
    start = (second, refitted.weight, refitted.bias)
    widths = [len(branch.bias) for branch in second.branches]
    fitted = fit_layer(
        reads, widths, history.truth, split, options.fit, start=start, taught=large, title="fine-tune"
    )  # fmt: skip
    tuned = replace(refitted, layers=(first, fitted.layer), weight=fitted.weight, bias=fitted.bias)
    calibrate(tuned, history, split, hidden)
    return tuned


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
    wanted = model.logits(model.layers[1].forward(full[0], np.stack(full[1:], axis=1)))
    h2 = second.forward(small[0], np.stack(small[1:], axis=1)).astype(np.float64)
    last = _ridge(h2, wanted.astype(np.float64)[:, None], np.arange(h2.shape[1], dtype=np.int32))
    return second, last.weight[:, 0], float(last.bias[0])


def _renumbered(layer: Layer, used: npt.NDArray[np.int32]) -> Layer:
    """Number a layer's channels among those that any branch uses: the others are never computed or stored."""
    return Layer([replace(b, keep=np.searchsorted(used, b.keep).astype(np.int32)) for b in layer.branches])


def _kept(model: Model, plan: Plan) -> dict[str, Any]:
    """What stayed, for people: channel names of layer 1's inputs, numbers of the hidden channels."""
    names = np.array(model.schema.channel_names)[model.input_keep]
    branches = ["self", *model.schema.relation_names]
    return {
        "inputs": {b: names[keep].tolist() for b, keep in zip(branches, plan.first, strict=True)},
        "hidden": {b: keep.tolist() for b, keep in zip(branches, plan.hidden, strict=True)},
        "outputs": {b: keep.tolist() for b, keep in zip(branches, plan.outputs, strict=True)},
    }
