"""Our stages, given what `core_peers` are given: the input channels, and who stands in which list.

What the graph makes of events is made beforehand and not counted. The rest is what a micro-batch goes through when it
is too large for one call of compiled code: the input lists and the hidden lists obey, both layers, the classifier.
"""

import time

import numpy as np
import numpy.typing as npt

from pipeline.cache import Cache
from pipeline.events import EventBatch
from pipeline.graph import Graph
from pipeline.model import Model
from pipeline.stage_kernel import stage_c

Floats = npt.NDArray[np.float32]


class Given:
    """Scores a stream from its first event on, of which every entry is a target.

    x  (N, K) what layer 1 reads of each entry of the stream
    """

    def __init__(self, model: Model, x: Floats) -> None:
        self.seconds = 0.0  # that scoring took so far
        self._model, self._x, self._entries = model, x, 0
        self._graph = Graph(model.schema)
        self._inputs, self._hidden = Cache(x.shape[1]), Cache(model.layers[0].width)
        self._means, self._hidden_means = self._room_for(0)

    def score(self, events: EventBatch) -> Floats:
        """Return the scores of the next micro-batch.  # (T,)"""
        applied = self._graph.apply(events)
        count, result = applied.entry_count, applied.result
        x = self._x[self._entries : self._entries + count]
        self._entries += count
        inputs, hidden = (cache.with_room(applied.capacity) for cache in (self._inputs, self._hidden))
        if len(self._means) < count:
            self._means, self._hidden_means = self._room_for(len(events))
        means, hidden_means = self._means[:count], self._hidden_means[:count]
        began = time.perf_counter()
        stage_c(result, inputs, x, means)
        h = self._model.hidden(x, means)
        stage_c(result, hidden, h, hidden_means)
        scores = self._model.scores(h, hidden_means)
        self.seconds += time.perf_counter() - began
        return scores

    def _room_for(self, entries: int) -> tuple[Floats, Floats]:
        """Return room for the means of the inputs and of the hidden features."""
        relations = len(self._model.schema.relations)
        means, hidden_means = (
            np.empty((entries, relations, width), np.float32)
            for width in (self._x.shape[1], self._model.layers[0].width)
        )
        return means, hidden_means
