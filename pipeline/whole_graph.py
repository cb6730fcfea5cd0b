"""Whole-graph inference: the logits of all nodes at once, on one thread, of a network as pruning has left it.

    h1     = [relu(x W1_self + c1_self) | relu(mean(x) W1_near + c1_near)]
    h2     = the same over h1
    logits = h2 W + c

Products of dense matrices are BLAS's, some rows at a time: what it gives is still in the processor's cache when the
bias is added. Branches that read the same channels are one product. Means over neighbours and products of sparse
features are both one compiled pass over a CSR matrix. mean(x) W is mean(x W) as well: the order with fewer
multiply-adds is taken. Nothing that pruning dropped is stored, computed or moved along an edge.

N nodes, E edges (or non-zeros), C channels, K channels that a branch keeps, O outputs of a branch, H of a layer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.instructions import LANES
from pipeline.model import Layer
from pipeline.whole_graph_kernel import Csr, finish, multiply

Floats = npt.NDArray[np.float32]
ROWS = 2048  # of a product at a time


class WholeGraph:
    """A network with its graph, ready to compute. Its working arrays are its own: one call at a time.

    layers        two, of the branches self and neighbours
    weight, bias  (H, classes), (classes,) the classifier's
    x             (N, C) float32, an array or SciPy's CSR matrix
    mean          (N, N) SciPy's CSR matrix; row i averages over the neighbours of i
    """

    def __init__(self, layers: tuple[Layer, Layer], weight: Floats, bias: Floats, x: Any, mean: Any) -> None:
        own, near = (branch.keep for branch in layers[0].branches)
        edges = _csr(mean)
        self._first, self._second = (_Pass(layer, edges) for layer in layers)
        kept = _stored(x, own)
        moved = kept if np.array_equal(own, near) else _stored(x, near)
        self._x = kept, padded(moved) if self._first.narrow and not isinstance(moved, Csr) else moved
        self._keeps = [branch.keep for branch in layers[1].branches]
        self._weight, self._bias = weight, bias

    def logits(self) -> Floats:
        """Return the logits of every node.  # (N, classes)"""
        h1 = self._first.outputs(*self._x)
        own, near = self._keeps
        kept = _picked(h1, own)
        h2 = self._second.outputs(kept, kept if np.array_equal(own, near) else _picked(h1, near))
        logits: Floats = h2 @ self._weight
        logits += self._bias
        return logits


class _Pass:
    """One layer over all nodes."""

    def __init__(self, layer: Layer, edges: Csr) -> None:
        own, near = layer.branches
        nodes, (inputs, outputs) = len(edges.start) - 1, near.weight.shape
        self._edges, self.narrow = edges, inputs <= outputs
        self._moved = _lines(nodes, outputs)  # along the edges
        self._out = np.empty((nodes, layer.width), np.float32)
        self._own, self._near = padded(own.weight), padded(near.weight)
        self._both = padded(np.concatenate([own.weight, near.weight], axis=1)) if len(own.keep) == inputs else None
        self._own_bias, self._near_bias = (branch.bias.astype(np.float32) for branch in layer.branches)

    def outputs(self, own: Floats | Csr, near: Floats | Csr) -> Floats:
        """Return relu outputs of both branches side by side, in an array that the next call overwrites.  # (N, H)

        Branches that read the same channels read the same array.
        """
        moved, out, width = self._moved, self._out, len(self._own_bias)
        if self.narrow and not isinstance(near, Csr):
            _sums(self._edges, near, moved)
            _branch(own, self._own, self._own_bias, out, 0)
            _branch(moved[:, : len(self._near)], self._near, self._near_bias, out, width)
            return out
        if own is near and self._both is not None and not isinstance(own, Csr):
            for part, product in products(own, self._both):
                finish(product, self._own_bias, out[part], 0)
                moved[part, : len(self._near_bias)] = product[:, width : width + len(self._near_bias)]
        else:
            _branch(own, self._own, self._own_bias, out, 0)
            _product(near, self._near, moved)
        _outputs(self._edges, moved, self._near_bias, out, width)
        return out


def _branch(x: Floats | Csr, weight: Floats, bias: Floats, out: Floats, first: int) -> None:
    """Write relu(x W + c) into `out`, from channel `first` on.  # (N, K), (K, O), (O,)"""
    if isinstance(x, Csr):
        _outputs(x, weight, bias, out, first)
        return
    for part, product in products(x, weight):
        finish(product, bias, out[part], first)


def _product(x: Floats | Csr, weight: Floats, out: Floats) -> None:
    """Write x W.  # (N, K), (K, O) -> (N, O)"""
    if isinstance(x, Csr):
        _sums(x, weight, out)
    else:
        np.matmul(x, weight, out=out)


def products(x: Floats, weight: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield x W, some rows at a time, in an array that the next ones overwrite.  # (N, K), (K, O) -> (rows, O)"""
    product = _lines(ROWS, weight.shape[1])
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        yield slice(start, start + ROWS), np.matmul(rows, weight, out=product[: len(rows)])


# ---- how arrays lie in memory ----


def _lines(rows: int, width: int) -> Floats:
    """Return an array of at least `width` channels whose every row begins with a line of the cache."""
    width = -(-width // LANES) * LANES
    room = np.zeros(rows * width + LANES, np.float32)
    first = -(room.ctypes.data // room.itemsize) % LANES
    return room[first : first + rows * width].reshape(rows, width)


def padded(weight: Floats) -> Floats:
    """Return a matrix with outputs of zeros behind its own, up to a whole line.  # (K, O) -> (K, O or more)"""
    wide = _lines(*weight.shape)
    wide[:, : weight.shape[1]] = weight
    return wide


def _stored(x: Any, keep: npt.NDArray[np.int32]) -> Floats | Csr:
    kept = _picked(x, keep)
    return np.ascontiguousarray(kept, np.float32) if isinstance(kept, np.ndarray) else _csr(kept)


def _picked(x: Any, keep: npt.NDArray[np.int32]) -> Any:
    return x if len(keep) == x.shape[1] else x[:, keep]


def _csr(matrix: Any) -> Csr:
    return Csr(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))


# ---- passes over a sparse matrix ----


def _sums(matrix: Csr, table: Floats, out: Floats) -> None:
    """Write matrix table.  # (N, M), (M, W) -> (N, W)"""
    width = min(table.shape[1], out.shape[1])
    multiply(
        matrix, table, np.zeros(width, np.float32), np.float32(-np.inf), out, 0, np.empty(table.shape[1], np.float32)
    )


def _outputs(matrix: Csr, table: Floats, bias: Floats, out: Floats, first: int) -> None:
    """Write relu(matrix table + bias), from channel `first` on.  # (N, M), (M, O), (O,) -> (N, O)"""
    multiply(matrix, table, bias, np.float32(0.0), out, first, np.empty(table.shape[1], np.float32))
