"""A trained network as plain matrices: what is pruned, judged and timed.

    h1     = [relu(x W1_self + c1_self) | relu(mean(x) W1_near + c1_near)]        mean over all neighbours, 0 if none
    h2     = the same over h1
    logits = h2 W + c

GraphSAGE-mean with concatenation, as in GCNP (Zhou et al., PVLDB 14(9), 2021), section 2; the normalisation is folded
into the matrix that reads it. Each branch reads only the channels that it keeps.

N nodes, C channels, H hidden channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.channels_kept import Floats
from pipeline.evaluate import auroc, average_precision
from pipeline.model import Branch, Layer


@dataclass
class Network:
    layers: tuple[Layer, Layer]  # branches self, neighbours
    weight: Floats  # (H2, classes)
    bias: Floats  # (classes,)

    @property
    def parameters(self) -> int:
        branches = [branch for layer in self.layers for branch in layer.branches]
        return sum(b.weight.size + b.bias.size for b in branches) + self.weight.size + self.bias.size

    def multiply_adds(self, sparse_inputs: float | None = None) -> float:
        """Return the multiply-adds a node; `sparse_inputs` are the non-zeros a node where zeros are skipped."""
        first, second = self.layers
        read = [len(b.keep) if sparse_inputs is None else sparse_inputs for b in first.branches]
        products = sum(r * len(b.bias) for r, b in zip(read, first.branches, strict=True))
        return products + second.multiply_adds + self.weight.size


def layer_output(layer: Layer, x: Any, mean: Any) -> Floats:
    """Return relu outputs of both branches, x an array or CSR.  # (N, C), (N, N) -> (N, H)"""
    own, near = layer.branches
    outputs = [_columns(x, own.keep) @ own.weight + own.bias, averaged(mean, x, near) + near.bias]
    hidden: Floats = np.maximum(np.concatenate(outputs, axis=1), 0.0)
    return hidden


def averaged(mean: Any, x: Any, branch: Branch) -> Floats:
    """Return mean(x) W in the order that moves fewer channels along the edges; sparse features are multiplied first."""
    columns = _columns(x, branch.keep)
    narrow = isinstance(x, np.ndarray) and columns.shape[1] <= branch.weight.shape[1]
    product: Floats = (mean @ columns) @ branch.weight if narrow else mean @ (columns @ branch.weight)
    return product


def _columns(x: Any, keep: npt.NDArray[np.int32]) -> Any:
    return x if len(keep) == x.shape[1] else x[:, keep]


def logits_of(network: Network, x: Any, mean: Any) -> Floats:
    """Return the logits of every node.  # (N, C) -> (N, classes)"""
    h1 = layer_output(network.layers[0], x, mean)
    logits: Floats = layer_output(network.layers[1], h1, mean) @ network.weight + network.bias
    return logits


def sparse_inputs(x: Any) -> float | None:
    """Return the non-zeros a node of sparse features, None for dense ones: what `multiply_adds` counts."""
    return None if isinstance(x, np.ndarray) else x.nnz / x.shape[0]


def judge(logits: Floats, y: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """Return F1 micro (the accuracy) and macro, with two classes AUROC and AP of class 1 too."""
    predicted = logits.argmax(axis=1)
    figures: dict[str, float | None] = {"f1_micro": float((predicted == y).mean()), "f1_macro": _f1_macro(predicted, y)}
    if logits.shape[1] == 2:
        score = logits[:, 1] - logits[:, 0]
        figures |= {"auroc": auroc(y, score), "ap": average_precision(y, score)}
    return figures


def _f1_macro(predicted: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that occur or are predicted."""
    f1 = []
    for one in np.union1d(predicted, y):
        right = np.count_nonzero((predicted == one) & (y == one))
        f1.append(2 * right / (np.count_nonzero(predicted == one) + np.count_nonzero(y == one)))
    return float(np.mean(f1))
