"""What else could score the same targets: `graphsieve bench core` times these beside our engine.

    torch, cached       hidden features of visited nodes are kept, the means are an `embedding_bag` over the lists
    DGL, all            nothing is kept: both layers are computed anew, over all neighbours
    DGL, 32 and 32      likewise, over 32 neighbours a relation at most, drawn at random: it computes less, and others
    boosted trees       `predict_proba` on just what layer 1 reads, the means included

All are given for nothing what our engine must find out itself: the input channels with their counters, who stands in
which list, and trees the means too. Weights lie contiguous, one thread, no gradients.

N entries, B targets, W channels.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.bench.explicit_lists import ExplicitList
from pipeline.experiments.message_passing import Block, block_into, graph_of, weighted_sum
from pipeline.model import Branch, Model

Floats = npt.NDArray[np.float32]
Targets = slice  # of entries: a micro-batch is a stretch of the log
FAN_OUT = 32


class TorchCached:
    """Reads the hidden features `h` of all that came before, and writes those of its targets over them."""

    def __init__(self, model: Model, x: Floats, h: Floats, lists: list[ExplicitList]) -> None:
        self._model, self._x, self._h = _Torch(model), torch.from_numpy(x), torch.from_numpy(h.copy())
        self._start = [torch.from_numpy(one.start) for one in lists]
        self._source = [torch.from_numpy(one.source) for one in lists]
        self._weight = [torch.from_numpy(one.weight) for one in lists]

    def scores(self, targets: Targets) -> Floats:
        x = self._x[targets]
        h = self._model.first(x, self._means(targets, self._x))
        self._h[targets] = h
        return self._model.scores(h, self._means(targets, self._h))

    def _means(self, targets: Targets, values: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for start, source, weight in zip(self._start, self._source, self._weight, strict=True):
            first, last = int(start[targets.start]), int(start[targets.stop])
            offsets = start[targets] - first
            found.append(
                torch.nn.functional.embedding_bag(
                    source[first:last], values, offsets, mode="sum", per_sample_weights=weight[first:last]
                )
            )
        return found


class MessagePassing:
    """DGL: both layers for each batch anew."""

    def __init__(self, model: Model, x: Floats, lists: list[ExplicitList], fan_out: int | None = None) -> None:
        self._model, self._x, self._fan_out = _Torch(model), torch.from_numpy(x), fan_out
        self._graphs = [graph_of(one.source, one.reader, len(x)) for one in lists]
        self._weights = [torch.from_numpy(one.weight) for one in lists]

    def scores(self, targets: Targets) -> Floats:
        wanted = torch.arange(targets.start, targets.stop)
        outer = self._blocks(wanted)
        nodes = torch.unique(torch.cat([wanted, *(block.source for block in outer)]))
        h = self._model.first(self._x[nodes], self._sums(self._blocks(nodes), lambda block: self._x[block.source]))
        means = self._sums(outer, lambda block: h[torch.searchsorted(nodes, block.source)])
        return self._model.scores(h[torch.searchsorted(nodes, wanted)], means)

    def _blocks(self, targets: torch.Tensor) -> list[Block]:
        return [block_into(graph, targets, self._fan_out) for graph in self._graphs]

    def _sums(self, blocks: list[Block], values: Callable[[Block], torch.Tensor]) -> list[torch.Tensor]:
        pairs = zip(blocks, self._weights, strict=True)
        return [weighted_sum(block, values(block), weight[block.edge]) for block, weight in pairs]


class Trees:
    """Boosted trees, fitted on the entries before `until` with labels drawn by lot: only their speed is asked for."""

    def __init__(self, x: Floats, means: Floats, until: int) -> None:
        self._reads = np.concatenate([x, means.reshape(len(x), -1)], axis=1)
        truth = np.random.default_rng(0).uniform(size=until) < 0.15
        trees = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, early_stopping=False, random_state=0)
        self._trees = trees.fit(self._reads[:until], truth)

    def scores(self, targets: Targets) -> Floats:
        scores: Floats = self._trees.predict_proba(self._reads[targets])[:, 1].astype(np.float32)
        return scores


class _Torch:
    """The model's two layers and classifier."""

    def __init__(self, model: Model) -> None:
        self._layers = [[_tensors(branch) for branch in layer.branches] for layer in model.layers]
        self._weight, self._bias = torch.from_numpy(model.weight), model.bias

    def first(self, own: torch.Tensor, means: list[torch.Tensor]) -> torch.Tensor:
        return self._layer(0, own, means)

    def scores(self, own: torch.Tensor, means: list[torch.Tensor]) -> Floats:
        scores: Floats = torch.sigmoid(self._layer(1, own, means) @ self._weight + self._bias).numpy()
        return scores

    def _layer(self, number: int, own: torch.Tensor, means: list[torch.Tensor]) -> torch.Tensor:
        parts = []
        for (keep, weight, bias), values in zip(self._layers[number], [own, *means], strict=True):
            read = values if len(keep) == values.shape[1] else values[:, keep]
            parts.append(torch.addmm(bias, read, weight))
        return torch.cat(parts, dim=1).relu_()


def _tensors(branch: Branch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = torch.from_numpy(np.ascontiguousarray(branch.weight))
    return torch.from_numpy(branch.keep).long(), weight, torch.from_numpy(branch.bias)


def one_thread() -> None:
    """Let torch use one; nothing here asks for gradients, so none are kept."""
    torch.set_num_threads(1)
