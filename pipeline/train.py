"""Training, layer by layer, on the inputs that serving will see.

    1  replay the log through the graph             operation logs, raw channels
    2  fit the input transform on the training part
    3  stage A fixes X1; fit layer 1 with a classifier of its own
    4  stages B and C fix X2; fit layer 2 and the final classifier
    5  choose the threshold on validation, report on test

Samples are split by time; validation stops each fit; the test part is looked at once, at the end.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.drift import Bins, Reference, fit_bins, watched
from pipeline.errors import DataError
from pipeline.evaluate import best_f1_threshold, report
from pipeline.fit import FitOptions, Fitted, fit_layer
from pipeline.history import History, Split
from pipeline.log import Record
from pipeline.model import Model
from pipeline.schema import Schema
from pipeline.transform import fit_transform

Floats = npt.NDArray[np.float32]
LEAST_SAMPLES = 100  # fewer labelled targets than this teach nothing


@dataclass(frozen=True)
class TrainOptions:
    hidden: int = 16  # channels a branch, both layers
    transform: str = "quantile"
    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)
    fit: FitOptions = field(default_factory=FitOptions)


def train(schema: Schema, records: Iterable[Record], options: TrainOptions) -> tuple[Model, dict[str, Any]]:
    """Train a model on a recorded log; return it with its report (metrics on the test part, seconds)."""
    began = time.perf_counter()
    history = History(schema, records)
    split = check_samples(history, options.shares)
    boundary = int(history.sample_entry[split.validation.start])
    transform = fit_transform(options.transform, history.raw_until(boundary), schema.indicators)
    keep = np.arange(len(schema.channel_names), dtype=np.int32)
    own, means = history.inputs(transform, keep)
    first = _fit(history, split, (own, means), options, "layer 1")
    h, h_means = history.hidden(first.layer, own, means)
    second = _fit(history, split, (h, h_means), options, "layer 2")
    model = Model(
        schema=schema, transform=transform, input_keep=keep, layers=(first.layer, second.layer),
        weight=second.weight, bias=second.bias, threshold=0.5,
    )  # fmt: skip
    metrics = judge(model, history, split, (h, h_means))
    model.report = {"training": _training(history, split, options, [first, second]), "metrics": metrics}
    model.report["reference"] = learn_reference(model, history, split, (h, h_means))
    return model, {**(metrics["test"]), "seconds": round(time.perf_counter() - began, 2)}


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


def branch_blocks(inputs: tuple[Floats, Floats], rows: npt.NDArray[np.int64]) -> list[Floats]:
    """Return what each branch reads in the given entries: self, then each relation."""
    own, means = inputs
    return [own[rows], *(means[rows, r] for r in range(means.shape[1]))]


def judge(model: Model, history: History, split: Split, hidden: tuple[Floats, Floats]) -> dict[str, Any]:
    """Choose the model's threshold on validation and report both parts."""
    h, h_means = (values[history.sample_entry] for values in hidden)
    scores = model.classify(model.layers[1].forward(h, h_means))
    model.threshold = float(best_f1_threshold(history.truth[split.validation], scores[split.validation]))
    parts = {"validation": split.validation, "test": split.test}
    return {name: report(history.truth[part], scores[part], model.threshold) for name, part in parts.items()}


def learn_reference(model: Model, history: History, split: Split, hidden: tuple[Floats, Floats]) -> dict[str, Any]:
    """Return what drift is measured against, for the checkpoint; a model that was pruned keeps its features' part.

    Scores are of all targets, labelled or not: moderators look at what is suspicious, a service sees the rest too.
    """
    targets = np.flatnonzero(history.target)
    judged = split.test if split.test.stop > split.test.start else split.validation
    targets = targets[targets >= history.sample_entry[judged.start]]
    scores = model.classify(model.layers[1].forward(hidden[0][targets], hidden[1][targets]))
    known = model.report.get("reference")
    features = known["features"] if known else _feature_bins(model.schema, history, split)
    reference: dict[str, Any] = msgspec.to_builtins(Reference(features, fit_bins(scores, by_value=False)))
    return reference


def _feature_bins(schema: Schema, history: History, split: Split) -> dict[str, Bins]:
    columns = watched(schema)
    own = history.raw_until(int(history.sample_entry[split.validation.start]))[:, columns]
    own = own[~np.isnan(own).all(axis=1)]  # an entry of a `score` event has no values of its own
    return {schema.own_channels[c]: fit_bins(own[:, i]) for i, c in enumerate(columns)}


def _fit(history: History, split: Split, inputs: tuple[Floats, Floats], options: TrainOptions, title: str) -> Fitted:
    blocks = branch_blocks(inputs, history.sample_entry)
    keeps = [np.arange(block.shape[1], dtype=np.int32) for block in blocks]
    outputs = [options.hidden] * len(blocks)
    return fit_layer(blocks, keeps, outputs, history.truth, split, options.fit, title=title)


def _training(history: History, split: Split, options: TrainOptions, fits: list[Fitted]) -> dict[str, Any]:
    return {
        "events": history.events,
        "bad_events": history.bad,
        "entries": history.entries,
        "samples": {name: part.stop - part.start for name, part in asdict(split).items()},
        "options": asdict(options),
        "layers": [{"validation_ap": fit.validation_ap, "epochs": fit.epochs} for fit in fits],
    }
