"""Training, layer by layer, on the inputs that serving will see.

    1  replay the log through the graph             operation logs, raw channels
    2  fit the input transform on the training part; a teacher says how likely each label was
    3  stage A fixes X1; fit layer 1 with a classifier of its own
    4  stages B and C fix X2; fit layer 2 and the final classifier on what layer 1's verdict misses
    5  calibrate the scores and choose the threshold on validation, report on test

Samples are split by time; validation stops each fit; the test part is looked at once, at the end.

Layer 2 begins from layer 1's verdict, its logit, and learns the rest (boosting, in two steps): where the neighbours'
hidden features tell nothing new, as on a small data set, it adds nothing and overfits on nothing. In the model the
verdict is two more outputs of layer 2's self branch, relu(z) and relu(-z), for z = relu(z) - relu(-z): no other
arithmetic.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.calibration import fit_platt
from pipeline.drift import Bins, Reference, fit_bins, watched
from pipeline.errors import DataError
from pipeline.evaluate import best_f1_threshold, precision_threshold, report
from pipeline.fit import FitOptions, Fitted, fit_layer
from pipeline.fit_inputs import BATCH, Reads
from pipeline.history import History, Split
from pipeline.log import Record
from pipeline.model import Branch, Layer, Model, probability
from pipeline.schema import Schema
from pipeline.teacher import soften
from pipeline.transform import fit_transform

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
LEAST_SAMPLES = 100  # fewer labelled targets than this teach nothing


@dataclass(frozen=True)
class TrainOptions:
    hidden: int = 32  # channels a branch, both layers
    member_channels: int = 32  # ... of which so many are a network of their own
    transform: str = "quantile"
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    teacher: float = 0.7  # how much of what the layers learn is the teacher's word; the rest is the label
    teacher_until: int = 100_000  # training samples; more speak for themselves
    precision: float | None = None  # of what is called spam, on validation; None: wherever F1 is best
    fit: FitOptions = field(default_factory=FitOptions)

    @property
    def members(self) -> int:
        """How many networks stand side by side."""
        return max(1, self.hidden // self.member_channels)


class Trained(NamedTuple):
    """A model on its history: what its two layers read there, own values and means over lists."""

    model: Model
    inputs: tuple[Floats, Floats]  # (N, K), (N, R, K)
    hidden: tuple[Floats, Floats]  # (N, H), (N, R, H)


def train(schema: Schema, records: Iterable[Record], options: TrainOptions) -> tuple[Model, dict[str, Any]]:
    """Train a model on a recorded log; return it with its report (metrics on the test part, seconds)."""
    began = time.perf_counter()
    history = History(schema, records)
    split = check_samples(history, options.shares)
    model, _, hidden = train_on(history, split, options)
    model.report["metrics"] = judge(model, history, split, hidden, options.precision)
    model.report["reference"] = learn_reference(model, history, split, hidden)
    return model, {**model.report["metrics"]["test"], "seconds": round(time.perf_counter() - began, 2)}


def train_on(history: History, split: Split, options: TrainOptions) -> Trained:
    """Train where the history is replayed already; nothing of the test part is looked at.

    The threshold and the report of metrics are left to the caller.
    """
    schema, boundary = history.schema, int(history.sample_entry[split.validation.start])
    transform = fit_transform(options.transform, history.raw_until(boundary), schema.indicators)
    keep = np.arange(len(schema.channel_names), dtype=np.int32)
    inputs = history.inputs(transform, keep)
    taught = lesson(history.truth, inputs[0][history.sample_entry], split, options)
    first = _fit(history, split, inputs, taught, options, "layer 1")
    hidden = history.hidden(first.layer, *inputs)
    verdict = _verdict(first, history, inputs)
    second = _with_verdict(first, _fit(history, split, hidden, taught, options, "layer 2", verdict))
    model = Model(
        schema=schema, transform=transform, input_keep=keep, layers=(first.layer, second.layer),
        weight=second.weight, bias=second.bias, threshold=0.5,
    )  # fmt: skip
    calibrate(model, history, split, hidden)
    model.report = {"training": _training(history, split, options, [first, second])}
    return Trained(model, inputs, hidden)


def lesson(truth: npt.NDArray[np.int8], own: Floats, split: Split, options: TrainOptions) -> Floats:
    """Return what layers learn of the samples, as probabilities.  # (n,), (n, K) own raw channels -> (n,)"""
    share = options.teacher if split.train.stop <= options.teacher_until else 0.0
    return soften(truth, own, split.train, share, options.fit.seed)


def check_samples(history: History, shares: tuple[float, float, float]) -> Split:
    """Split the samples; DataError where a part lacks spam, or all else; a share of 0 leaves its part empty."""
    count = len(history.truth)
    if count < LEAST_SAMPLES:
        raise DataError(
            f"{count} of {history.entries} scored nodes are labelled later in the log, "
            f"expected at least {LEAST_SAMPLES}; label events must follow the nodes they judge"
        )
    split = Split.of(count, shares)
    for (name, part), share in zip(asdict(split).items(), shares, strict=True):
        if share and len(np.unique(history.truth[part])) < 2:
            raise DataError(f"the {name} part has labels of one class only; give a longer log")
    return split


def logits(model: Model, history: History, part: slice, hidden: tuple[Floats, Floats]) -> Floats:
    """Return the logits of some samples.  # (n,)"""
    return by_batches(
        lambda h, means: model.logits(model.layers[1].forward(h, means)), hidden, history.sample_entry[part]
    )


def by_batches(say: Callable[[Floats, Floats], Floats], values: tuple[Floats, Floats], rows: Rows) -> Floats:
    """Return what `say` makes of the own values and the means of `rows`, without a copy of all of them.  # (b,)"""
    own, means = values
    return np.concatenate([say(own[some], means[some]) for some in batches(rows)])


def batches(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Cut `rows` into pieces of which a copy of the values is no burden."""
    return np.split(rows, range(BATCH, len(rows), BATCH))


def calibrate(model: Model, history: History, split: Split, hidden: tuple[Floats, Floats]) -> None:
    """Let scores mean probabilities: stretch and shift the logits as validation says (Platt, 1999).

    Both are folded into the classifier. No order of scores changes, for the stretch is above zero.
    """
    truth = history.truth[split.validation]
    stretch, shift = fit_platt(truth, logits(model, history, split.validation, hidden))
    model.weight = (model.weight * stretch).astype(np.float32)
    model.bias = model.bias * stretch + shift


def judge(
    model: Model, history: History, split: Split, hidden: tuple[Floats, Floats], precision: float | None = None
) -> dict[str, Any]:
    """Choose the model's threshold on validation and report both parts."""
    scores = probability(logits(model, history, slice(None), hidden))
    known = history.truth[split.validation], scores[split.validation]
    model.threshold = best_f1_threshold(*known) if precision is None else precision_threshold(*known, precision)
    parts = {"validation": split.validation, "test": split.test}
    return {name: report(history.truth[part], scores[part], model.threshold) for name, part in parts.items()}


def learn_reference(model: Model, history: History, split: Split, hidden: tuple[Floats, Floats]) -> dict[str, Any]:
    """Return what drift is measured against, for the checkpoint; a model that was pruned keeps its features' part.

    Scores are of all targets, labelled or not: moderators look at what is suspicious, a service sees the rest too.
    """
    targets = np.flatnonzero(history.target)
    judged = split.test if split.test.stop > split.test.start else split.validation
    targets = targets[targets >= history.sample_entry[judged.start]]
    scores = by_batches(lambda h, means: model.classify(model.layers[1].forward(h, means)), hidden, targets)
    known = model.report.get("reference")
    features = known["features"] if known else _feature_bins(model.schema, history, split)
    reference: dict[str, Any] = msgspec.to_builtins(Reference(features, fit_bins(scores, by_value=False)))
    return reference


def _feature_bins(schema: Schema, history: History, split: Split) -> dict[str, Bins]:
    columns = watched(schema)
    own = history.raw_until(int(history.sample_entry[split.validation.start]), columns)
    own = own[~np.isnan(own).all(axis=1)]  # an entry of a `score` event has no values of its own
    return {schema.own_channels[c]: fit_bins(own[:, i]) for i, c in enumerate(columns)}


def _fit(
    history: History,
    split: Split,
    inputs: tuple[Floats, Floats],
    taught: Floats,
    options: TrainOptions,
    title: str,
    base: Floats | None = None,
) -> Fitted:
    reads = Reads.every(inputs, history.sample_entry)
    outputs = [options.hidden] * len(reads.keeps)
    fit = replace(options.fit, members=options.members)
    return fit_layer(reads, outputs, history.truth, split, fit, base=base, taught=taught, title=title)


def _verdict(first: Fitted, history: History, inputs: tuple[Floats, Floats]) -> Floats:
    """Return what layer 1's own classifier says of the samples, as logits.  # (n,)"""
    return by_batches(first.logits, inputs, history.sample_entry)


def _with_verdict(first: Fitted, second: Fitted) -> Fitted:
    """Add layer 1's verdict to layer 2: two outputs of the self branch, behind its others."""
    own, *relations = second.layer.branches
    pair = np.stack([first.weight, -first.weight], axis=1)  # (H, 2)
    bias = np.array([first.bias, -first.bias], np.float32)
    own = Branch(own.keep, np.hstack([own.weight, pair]), np.append(own.bias, bias))
    split = len(own.bias) - 2
    weight = np.insert(second.weight, [split, split], [1.0, -1.0]).astype(np.float32)
    return replace(second, layer=Layer([own, *relations]), weight=weight)


def _training(history: History, split: Split, options: TrainOptions, fits: list[Fitted]) -> dict[str, Any]:
    return {
        "events": history.events,
        "bad_events": history.bad,
        "entries": history.entries,
        "samples": {name: part.stop - part.start for name, part in asdict(split).items()},
        "options": asdict(options),
        "layers": [{"validation_ap": fit.validation_ap, "epochs": fit.epochs} for fit in fits],
    }
