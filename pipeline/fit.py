"""Fit one layer with a classifier of its own on fixed inputs: the only module that imports torch.

    logit = base + mean_m BatchNorm(concat_b relu(standardise(X_b) · V_bm + a_bm)) · v_m + a_m

The inputs are fixed by one replay, so this is an ordinary small network on shuffled mini-batches: no sampler, no
back-propagation through the graph. `members` networks m are trained side by side, each to say the truth by itself;
their mean says it better (a deep ensemble: Lakshminarayanan et al., arXiv 1612.01474), and jumps less from epoch to
epoch than one does. Afterwards the standardisation of the inputs is folded into V, a, that of the outputs into v, a,
and the members into one layer: what comes back reads raw inputs and needs no normalisation.

n samples, K_b channels of branch b, O outputs a branch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class _Linear(nn.Module):
    """nn.Linear, also without inputs or outputs, as pruning may leave a branch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = max(inputs, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Network(nn.Module):
    """The members side by side, on standardised inputs."""

    own: torch.Tensor  # (M, H) 1 where the channel is the member's

    def __init__(self, widths: Sequence[int], outputs: Sequence[int], members: int, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_Linear(k, o) for k, o in zip(widths, outputs, strict=True))
        self.norm = nn.BatchNorm1d(sum(outputs), eps=EPSILON, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sum(outputs), members)
        owner = torch.cat([torch.arange(o) * members // max(o, 1) for o in outputs])
        self.register_buffer("own", (owner == torch.arange(members)[:, None]).float(), persistent=False)

    def hidden(self, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
        outs = [branch(block) for branch, block in zip(self.branches, blocks, strict=True)]
        return torch.relu(torch.cat(outs, dim=1))

    def forward(self, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what each member says.  # (n, M)"""
        values, weight = self.dropout(self.norm(self.hidden(blocks))), self.classifier.weight * self.own
        return nn.functional.linear(values, weight, self.classifier.bias)


def fit_layer(
    blocks: Sequence[Floats],
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

    blocks  a branch's inputs each, (n, K_b); the layer that comes back reads all K_b
    outputs O of each branch
    base    (n,) a verdict to begin from, as logits: the layer learns what it misses, and at first adds nothing to it
    start   a layer and classifier to begin from (fine-tuning, without `base`) instead of random ones
    taught  (n,) the probabilities to learn instead of the truth: a larger model's scores (distillation)
    """
    torch.manual_seed(options.seed)
    scales = [_scale(block[split.train]) for block in blocks]
    tensors = [torch.from_numpy((b - mean) / deviation) for b, (mean, deviation) in zip(blocks, scales, strict=True)]
    network = Network([b.shape[1] for b in blocks], outputs, options.members, options.dropout)
    if base is None:
        share = float(truth[split.train].mean())
        nn.init.constant_(network.classifier.bias, math.log(share / (1.0 - share)))  # probabilities from the first step
    else:
        nn.init.zeros_(network.classifier.weight)
        nn.init.zeros_(network.classifier.bias)
    if start is not None:
        _unfold(network, start, scales, tensors, split)
    known = torch.zeros(len(truth)) if base is None else torch.from_numpy(base)
    wanted = torch.from_numpy(truth.astype(np.float32) if taught is None else taught)
    best = _train(network, _Samples(tensors, known, wanted, truth), split, options, title)
    return _fold(network, scales, tensors, split, best)


class _Samples(NamedTuple):
    blocks: list[torch.Tensor]
    base: torch.Tensor  # (n,)
    wanted: torch.Tensor  # (n,) probabilities
    truth: npt.NDArray[np.int8]  # (n,) by which validation judges


def _train(network: Network, samples: _Samples, split: Split, options: FitOptions, title: str) -> tuple[float, int]:
    """Train and leave the best epoch's parameters in `network`; return its average precision and number."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    best_ap, best_epoch, best_state = _validation_ap(network, samples, split), 0, _copy(network)
    generator = torch.Generator().manual_seed(options.seed)
    size = max(2, min(options.batch_size, split.train.stop // LEAST_STEPS))  # of one, the normalisation is undefined
    bar = tqdm(range(1, options.epochs + 1), desc=title, unit="epoch", leave=False, disable=None)
    for epoch in bar:
        network.train()
        for chosen in torch.split(torch.randperm(split.train.stop, generator=generator), size):
            if len(chosen) > 1:
                _step(network, samples, chosen, optimizer)
        ap = _validation_ap(network, samples, split)
        bar.set_postfix(validation_ap=f"{ap:.4f}")
        if ap > best_ap:
            best_ap, best_epoch, best_state = ap, epoch, _copy(network)
        elif epoch - best_epoch >= options.patience:
            break
    network.load_state_dict(best_state)
    return best_ap, best_epoch


def _step(network: Network, samples: _Samples, chosen: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    said = samples.base[chosen, None] + network([block[chosen] for block in samples.blocks])  # (b, M)
    wanted = samples.wanted[chosen, None].expand_as(said)
    loss = nn.functional.binary_cross_entropy_with_logits(said, wanted)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _validation_ap(network: Network, samples: _Samples, split: Split) -> float:
    network.eval()
    with torch.no_grad():
        said = network([block[split.validation] for block in samples.blocks]).mean(dim=1)
    ap = average_precision(samples.truth[split.validation], (samples.base[split.validation] + said).numpy())
    return 0.0 if np.isnan(ap) else ap


def _copy(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _scale(block: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of a block's channels; infinite, so that nothing is left, for one that never varies."""
    mean, deviation = block.mean(axis=0, dtype=np.float64), block.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation < DEAD, np.inf, np.maximum(deviation, LEAST_DEVIATION))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _output_scale(network: Network, blocks: list[torch.Tensor], split: Split) -> tuple[Doubles, Doubles]:
    """Mean and deviation of the hidden channels over the training part."""
    with torch.no_grad():
        hidden = network.hidden([block[split.train] for block in blocks]).double().numpy()
    return hidden.mean(axis=0), np.sqrt(hidden.var(axis=0) + EPSILON)


def _fold(
    network: Network,
    scales: list[tuple[Floats, Floats]],
    blocks: list[torch.Tensor],
    split: Split,
    best: tuple[float, int],
) -> Fitted:
    """Fold both standardisations into the matrices, in float64."""
    branches = []
    for linear, (mean, deviation) in zip(network.branches, scales, strict=True):
        weight = _doubles(linear.weight).T / deviation[:, None].astype(np.float64)
        bias = _doubles(linear.bias) - mean.astype(np.float64) @ weight
        every = np.arange(len(weight), dtype=np.int32)
        branches.append(Branch(every, weight.astype(np.float32), bias.astype(np.float32)))
    h_mean, h_deviation = _output_scale(network, blocks, split)
    vector = _doubles(network.classifier.weight * network.own).mean(axis=0) / h_deviation
    constant = float(_doubles(network.classifier.bias).mean() - h_mean @ vector)
    return Fitted(Layer(branches), vector.astype(np.float32), constant, *best)


def _unfold(
    network: Network,
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
