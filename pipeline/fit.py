"""Fit one layer with a classifier of its own on fixed inputs: the only module that imports torch.

    logit = BatchNorm(concat_b relu(standardise(X_b) · V_b + a_b)) · v + a

The inputs are fixed by one replay, so this is an ordinary small network on shuffled mini-batches: no sampler, no
back-propagation through the graph. Afterwards the standardisation of the inputs is folded into V, a and that of the
outputs into v, a: what comes back reads raw inputs and needs no normalisation.

n samples, K_b channels of branch b, O outputs a branch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from pipeline.evaluate import average_precision
from pipeline.history import Split
from pipeline.model import Branch, Layer

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
LEAST_DEVIATION = 0.05  # a channel that hardly varies in training is not blown up: later it may
DEAD = 1e-6  # one that does not vary at all taught nothing and is left out
EPSILON = LEAST_DEVIATION**2


@dataclass(frozen=True)
class FitOptions:
    epochs: int = 40
    patience: int = 6  # epochs without a better validation average precision
    batch_size: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.5
    seed: int = 0


@dataclass
class Fitted:
    layer: Layer
    weight: Floats  # (H,) the classifier's
    bias: float
    validation_ap: float
    epochs: int


class _Linear(nn.Module):
    """nn.Linear, also without inputs or outputs, as pruning may leave a branch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = max(inputs, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class _Network(nn.Module):
    def __init__(self, widths: Sequence[int], outputs: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_Linear(k, o) for k, o in zip(widths, outputs, strict=True))
        self.norm = nn.BatchNorm1d(sum(outputs), eps=EPSILON, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sum(outputs), 1)

    def hidden(self, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
        outs = [branch(block) for branch, block in zip(self.branches, blocks, strict=True)]
        return torch.relu(torch.cat(outs, dim=1))

    def forward(self, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.dropout(self.norm(self.hidden(blocks))))
        return logits.squeeze(1)


def fit_layer(
    blocks: Sequence[Floats],
    keeps: Sequence[npt.NDArray[np.int32]],
    outputs: Sequence[int],
    truth: npt.NDArray[np.int8],
    split: Split,
    options: FitOptions,
    start: tuple[Layer, Floats, float] | None = None,
    taught: Floats | None = None,
    title: str = "layer",
) -> Fitted:
    """Fit a layer; stop when the validation average precision no longer rises, and keep the best epoch.

    blocks  a branch's inputs each, (n, K_b), already cut to `keeps`
    start   a layer and classifier to begin from (fine-tuning) instead of random ones
    taught  (n,) the probabilities to learn instead of the truth: a larger model's scores (distillation)
    """
    torch.manual_seed(options.seed)
    scales = [_scale(block[split.train]) for block in blocks]
    tensors = [torch.from_numpy((b - mean) / deviation) for b, (mean, deviation) in zip(blocks, scales, strict=True)]
    network = _Network([b.shape[1] for b in blocks], outputs, options.dropout)
    share = float(truth[split.train].mean())
    nn.init.constant_(network.classifier.bias, math.log(share / (1.0 - share)))  # probabilities from the first step on
    if start is not None:
        _unfold(network, start, scales, tensors, split)
    wanted = torch.from_numpy(truth.astype(np.float32) if taught is None else taught)
    best = _train(network, tensors, wanted, truth, split, options, title)
    return _fold(network, keeps, scales, tensors, split, best)


def _train(
    network: _Network,
    blocks: list[torch.Tensor],
    wanted: torch.Tensor,
    truth: npt.NDArray[np.int8],
    split: Split,
    options: FitOptions,
    title: str,
) -> tuple[float, int]:
    """Train and leave the best epoch's parameters in `network`; return its average precision and number."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    loss_of = nn.BCEWithLogitsLoss()
    best_ap, best_epoch, best_state = _validation_ap(network, blocks, truth, split), 0, _copy(network)
    generator = torch.Generator().manual_seed(options.seed)
    bar = tqdm(range(1, options.epochs + 1), desc=title, unit="epoch", leave=False, disable=None)
    for epoch in bar:
        network.train()
        for chosen in torch.split(torch.randperm(split.train.stop, generator=generator), options.batch_size):
            if len(chosen) == 1:  # the normalisation of one sample is undefined
                continue
            optimizer.zero_grad()
            loss = loss_of(network([block[chosen] for block in blocks]), wanted[chosen])
            loss.backward()
            optimizer.step()
        ap = _validation_ap(network, blocks, truth, split)
        bar.set_postfix(validation_ap=f"{ap:.4f}")
        if ap > best_ap:
            best_ap, best_epoch, best_state = ap, epoch, _copy(network)
        elif epoch - best_epoch >= options.patience:
            break
    network.load_state_dict(best_state)
    return best_ap, best_epoch


def _validation_ap(network: _Network, blocks: list[torch.Tensor], truth: npt.NDArray[np.int8], split: Split) -> float:
    network.eval()
    with torch.no_grad():
        logits = network([block[split.validation] for block in blocks])
    ap = average_precision(truth[split.validation], logits.numpy())
    return 0.0 if np.isnan(ap) else ap


def _copy(network: _Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _scale(block: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of a block's channels; infinite, so that nothing is left, for one that never varies."""
    mean, deviation = block.mean(axis=0, dtype=np.float64), block.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation < DEAD, np.inf, np.maximum(deviation, LEAST_DEVIATION))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _output_scale(network: _Network, blocks: list[torch.Tensor], split: Split) -> tuple[Doubles, Doubles]:
    """Mean and deviation of the hidden channels over the training part."""
    with torch.no_grad():
        hidden = network.hidden([block[split.train] for block in blocks]).double().numpy()
    return hidden.mean(axis=0), np.sqrt(hidden.var(axis=0) + EPSILON)


def _fold(
    network: _Network,
    keeps: Sequence[npt.NDArray[np.int32]],
    scales: list[tuple[Floats, Floats]],
    blocks: list[torch.Tensor],
    split: Split,
    best: tuple[float, int],
) -> Fitted:
    """Fold both standardisations into the matrices, in float64."""
    branches = []
    for linear, keep, (mean, deviation) in zip(network.branches, keeps, scales, strict=True):
        weight = _doubles(linear.weight).T / deviation[:, None].astype(np.float64)
        bias = _doubles(linear.bias) - mean.astype(np.float64) @ weight
        branches.append(Branch(keep.astype(np.int32), weight.astype(np.float32), bias.astype(np.float32)))
    h_mean, h_deviation = _output_scale(network, blocks, split)
    vector = _doubles(network.classifier.weight)[0] / h_deviation
    constant = float(_doubles(network.classifier.bias)[0] - h_mean @ vector)
    return Fitted(Layer(branches), vector.astype(np.float32), constant, *best)


def _unfold(
    network: _Network,
    start: tuple[Layer, Floats, float],
    scales: list[tuple[Floats, Floats]],
    blocks: list[torch.Tensor],
    split: Split,
) -> None:
    """Put a folded layer and classifier into the network: the reverse of `_fold`."""
    layer, vector, constant = start
    for linear, branch, (mean, deviation) in zip(network.branches, layer.branches, scales, strict=True):
        alive = np.where(np.isinf(deviation), np.float32(0.0), deviation)
        _set(linear.weight, (branch.weight * alive[:, None]).T)
        _set(linear.bias, branch.bias + mean @ branch.weight)
    h_mean, h_deviation = _output_scale(network, blocks, split)
    network.norm.load_state_dict({
        "running_mean": torch.from_numpy(h_mean).float(),
        "running_var": torch.from_numpy(h_deviation**2 - EPSILON).float(),
        "num_batches_tracked": torch.tensor(0),
    })  # fmt: skip
    _set(network.classifier.weight, (vector * h_deviation)[None])
    _set(network.classifier.bias, np.array([constant + h_mean @ vector]))


def _doubles(parameter: Any) -> Doubles:
    values: Doubles = parameter.detach().double().numpy()
    return values


def _set(parameter: Any, values: npt.NDArray[Any]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
