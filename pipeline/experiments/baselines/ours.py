"""Our model, whole and with a part of what it reads taken away. Scores are of the `later` samples, as probabilities."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.experiments.baselines.information import Information
from pipeline.fit import fit_layer
from pipeline.model import probability
from pipeline.train import TrainOptions, branch_blocks, lesson, logits, train_on

Floats = npt.NDArray[np.float32]


def fit_ours(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Train our model on all that it may read.  # (later,)"""
    model, _, hidden = train_on(info.history, info.split, seeded(options, seed))
    return probability(logits(model, info.history, info.later, hidden))


def fit_one_layer(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Fit layer 1 with its own classifier: what the second step adds is what this one lacks."""
    blocks = branch_blocks((info.x, info.means), info.history.sample_entry)
    return _fit_blocks(info, blocks, options.hidden, options, seed)


def fit_without_graph(info: Information, options: TrainOptions, seed: int) -> Floats:
    """Fit one layer on own and label channels: what moderators said of the same user or product, and no more."""
    x = info.of_channels("all")[:, label_columns(info)]
    return _fit_blocks(info, [x], options.hidden * (1 + len(info.recording.schema.relations)), options, seed)


def label_columns(info: Information) -> list[int]:
    """Return the columns of own and label channels among the raw ones."""
    schema = info.recording.schema
    own, names = len(schema.own_channels), schema.channel_names
    said = [c for c in range(own, len(names)) if names[c].partition(".")[2].startswith(("spam_share", "labelled"))]
    return [*range(own), *said]


def _fit_blocks(info: Information, blocks: list[Floats], outputs: int, options: TrainOptions, seed: int) -> Floats:
    """Fit a layer of `outputs` a block and its classifier, by the code that fits each layer of our model."""
    fit = replace(seeded(options, seed).fit, members=options.members)
    taught = lesson(info.truth, blocks[0], info.split, seeded(options, seed))
    fitted = fit_layer(blocks, [outputs] * len(blocks), info.truth, info.split, fit, taught=taught, title="layer")
    own, *others = (block[info.later] for block in blocks)
    means = np.stack(others, axis=1) if others else np.empty((len(own), 0, 0), np.float32)
    return probability(fitted.logits(own, means))


def seeded(options: TrainOptions, seed: int) -> TrainOptions:
    return replace(options, fit=replace(options.fit, seed=seed))
