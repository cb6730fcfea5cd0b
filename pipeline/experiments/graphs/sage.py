"""Train or fine-tune the two-layer GraphSAGE-mean on a whole graph: every step passes messages over all edges by DGL.

Every hidden channel is standardised over all nodes before the next matrix. Both are one product: W / deviation, and
c − (mean / deviation) W. So a network is always run as `network.py` describes it, and folding costs nothing. A network
that is trained from scratch learns under its present means and deviations, one that is fine-tuned under those that it
had at the start.

Adam, dropout of hidden channels, cross entropy over all classes; of the epochs looked at, the one with the lowest
validation loss stays.

N nodes, C channels, H hidden channels, K_b channels that branch b keeps.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout
from tqdm import tqdm

from pipeline.channels_kept import Floats
from pipeline.experiments.graphs.files import Graph, Split
from pipeline.experiments.graphs.network import Network, layer_output
from pipeline.experiments.message_passing import mean_over_neighbours, to_dgl
from pipeline.model import Branch, Layer

EPSILON = 1e-4  # added to a hidden channel's variance
LOOK_EVERY = 2  # epochs
WARM_UP = 5  # epochs

Scale = tuple[torch.Tensor, torch.Tensor]  # (H,) mean and deviation


@dataclass(frozen=True)
class FitOptions:
    epochs: int
    learning_rate: float
    patience: int  # epochs without a lower validation loss
    dropout: float = 0.3
    weight_decay: float = 1e-4
    warm_up: bool = False  # raise the learning rate for some epochs, then let it fall to 0
    seed: int = 0


def use_one_thread() -> None:
    """Let this process compute on one thread, whatever the machine has: its times are compared."""
    torch.set_num_threads(1)


class Data:
    """A graph as tensors: made once, for all networks that read it."""

    def __init__(self, graph: Graph, split: Split) -> None:
        self.graph = graph
        self.edges = to_dgl(graph.mean)
        self.y = torch.from_numpy(graph.y)
        self.train, self.validation = torch.from_numpy(split.train), torch.from_numpy(split.validation)
        self.sparse = None if isinstance(graph.x, np.ndarray) else _SparseInputs(graph.x)
        self.blocks: list[torch.Tensor] = []  # what the branches of layer 1 read, where features are dense
        if self.sparse is None:
            x = torch.from_numpy(graph.x)
            self.blocks = [x, mean_over_neighbours(self.edges, x)]

    def of_layer1(self, keeps: Sequence[npt.NDArray[Any]]) -> list[torch.Tensor]:
        whole = [len(keep) == block.shape[1] for keep, block in zip(keeps, self.blocks, strict=False)]
        chosen = zip(self.blocks, keeps, whole, strict=False)
        return [block if all_ else block[:, torch.from_numpy(keep).long()] for block, keep, all_ in chosen]


class _SparseInputs:
    """Sparse features times a matrix, with its gradient: torch has none that is as fast."""

    def __init__(self, x: Any) -> None:
        self.x, self.transposed = csr_tensor(x), csr_tensor(x.T.tocsr())

    def times(self, weight: torch.Tensor) -> torch.Tensor:
        if not weight.shape[1]:  # a branch that lost all its outputs
            return weight.new_zeros(self.x.shape[0], 0)
        product: torch.Tensor = _SparseProduct.apply(weight, self.x, self.transposed)
        return product


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, x: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
        ctx.transposed = transposed
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.transposed @ grads[0].contiguous(), None, None


def csr_tensor(matrix: Any) -> torch.Tensor:
    """Return a SciPy CSR matrix as torch's."""
    rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)", category=UserWarning)
        return torch.sparse_csr_tensor(rows, columns, torch.from_numpy(matrix.data), size=matrix.shape)


class _Sage(nn.Module):
    """The matrices of a network while they learn; `first` and `second` say which channels their branches read."""

    def __init__(self, network: Network, scales: tuple[Scale, Scale] | None) -> None:
        super().__init__()
        branches = [branch for layer in network.layers for branch in layer.branches]
        self.weights = nn.ParameterList([_tensor(b.weight) for b in branches] + [_tensor(network.weight)])
        self.biases = nn.ParameterList([_tensor(b.bias) for b in branches] + [_tensor(network.bias)])
        self.keeps = [torch.from_numpy(branch.keep).long() for branch in branches]
        self.scales = scales
        if scales is not None:
            self._unfold(scales)

    def _unfold(self, scales: tuple[Scale, Scale]) -> None:
        """Undo the standardisation of the matrices behind layer 1."""
        with torch.no_grad():
            for i, (mean, deviation) in self._readers(scales):
                self.weights[i].mul_(deviation[:, None])
                self.biases[i].add_((mean / deviation) @ self.weights[i])

    def _readers(self, scales: tuple[Scale, Scale]) -> list[tuple[int, Scale]]:
        """The matrices that read standardised channels, with the scale of what they keep."""
        (m1, d1), last = scales
        return [(i, (m1[self.keeps[i]], d1[self.keeps[i]])) for i in (2, 3)] + [(4, last)]

    def folded(self, i: int, scale: Scale) -> tuple[torch.Tensor, torch.Tensor]:
        mean, deviation = scale
        weight = self.weights[i] / deviation[:, None]
        return weight, self.biases[i] - mean @ weight

    def forward(self, data: Data, blocks: list[torch.Tensor], drop: float = 0.0) -> tuple[torch.Tensor, Any]:
        """Return the logits (N, classes) and the scales of both hidden layers."""
        h1 = self._layer1(data, blocks)
        scale1 = _scale(h1) if self.scales is None else self.scales[0]
        h1 = dropout(h1, drop) if drop else h1
        near, own = self.folded(3, _part(scale1, self.keeps[3])), self.folded(2, _part(scale1, self.keeps[2]))
        outputs = [_picked(h1, self.keeps[2]) @ own[0] + own[1]]
        outputs.append(mean_over_neighbours(data.edges, _picked(h1, self.keeps[3]) @ near[0]) + near[1])
        h2 = torch.relu(torch.cat(outputs, dim=1))
        scale2 = _scale(h2) if self.scales is None else self.scales[1]
        h2 = dropout(h2, drop) if drop else h2
        weight, bias = self.folded(4, scale2)
        return h2 @ weight + bias, (scale1, scale2)

    def _layer1(self, data: Data, blocks: list[torch.Tensor]) -> torch.Tensor:
        if data.sparse is None:
            outputs = [blocks[i] @ self.weights[i] + self.biases[i] for i in (0, 1)]
        else:
            own, near = (data.sparse.times(self.weights[i]) for i in (0, 1))
            outputs = [own + self.biases[0], mean_over_neighbours(data.edges, near) + self.biases[1]]
        return torch.relu(torch.cat(outputs, dim=1))

    def network(self, scales: tuple[Scale, Scale]) -> Network:
        """Return the network with the standardisation folded in."""
        with torch.no_grad():
            pairs = [(self.weights[i], self.biases[i]) for i in (0, 1)]
            pairs += [self.folded(i, scale) for i, scale in self._readers(scales)]
        arrays = [(w.detach().numpy().copy(), b.detach().numpy().copy()) for w, b in pairs]
        keeps = [keep.numpy().astype(np.int32) for keep in self.keeps]
        branches = [Branch(keep, *pair) for keep, pair in zip(keeps, arrays[:4], strict=True)]
        return Network((Layer(branches[:2]), Layer(branches[2:])), *arrays[4])


def _tensor(array: npt.NDArray[Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array, np.float32)))


def _picked(h: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return h if len(keep) == h.shape[1] else h[:, keep]


def _part(scale: Scale, keep: torch.Tensor) -> Scale:
    return scale[0][keep], scale[1][keep]


def _scale(h: torch.Tensor) -> Scale:
    variance, mean = torch.var_mean(h, dim=0, correction=0)
    return mean, torch.sqrt(variance + EPSILON)


def fresh(channels: int, width: int, shares: Floats, seed: int) -> Network:
    """Return an untrained network of `width` channels a branch, which begins at the classes' shares."""
    rng = np.random.default_rng(seed)

    def branch(inputs: int) -> Branch:
        return Branch(np.arange(inputs, dtype=np.int32), _glorot(rng, inputs, width), np.zeros(width, np.float32))

    layers = Layer([branch(channels), branch(channels)]), Layer([branch(2 * width), branch(2 * width)])
    return Network(layers, _glorot(rng, 2 * width, len(shares)), np.log(shares))


def _glorot(rng: np.random.Generator, inputs: int, outputs: int) -> npt.NDArray[np.float32]:
    bound = np.sqrt(6.0 / (inputs + outputs))
    return rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)


def train(network: Network, data: Data, options: FitOptions, title: str = "train") -> Network:
    """Train a fresh network."""
    return _fit(_Sage(network, None), data, options, title)


def fine_tune(network: Network, data: Data, teacher: Floats, options: FitOptions, title: str = "fine-tune") -> Network:
    """Train a network further; the one that comes back has no higher validation loss.

    teacher  (N, classes) the unpruned network's logits. Every node learns what it said of it, training nodes their
             class as well; no node outside the training part shows its label.
    """
    h1 = layer_output(network.layers[0], data.graph.x, data.graph.mean)
    h2 = layer_output(network.layers[1], h1, data.graph.mean)
    scales = _scale(torch.from_numpy(h1)), _scale(torch.from_numpy(h2))
    return _fit(_Sage(network, scales), data, options, title, torch.from_numpy(teacher).softmax(dim=1))


def _fit(model: _Sage, data: Data, options: FitOptions, title: str, soft: torch.Tensor | None = None) -> Network:
    torch.manual_seed(options.seed)
    blocks = data.of_layer1([keep.numpy() for keep in model.keeps[:2]])
    groups = [
        {"params": list(model.weights), "weight_decay": options.weight_decay},
        {"params": list(model.biases), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adam(groups, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: _pace(epoch, options))
    best, best_epoch = _look(model, data, blocks), 0
    kept = model.network(best.scales)
    for epoch in tqdm(range(1, options.epochs + 1), desc=title, unit="epoch", leave=False, disable=None):
        optimizer.zero_grad()
        logits, _ = model(data, blocks, options.dropout)
        loss: Any = cross_entropy(logits[data.train], data.y[data.train])
        if soft is not None:
            loss = loss + cross_entropy(logits, soft)
        loss.backward()
        optimizer.step()
        schedule.step()
        if epoch % LOOK_EVERY and epoch != options.epochs:
            continue
        look = _look(model, data, blocks)
        if look.loss < best.loss:
            best, best_epoch, kept = look, epoch, model.network(look.scales)
        elif epoch - best_epoch >= options.patience:
            break
    return kept


def _pace(epoch: int, options: FitOptions) -> float:
    """The share of the learning rate that an epoch has: Adam's first steps are its boldest."""
    if not options.warm_up:
        return 1.0
    return min(1.0, (epoch + 1) / WARM_UP) * (1.0 + math.cos(math.pi * epoch / options.epochs)) / 2


class _Look(NamedTuple):
    loss: float
    scales: tuple[Scale, Scale]


def _look(model: _Sage, data: Data, blocks: list[torch.Tensor]) -> _Look:
    """Return the validation loss, and the scales that it was reached with."""
    with torch.no_grad():
        logits, scales = model(data, blocks)
    return _Look(float(cross_entropy(logits[data.validation], data.y[data.validation])), scales)
