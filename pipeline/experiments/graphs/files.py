"""Whole graphs from .npz files: edges, features, classes, and which nodes train.

Three forms are known by their names, so that files of public collections are read as they are:

    indptr, indices, x_indptr, x_indices, x_shape [x_data], y     edges and features as CSR
    edges (E, 2), node_features, node_labels [*_masks (S, N)]     each pair once; splits inside
    edge_index (2, E), x, y [train_mask, val_mask, test_mask]

Whatever the form: every edge gets its reverse, duplicates and self loops go, classes are numbered from 0.

N nodes, E directed edges, C channels.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from pipeline.errors import DataError

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
DENSE_FROM = 0.1  # share of non-zeros from which dense products are the faster ones
SHARES = (0.6, 0.2, 0.2)


class Split(NamedTuple):
    train: Integers  # node numbers
    validation: Integers
    test: Integers


class Graph(NamedTuple):
    name: str
    x: Any  # (N, C) float32, an array or CSR
    mean: Any  # (N, N) float32 CSR, row i averages over the neighbours of i; empty where there are none
    y: Integers  # (N,)
    splits: tuple[Split, ...]  # those inside the file

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


def read_graph(path: Path) -> Graph:
    """Read a graph of any of the forms above; DataError names the file, what is wrong and what is expected."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"cannot read the graph {path}: {error}; expected a NumPy .npz file without objects") from None
    try:
        return _graph(path.stem, arrays)
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"{path}: {error}") from None


def _graph(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Graph:
    x = _features(arrays)
    y = _classes(_first(arrays, "y", "node_labels"), x.shape[0])
    source, target = _edges(arrays)
    return Graph(name, x, neighbour_mean(source, target, x.shape[0]), y, _splits(arrays, len(y)))


def _first(arrays: Mapping[str, npt.NDArray[Any]], *names: str) -> npt.NDArray[Any]:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise ValueError(f"no array {' or '.join(names)}; it has {', '.join(arrays) or 'none'}")


def _features(arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return features, dense where many are not 0; dense files are brought to mean 0 and deviation 1 a channel."""
    if "x_indptr" in arrays:
        shape = tuple(int(size) for size in _first(arrays, "x_shape"))
        indices = _first(arrays, "x_indices")
        data = arrays.get("x_data", np.ones(len(indices), np.float32)).astype(np.float32)
        x = sp.csr_matrix((data, indices, arrays["x_indptr"]), shape=shape)
        x.check_format()
        _check_finite(x.data)
        return x.toarray() if x.nnz > DENSE_FROM * shape[0] * shape[1] else x
    x = np.asarray(_first(arrays, "x", "node_features"), np.float64)
    if x.ndim != 2:
        raise ValueError(f"features of shape {x.shape}, expected (nodes, channels)")
    _check_finite(x)
    deviation = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1.0)).astype(np.float32)


def _check_finite(values: npt.NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("features that are not finite; expected numbers only")


def _classes(labels: npt.NDArray[Any], nodes: int) -> Integers:
    if labels.shape != (nodes,) or labels.dtype.kind not in "biu":
        raise ValueError(
            f"labels {labels.dtype} of shape {labels.shape}, expected one whole number for each of {nodes}"
        )
    known, numbers = np.unique(labels, return_inverse=True)
    if len(known) < 2:
        raise ValueError("one class only; expected two or more")
    return numbers.astype(np.int64)


def _edges(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Integers, Integers]:
    if "indptr" in arrays:
        degrees: Integers = np.diff(arrays["indptr"].astype(np.int64)).astype(np.int64)
        return np.repeat(np.arange(len(degrees)), degrees), _first(arrays, "indices").astype(np.int64)
    pairs = _first(arrays, "edge_index", "edges").astype(np.int64)
    if pairs.ndim != 2 or 2 not in pairs.shape:
        raise ValueError(f"edges of shape {pairs.shape}, expected (2, edges) or (edges, 2)")
    pairs = pairs if "edge_index" in arrays else pairs.T
    return pairs[0], pairs[1]


def neighbour_mean(source: Integers, target: Integers, nodes: int) -> Any:
    """Return the CSR matrix that averages over neighbours: symmetric pairs, each once, no self loops.  # (N, N)"""
    if len(source) != len(target):
        raise ValueError(f"{len(source)} sources for {len(target)} targets of edges")
    if len(source) and not 0 <= min(source.min(), target.min()) <= max(source.max(), target.max()) < nodes:
        raise ValueError(f"an edge leads outside the {nodes} nodes")
    keep = source != target
    both = np.concatenate([source[keep], target[keep]]), np.concatenate([target[keep], source[keep]])
    pairs = sp.csr_matrix((np.ones(len(both[0]), np.float32), both), shape=(nodes, nodes))  # adds up what is twice
    degrees = np.diff(pairs.indptr)
    pairs.data[:] = np.repeat(1.0 / np.maximum(degrees, 1), degrees)
    return pairs


def _splits(arrays: Mapping[str, npt.NDArray[Any]], nodes: int) -> tuple[Split, ...]:
    names = ("train_masks", "val_masks", "test_masks")
    if "train_mask" in arrays:
        names = ("train_mask", "val_mask", "test_mask")
    elif "train_masks" not in arrays:
        return ()
    parts = [np.atleast_2d(_first(arrays, name)).astype(bool) for name in names]
    if any(part.shape != (len(parts[0]), nodes) for part in parts):
        raise ValueError(f"masks of shapes {[part.shape for part in parts]}, expected (splits, {nodes}) three times")
    return tuple(Split(*(np.flatnonzero(part[s]) for part in parts)) for s in range(len(parts[0])))


def split_of(graph: Graph, seed: int) -> Split:
    """Return the split of a seed: one of the file's own, else 60/20/20 at random, every class in these shares."""
    if graph.splits:
        return graph.splits[seed % len(graph.splits)]
    rng = np.random.default_rng(seed)
    parts: tuple[list[Integers], ...] = ([], [], [])
    for one in range(graph.classes):
        nodes = rng.permutation(np.flatnonzero(graph.y == one))
        cuts = np.round(np.cumsum(SHARES[:2]) * len(nodes)).astype(np.int64)
        for part, chosen in zip(parts, np.split(nodes, cuts), strict=True):
            part.append(chosen)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))
