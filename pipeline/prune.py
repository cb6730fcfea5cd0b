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
    Moments,
    Order,
    Plan,
    Product,
    Work,
    joined,
    plan_backwards,
    ranker,
    ranking,
    ridge_of_product,
)
from pipeline.errors import ConfigError
from pipeline.fit import FitOptions, fit_layer
from pipeline.fit_inputs import Reads
from pipeline.history import History, Split
from pipeline.log import Record
from pipeline.model import Branch, Layer, Model, probability
from pipeline.train import Trained, batches, calibrate, check_samples, judge, learn_reference, logits

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
    seen = _see(unpruned, train)
    plan = make_plan(model, seen, options)
    first = _refit(model.layers[0], seen.inputs, plan)
    seconds = time.perf_counter() - began
    small = history.hidden(first, *unpruned.inputs)
    large = logits(model, history, slice(None), unpruned.hidden)
    refitted = _refitted(unpruned, plan, first, small, train, large[split.train])
    tuned = _tuned(refitted, history, split, small, probability(large), options)
    about = {"budget": options.budget, "scheme": options.scheme, "method": options.method, "kept": _kept(model, plan)}
    tuned.report = dict(model.report) | {"pruning": about}
    return Pruned(refitted, tuned, small, seconds)


def _check(model: Model, options: PruneOptions) -> None:
    if options.budget < 1:
        raise ConfigError(f"budget {options.budget:g}: expected at least 1, for example 4 for a quarter of the work")
    if "pruning" in model.report:
        raise ConfigError("the model is pruned already; prune the one it was made from")


# ---- which channels stay ----


class Seen(NamedTuple):
    """What the layers and the classifier read on the training part, as least squares see it."""

    inputs: list[Moments]  # of the channels that layer 1 reads, a branch each
    hidden: list[Moments]  # that layer 2 reads
    outputs: Moments  # of layer 2's


def _see(unpruned: Trained, rows: npt.NDArray[np.int64]) -> Seen:
    layers = unpruned.model.layers
    of_layers = [[Moments(len(branch.keep)) for branch in layer.branches] for layer in layers]
    outputs = Moments(layers[1].width)
    for some in batches(rows):
        for layer, moments, values in zip(layers, of_layers, (unpruned.inputs, unpruned.hidden), strict=True):
            own, means = (value[some] for value in values)
            for branch, of, block in zip(layer.branches, moments, _blocks(own, means), strict=True):
                of.add(block[:, branch.keep])
        outputs.add(layers[1].forward(own, means))  # of the hidden features, which came last
    return Seen(of_layers[0], of_layers[1], outputs)


def _blocks(own: Floats, means: Floats) -> list[Floats]:
    """Return what each branch reads: self, then each relation.  # (b, W), (b, R, W) -> (b, W) each"""
    return [own, *means.transpose(1, 0, 2)]


def make_plan(model: Model, seen: Seen, options: PruneOptions) -> Plan:
    """Rank every layer's channels, then keep the largest share of them that the budget allows."""
    rank = ranking(options.method, np.random.default_rng(options.fit.seed))
    classifier = rank([Product(seen.outputs.gram, model.weight[:, None].astype(np.float64))], len(model.weight))
    first, second = (
        ranker(_products(layer, moments), rank, options.scheme)
        for layer, moments in zip(model.layers, (seen.inputs, seen.hidden), strict=True)
    )
    hidden, outputs = ([len(branch.bias) for branch in layer.branches] for layer in model.layers)
    work = Work(len(model.input_keep), hidden, outputs)
    return plan_backwards(classifier, second, first, work, options.budget, options.scheme)


def _products(layer: Layer, moments: list[Moments]) -> list[Product]:
    return [
        Product(of.gram, branch.weight.astype(np.float64)) for of, branch in zip(moments, layer.branches, strict=True)
    ]


# ---- what stays is fitted anew ----


def _refit(layer: Layer, moments: list[Moments], plan: Plan) -> Layer:
    """Ridge least squares: the kept channels give, as well as they can, what all of them gave."""
    branches = []
    parts = zip(layer.branches, _products(layer, moments), moments, plan.first, plan.hidden, strict=True)
    for branch, product, of, keep, kept in parts:
        weight = ridge_of_product(product, keep, kept)
        bias = branch.bias[kept] + of.mean @ product.weight[:, kept] - of.mean[keep] @ weight
        branches.append(_branch(branch.keep[keep], weight, bias))
    return Layer(branches)


def _branch(keep: npt.NDArray[np.int32], weight: Matrix, bias: Matrix) -> Branch:
    return Branch(keep, weight.astype(np.float32), bias.astype(np.float32))


def _refitted(
    unpruned: Trained, plan: Plan, first: Layer, small: tuple[Floats, Floats], rows: npt.NDArray[np.int64], said: Floats
) -> Model:
    """Put the small layer 1 in place, with all that follows refitted to it.

    small  what layer 2 reads behind it; rows, said  the training part's entries, the unpruned model's logits
    """
    model = unpruned.model
    needed = joined(plan.hidden, [len(branch.bias) for branch in model.layers[0].branches])
    second = _refit_second(unpruned, plan, needed, small, rows)
    last = Moments(second.width, 1)
    for some, wanted in zip(batches(rows), batches(said), strict=True):
        last.add(second.forward(*(values[some] for values in small)), wanted[:, None])
    weight, bias = last.ridge()
    used = np.unique(np.concatenate([branch.keep for branch in first.branches])).astype(np.int32)
    return replace(
        model, input_keep=model.input_keep[used], layers=(_renumbered(first, used), second),
        weight=weight[:, 0].astype(np.float32), bias=float(bias[0]),
    )  # fmt: skip


def _tuned(
    refitted: Model, history: History, split: Split, hidden: tuple[Floats, Floats], large: Floats, options: PruneOptions
) -> Model:
    """Fine-tune layer 2 and the classifier towards the unpruned model's scores.

    hidden  what layer 2 reads; large  (n,) those scores
    """
    first, second = refitted.layers
    reads = Reads(*hidden, history.sample_entry, [branch.keep for branch in second.branches])
    start = (second, refitted.weight, refitted.bias)
    widths = [len(branch.bias) for branch in second.branches]
    fitted = fit_layer(
        reads, widths, history.truth, split, options.fit, start=start, taught=large, title="fine-tune"
    )  # fmt: skip
    tuned = replace(refitted, layers=(first, fitted.layer), weight=fitted.weight, bias=fitted.bias)
    calibrate(tuned, history, split, hidden)
    return tuned


def _refit_second(
    unpruned: Trained, plan: Plan, needed: Order, small: tuple[Floats, Floats], rows: npt.NDArray[np.int64]
) -> Layer:
    """Refit layer 2 on the small layer 1's outputs, towards what it gave before its relu."""
    places = [np.searchsorted(needed, keep).astype(np.int32) for keep in plan.second]
    moments = [Moments(len(place), len(kept)) for place, kept in zip(places, plan.outputs, strict=True)]
    wanted = [
        Branch(branch.keep, branch.weight[:, kept], branch.bias[kept])
        for branch, kept in zip(unpruned.model.layers[1].branches, plan.outputs, strict=True)
    ]
    for some in batches(rows):
        full, pruned = (_blocks(own[some], means[some]) for own, means in (unpruned.hidden, small))
        for of, branch, place, x, y in zip(moments, wanted, places, pruned, full, strict=True):
            of.add(x[:, place], y[:, branch.keep] @ branch.weight + branch.bias)
    return Layer([_branch(place, *of.ridge()) for place, of in zip(places, moments, strict=True)])


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
