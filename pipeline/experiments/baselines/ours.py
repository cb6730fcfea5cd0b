"""Our model, whole and with a part of what it reads taken away. Scores are of the `later` samples, as probabilities."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.experiments.baselines.information import Information
from pipeline.fit import fit_layer
from pipeline.fit_inputs import Reads
from pipeline.model import probability
from pipeline.train import TrainOptions, by_batches, lesson, logits, train_on

Floats = npt.NDArray[np.float32]


def fit_ours(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Train our model on all that it may read.  # (later,)"""
    model, _, hidden = train_on(info.history, info.split, seeded(options, seed))
    return probability(logits(model, info.history, info.later, hidden))


def fit_one_layer(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Fit layer 1 with its own classifier: what the second step adds is what this one lacks."""
    return _fit_one((info.x, info.means), info.history.sample_entry, info, options.hidden, options, seed)


def fit_without_graph(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Fit one layer on own and label channels: what moderators said of the same user or product, and no more."""
    x = info.of_channels("all")[:, label_columns(info)]
    alone = x, np.empty((len(x), 0, x.shape[1]), np.float32)
    outputs = options.hidden * (1 + len(info.recording.schema.relations))
    return _fit_one(alone, np.arange(len(x)), info, outputs, options, seed)


def label_columns(info: Information) -> list[int]:
    """Return the columns of own and label channels among the raw ones."""
    schema = info.recording.schema
    own, names = len(schema.own_channels), schema.channel_names
    said = [c for c in range(own, len(names)) if names[c].partition(".")[2].startswith(("spam_share", "labelled"))]
    return [*range(own), *said]


def _fit_one(
    values: tuple[Floats, Floats],
    rows: npt.NDArray[np.int64],
    info: Information,
    outputs: int,
    options: TrainOptions,
    seed: int,
) -> Floats:
    """Fit a layer of `outputs` a branch and its classifier, by the code that fits each layer of our model.

    values  what it reads, own values and means over lists; rows  (n,) where the samples' lie
    """
    fit = replace(seeded(options, seed).fit, members=options.members)
    taught = lesson(info.truth, values[0][rows], info.split, seeded(options, seed))
    reads = Reads.every(values, rows)
    widths = [outputs] * len(reads.keeps)
    fitted = fit_layer(reads, widths, info.truth, info.split, fit, taught=taught, title="layer")
    return probability(by_batches(fitted.logits, values, rows[info.later]))


def seeded(options: TrainOptions, seed: int) -> TrainOptions:
    return replace(options, fit=replace(options.fit, seed=seed))
