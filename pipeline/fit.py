"""Fit one layer with a classifier of its own on fixed inputs.

    logit = base + mean_m BatchNorm(concat_b relu(standardise(X_b) · V_bm + a_bm)) · v_m + a_m

The inputs are fixed by one replay, so this is an ordinary small network on shuffled mini-batches: no sampler, no
back-propagation through the graph. `members` networks m are trained side by side, each to say the truth by itself;
their mean says it better (a deep ensemble: Lakshminarayanan et al., arXiv 1612.01474), and jumps less from epoch to
epoch than one does. Afterwards the standardisation of the inputs is folded into V, a, that of the outputs into v, a,
and the members into one layer: what comes back reads raw inputs and needs no normalisation.

n samples, W input channels of all branches side by side, H hidden channels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.evaluate import average_precision
from pipeline.fit_inputs import Inputs, Reads
from pipeline.fit_network import EPSILON, Network
from pipeline.history import Split
from pipeline.model import Branch, Layer

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
LEAST_STEPS = 40  # an epoch of fewer teaches too little before patience ends


@dataclass(frozen=True)
class FitOptions:
    epochs: int = 40
    patience: int = 6  # epochs without a better validation average precision
    batch_size: int = 1024  # at most; at least LEAST_STEPS of them make an epoch
    learning_rate: float = 2e-3
    weight_decay: float = 1.0
    dropout: float = 0.5
    members: int = 1  # networks side by side; each has an equal share of every branch's outputs
    seed: int = 0


@dataclass
class Fitted:
    layer: Layer
    weight: Floats  # (H,) the classifier's
    bias: float
    validation_ap: float
    epochs: int

    def logits(self, own: Floats, means: Floats) -> Floats:
        """Return what the layer's own classifier says, without a base.  # (n, W), (n, R, W) -> (n,)"""
        return np.asarray(self.layer.forward(own, means) @ self.weight + np.float32(self.bias))


def fit_layer(
    reads: Reads,
    outputs: Sequence[int],
    truth: npt.NDArray[np.int8],
    split: Split,
    options: FitOptions,
    *,
    base: Floats | None = None,
    start: tuple[Layer, Floats, float] | None = None,
    taught: Floats | None = None,
    title: str = "layer",
) -> Fitted:
    """Fit a layer; stop when the validation average precision no longer rises, and keep the best epoch.

    outputs O of each branch
    base    (n,) a verdict to begin from, as logits: the layer learns what it misses, and at first adds nothing to it
    start   a layer that reads the same and a classifier to begin from (fine-tuning, without `base`), not random ones
    taught  (n,) the probabilities to learn instead of the truth: a larger model's scores (distillation)
    """
    rng = np.random.Generator(np.random.SFC64(options.seed))
    inputs = Inputs(reads._replace(rows=reads.rows[: split.validation.stop]), split.train)  # no look at the test part
    network = Network(inputs.widths, outputs, options.members, options.dropout, rng)
    if base is None:
        share = float(truth[split.train].mean())
        network.values.constant[:] = math.log(share / (1.0 - share))  # probabilities from the first step
    else:
        network.values.classifier[:] = 0.0
        network.values.constant[:] = 0.0
    if start is not None:
        _unfold(network, start, inputs, split)
    known = np.zeros(len(truth), np.float32) if base is None else base
    wanted = truth.astype(np.float32) if taught is None else taught
    best = _train(network, _Samples(inputs, known, wanted, truth), split, options, rng, title)
    return _fold(network, inputs, reads.keeps, split, best)


class _Samples(NamedTuple):
    inputs: Inputs
    base: Floats  # (n,)
    wanted: Floats  # (n,) probabilities
    truth: npt.NDArray[np.int8]  # (n,) by which validation judges


def _train(
    network: Network, samples: _Samples, split: Split, options: FitOptions, rng: np.random.Generator, title: str
) -> tuple[float, int]:
    """Train and leave the best epoch's parameters in `network`; return its average precision and number."""
    best_ap, best_epoch, best_state = _validation_ap(network, samples, split), 0, network.state()
    size = max(2, min(options.batch_size, split.train.stop // LEAST_STEPS))  # of one, the normalisation is undefined
    room = np.empty((size, sum(samples.inputs.widths)), np.float32)
    bar = tqdm(range(1, options.epochs + 1), desc=title, unit="epoch", leave=False, disable=None)
    for epoch in bar:
        shuffled = rng.permutation(split.train.stop)
        for first in range(0, len(shuffled) - 1, size):
            chosen = shuffled[first : first + size]
            network.find_slope(samples.inputs.of(chosen, room), samples.base[chosen], samples.wanted[chosen])
            network.step(options.learning_rate, options.weight_decay)
        ap = _validation_ap(network, samples, split)
        bar.set_postfix(validation_ap=f"{ap:.4f}")
        if ap > best_ap:
            best_ap, best_epoch, best_state = ap, epoch, network.state()
        elif epoch - best_epoch >= options.patience:
            break
    network.restore(best_state)
    return best_ap, best_epoch


def _validation_ap(network: Network, samples: _Samples, split: Split) -> float:
    said = [network.logits(x).mean(axis=1) for x in samples.inputs.batches(split.validation)]
    part = split.validation
    ap = average_precision(samples.truth[part], samples.base[part] + np.concatenate(said))
    return 0.0 if np.isnan(ap) else ap


def _output_scale(network: Network, inputs: Inputs, split: Split) -> tuple[Doubles, Doubles]:
    """Mean and deviation of the hidden channels over the training part."""
    total, square = np.zeros((2, len(network.own)))
    for x in inputs.batches(split.train):
        hidden = network.hidden(x).astype(np.float64)
        total += hidden.sum(axis=0)
        square += (hidden**2).sum(axis=0)
    mean = total / split.train.stop
    return mean, np.sqrt(np.maximum(square / split.train.stop - mean**2, 0.0) + EPSILON)


def _fold(
    network: Network,
    inputs: Inputs,
    keeps: Sequence[npt.NDArray[np.int32]],
    split: Split,
    best: tuple[float, int],
) -> Fitted:
    """Fold both standardisations into the matrices, in float64."""
    branches = []
    for branch, keep in zip(_parts(network, inputs), keeps, strict=True):
        weight = branch.weight.astype(np.float64) / branch.deviation[:, None].astype(np.float64)
        bias = branch.bias - branch.mean.astype(np.float64) @ weight
        branches.append(Branch(keep, weight.astype(np.float32), bias.astype(np.float32)))
    h_mean, h_deviation = _output_scale(network, inputs, split)
    vector = network.values.classifier.astype(np.float64).sum(axis=1) / network.own.shape[1] / h_deviation
    constant = float(network.values.constant.astype(np.float64).mean() - h_mean @ vector)
    return Fitted(Layer(branches), vector.astype(np.float32), constant, *best)


def _unfold(network: Network, start: tuple[Layer, Floats, float], inputs: Inputs, split: Split) -> None:
    """Put a folded layer and classifier into the network: the reverse of `_fold`."""
    layer, vector, constant = start
    for part, branch in zip(_parts(network, inputs), layer.branches, strict=True):
        alive = np.where(np.isinf(part.deviation), np.float32(0.0), part.deviation)
        part.weight[:] = branch.weight * alive[:, None]
        part.bias[:] = branch.bias + part.mean @ branch.weight
    h_mean, h_deviation = _output_scale(network, inputs, split)
    network.running_mean[:], network.running_var[:] = h_mean, h_deviation**2 - EPSILON
    network.values.classifier[:] = (vector * h_deviation)[:, None] * network.own * network.own.shape[1]
    network.values.constant[:] = constant + h_mean @ vector


class _Part(NamedTuple):
    """A branch of a network: views of its parameters, and how its inputs are standardised."""

    weight: Floats  # (K, O)
    bias: Floats  # (O,)
    mean: Floats  # (K,)
    deviation: Floats  # (K,)


def _parts(network: Network, inputs: Inputs) -> Iterator[_Part]:
    values = network.values
    for weight, of, to in zip(values.branches, network.inputs, network.outputs, strict=True):
        yield _Part(weight, values.bias[to], inputs.mean[of], inputs.deviation[of])
