"""One training on a recorded stream, and all that is made from it.

The stream is replayed once for each (data, delay, seed); the model is trained by `train_on`, pruned in every way by
`prune_on`, and judged on the test part, the last 30 % of the samples. Choices are made on validation, by `train_on` and
the fine-tuning themselves: nothing here looks at the test part but to write figures down.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.experiments.figures import (
    Figures,
    precision_recall_curve,
    reliability,
    roc_curve,
    stream_figures,
)
from pipeline.experiments.recordings import NAMES, Recording, open_file, open_recording
from pipeline.experiments.run import Key, Record
from pipeline.fit import FitOptions
from pipeline.history import Floats, History, Split
from pipeline.model import Model, probability
from pipeline.prune import FINE_TUNING, PruneOptions, prune_on
from pipeline.train import Trained, TrainOptions, check_samples, logits, train_on

VERDICT = 2  # outputs of layer 2 that say what layer 1 said


class Subject(NamedTuple):
    """What is trained, and on what."""

    data: str
    schema: str
    delay: str
    seed: int
    width: int  # channels a branch
    epochs: int | None
    events: int | None


class Ways(NamedTuple):
    """What is made from it."""

    budgets: Sequence[float]
    schemes: Sequence[str]
    methods: Sequence[str]
    small: bool
    curves: bool


class Replayed(NamedTuple):
    recording: Recording
    history: History
    split: Split


class Case(NamedTuple):
    """A model where its stream is replayed."""

    on: Replayed
    trained: Trained


def run(subject: Subject, ways: Ways) -> list[Record]:
    """Train, prune in every way, train the small ones; return what was measured on the test part."""
    case = _trained(subject, options_of(subject))
    key = _key(case.on, subject)
    unpruned = scores_of(case.trained.model, case.on.history, case.trained.hidden)
    records = [_record(case.on, key | {"method": "unpruned"}, case.trained.model, unpruned, unpruned)]
    if ways.curves:
        records += _curves(case.on, key | {"method": "unpruned"}, unpruned)
    for budget, scheme, method in product(ways.budgets, ways.schemes, ways.methods):
        options = PruneOptions(budget, scheme, method, fit=_fit(FINE_TUNING, subject))
        records += _pruned(case, key, options, unpruned, ways.curves)
    for budget in ways.budgets if ways.small else ():
        records.append(_small(case, subject, key | {"method": "small", "budget": budget}, budget, unpruned))
    return records


def options_of(subject: Subject) -> TrainOptions:
    return TrainOptions(hidden=subject.width, fit=_fit(TrainOptions().fit, subject))


@lru_cache(maxsize=1)
def replayed(data: str, schema: str, delay: str, seed: int, events: int | None) -> Replayed:
    """Replay a recording; the last one is kept, for the next job is mostly on it, too."""
    recording = open_recording(data, delay, seed) if data in NAMES else open_file(Path(data), Path(schema))
    recording = recording._replace(records=recording.records[:events])
    history = History(recording.schema, recording.records)
    return Replayed(recording, history, check_samples(history, TrainOptions().shares))


def scores_of(model: Model, history: History, hidden: tuple[Floats, Floats]) -> Floats:
    """Return the scores of all samples.  # (n,)"""
    return probability(logits(model, history, slice(None), hidden))


def _trained(subject: Subject, options: TrainOptions) -> Case:
    on = replayed(subject.data, subject.schema, subject.delay, subject.seed, subject.events)
    return Case(on, train_on(on.history, on.split, options))


def _fit(fit: FitOptions, subject: Subject) -> FitOptions:
    return replace(fit, seed=subject.seed, epochs=subject.epochs or fit.epochs)


def _key(on: Replayed, subject: Subject) -> Key:
    return {"data": on.recording.name, "delay": subject.delay, "width": subject.width, "seed": subject.seed}


def _record(on: Replayed, key: Key, model: Model, scores: Floats, unpruned: Floats) -> Record:
    """Figures on the test part, and what was lost against the unpruned model of the same seed."""
    truth, test = on.history.truth, on.split.test
    found, full = stream_figures(truth[test], scores[test]), stream_figures(truth[test], unpruned[test])
    lost = {f"{name}_lost": _less(full[name], found[name]) for name in ("auroc", "ap")}
    return Record(key, {**found, **lost, "multiply_adds": float(model.multiply_adds)})


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _pruned(case: Case, key: Key, options: PruneOptions, unpruned: Floats, curves: bool) -> Iterator[Record]:
    pruned = prune_on(case.trained, case.on.history, case.on.split, options)
    key = key | {"method": options.method, "scheme": options.scheme, "budget": options.budget}
    for stage, model in (("refitted", pruned.refitted), ("tuned", pruned.tuned)):
        scores = scores_of(model, case.on.history, pruned.hidden)
        record = _record(case.on, key | {"stage": stage}, model, scores, unpruned)
        record.figures["pruning_seconds"] = pruned.seconds
        yield record
    if curves and options.method == "lasso":
        yield from _kept(case.trained.model, pruned.tuned, key)
        yield from _curves(case.on, key, scores)


def _kept(model: Model, pruned: Model, key: Key) -> Iterator[Record]:
    """Which input channels each branch of layer 1 still reads."""
    names = [model.schema.channel_names[c] for c in model.input_keep.tolist()]
    for branch, kept in pruned.report["pruning"]["kept"]["inputs"].items():
        stayed = set(kept)
        yield Record(key | {"kept": branch}, {name: float(name in stayed) for name in names})


def _curves(on: Replayed, key: Key, scores: Floats) -> Iterator[Record]:
    test = on.split.test
    truth: npt.NDArray[np.int8] = on.history.truth[test]
    for name, curve in (
        ("roc", roc_curve), ("precision_recall", precision_recall_curve), ("reliability", reliability)
    ):  # fmt: skip
        figures: Figures = curve(truth, scores[test])
        yield Record(key | {"curve": name}, figures)


def _small(case: Case, subject: Subject, key: Key, budget: float, unpruned: Floats) -> Record:
    """Train from scratch with as many channels a branch as come closest to the budget."""
    model = case.trained.model
    wanted = model.multiply_adds / budget
    branches, channels = 1 + len(model.schema.relations), len(model.input_keep)
    width = min(range(1, subject.width + 1), key=lambda w: abs(np.log(work(branches, channels, w) / wanted)))
    small = _trained(subject, replace(options_of(subject), hidden=width)).trained
    scores = scores_of(small.model, case.on.history, small.hidden)
    return _record(case.on, key, small.model, scores, unpruned)


def work(branches: int, channels: int, width: int) -> int:
    """Return the multiply-adds a target of a model that is not pruned."""
    hidden = branches * width
    return hidden * channels + hidden * (hidden + VERDICT) + hidden + VERDICT
