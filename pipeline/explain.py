"""Explanations: a score's logit, split exactly over what the event said itself and over each relation.

    logit(score) = logit(start) + the sum of the contributions of `self` and of every relation

`start` is the score where nothing is known: no list has a member yet, and the own channels are in the middle (x = 0:
the median, or the mean where inputs are standardised; of a one-hot none of its values). A contribution is how far the
logit moves, on average, when that player's knowledge is added to what is known already, over all orders in which
knowledge could come in: the Shapley value. A player brings

    self        the node's own channels
    relation    its channels, the mean of its members' inputs (layer 1), the mean of their hidden features (layer 2);
                what is not brought is as of an empty list, and layer 1 is computed anew for it

and a relation's contribution is split in turn over its four PARTS, by the same average over all orders in which a
relation's parts come in together: the Owen value, whose parts add up to the relation's contribution.

Why this one: it is the only split that adds up exactly, gives equal things equal shares and useless ones none (Shapley
1953; for models Lundberg & Lee 2017; with one starting point in place of a sample, "baseline Shapley", Sundararajan &
Najmi 2020; within relations Owen 1977). Players are few, so it is computed, not estimated: 2^(R+1) forward passes a
target, and R * 2^(R+4) for the parts. It needs no gradient, so a kink of a relu is no matter, as it is for integrated
gradients (Sundararajan, Taly & Yan 2017). An empty list is the start because it happens, and can be said: "as if nobody
had judged a review of this product". A start with all channels at their medians never happens.

B targets, K inputs, H hidden channels, R relations, P = 1 + R players, S coalitions.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.graph_state import NEVER
from pipeline.model import Layer, Model
from pipeline.schema import Schema

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

PARTS = ("arrivals", "labels", "deviation", "members")
MEMBERS = PARTS.index("members")
MOST_RELATIONS = 12  # 2^13 forward passes a target
ROWS = 1024  # forward passes made at once


@dataclass
class Seen:
    """What B targets read: all that their scores rest on."""

    channels: Floats  # (B, G) raw: arrival, label, deviation
    x: Floats  # (B, K)
    means: Floats  # (B, R, K) of x
    hidden_means: Floats  # (B, R, H)

    def take(self, which: slice | npt.NDArray[np.int64]) -> "Seen":
        return Seen(self.channels[which], self.x[which], self.means[which], self.hidden_means[which])


class Explainer:
    """Splits a model's scores; ConfigError if its relations are too many."""

    def __init__(self, model: Model) -> None:
        relations = len(model.schema.relations)
        if relations > MOST_RELATIONS:
            raise ConfigError(f"a score is split over at most {MOST_RELATIONS} relations, the schema has {relations}")
        self._model = model
        self.players = ["self", *model.schema.relation_names]
        # What brings a channel: 0 self, 1 + r * len(PARTS) + part. A mask (S, 1 + R * len(PARTS)) is a coalition of it.
        self._source = _sources(model.schema)[model.input_keep]
        self._start = start_inputs(model)
        self._weights = _shapley_weights(len(self.players))
        spread = np.array([0] + [1 + r for r in range(relations) for _ in PARTS])
        self._coalitions = _coalitions(len(self.players))[:, spread]

    def of_spam(self, seen: Seen, score: Floats) -> Floats:
        """Return the contributions of each target that is spam, nan for the others.  # (B, P)"""
        why = np.full((len(score), len(self.players)), np.nan, np.float32)
        spam = np.flatnonzero(score.astype(np.float64) >= self._model.threshold)
        why[spam] = self.contributions(seen.take(spam))
        return why

    def contributions(self, seen: Seen) -> Floats:
        """Return what each player adds to the logit.  # (B, P)"""
        return (self.logits(seen, self._coalitions) @ self._weights.T).astype(np.float32)

    def parts(self, seen: Seen) -> Floats:
        """Return what each part of each relation adds to the logit.  # (B, R, PARTS)"""
        relations, among = len(self.players) - 1, _coalitions(len(PARTS))
        weights = _shapley_weights(len(PARTS))
        added = np.empty((len(seen.x), relations, len(PARTS)), np.float32)
        for r in range(relations):
            own = slice(1 + r * len(PARTS), 1 + (r + 1) * len(PARTS))
            others = self._coalitions[~self._coalitions[:, own.start]]  # those without the relation
            present = np.repeat(others, len(among), axis=0)
            present[:, own] = np.tile(among, (len(others), 1))
            logits = self.logits(seen, present).reshape(len(seen.x), len(others), len(among))
            added[:, r] = np.einsum("bou,o,pu->bp", logits, self._odds_of(others), weights)
        return added

    def _odds_of(self, others: Mask) -> npt.NDArray[np.float64]:
        """How often a random order of the players puts just these before a certain other one.  # (S,)"""
        players = len(self.players)
        sizes = others[:, [0, *range(1, others.shape[1], len(PARTS))]].sum(axis=1).tolist()
        return np.array([1.0 / (players * math.comb(players - 1, size)) for size in sizes])

    def logits(self, seen: Seen, present: Mask) -> npt.NDArray[np.float64]:
        """Return the logit of each target where only what is `present` is known.  # (S, sources) -> (B, S)"""
        logits = np.empty((len(seen.x), len(present)))
        targets = max(1, ROWS // len(present))
        for b in range(0, len(logits), targets):
            some = seen.take(slice(b, b + targets))
            for s in range(0, len(present), ROWS):
                logits[b : b + targets, s : s + ROWS] = self._forward(some, present[s : s + ROWS])
        return logits

    def _forward(self, seen: Seen, present: Mask) -> Floats:
        first, second = self._model.layers
        members = present[:, 1 + MEMBERS :: len(PARTS)]
        x = np.where(present[:, self._source], seen.x[:, None], self._start)  # (B, S, K)
        h = _outputs(first, x, seen.means, members)
        h2 = _outputs(second, h, seen.hidden_means, members)
        logits: Floats = self._model.logits(h2.reshape(-1, h2.shape[2])).reshape(h2.shape[:2])
        return logits


def _outputs(layer: Layer, own: Floats, means: Floats, members: Mask) -> Floats:
    """A layer's outputs in every coalition. A relation's branch has two of them, with its members and without: they
    are worked out once, not for each coalition.  # (B, S, W), (B, R, W), (S, R) -> (B, S, H)"""
    out = np.empty((*own.shape[:2], layer.width), np.float32)
    branch, *others = layer.branches
    stop = len(branch.bias)
    out[:, :, :stop] = branch.forward(own.reshape(-1, own.shape[2])).reshape(*own.shape[:2], stop)
    for r, branch in enumerate(others):
        start, stop = stop, stop + len(branch.bias)
        known, empty = branch.forward(means[:, r]), branch.forward(np.zeros(means.shape[2], np.float32))
        out[:, :, start:stop] = np.where(members[:, r, None], known[:, None], empty)
    return out


def start_inputs(model: Model) -> Floats:
    """Return the inputs of a node of which nothing is known.  # (K,)"""
    schema = model.schema
    arrival = [0.0, math.log1p(NEVER)] + [0.0] * len(schema.arrival_half_lives)
    label = [schema.labels.prior, 0.0] + [schema.labels.prior] * len(schema.label_half_lives)
    deviation = [0.0] * len(schema.deviating)
    graph = [value for block in (arrival, label, deviation) for _ in schema.relations for value in block]
    raw = np.array([[0.0] * len(schema.own_channels) + graph], np.float32)
    x: Floats = model.transform.apply(raw, model.input_keep)[0]
    x[model.input_keep < len(schema.own_channels)] = 0.0
    return x


def channel_blocks(schema: Schema) -> list[tuple[int, int, slice]]:
    """Return (relation, part, its channels among the raw ones that the graph gives), in their order."""
    widths = (2 + len(schema.arrival_half_lives), 2 + len(schema.label_half_lives), len(schema.deviating))
    blocks, start = [], 0
    for part, width in enumerate(widths):
        for relation in range(len(schema.relations)):
            blocks.append((relation, part, slice(start, start + width)))
            start += width
    return blocks


def _sources(schema: Schema) -> npt.NDArray[np.int64]:
    """What brings each raw channel."""
    own = len(schema.own_channels)
    source = np.zeros(len(schema.channel_names), np.int64)
    for relation, part, place in channel_blocks(schema):
        source[own + place.start : own + place.stop] = 1 + relation * len(PARTS) + part
    return source


def _coalitions(players: int) -> Mask:
    """All subsets of so many players; the c-th holds those whose bit is set in c.  # (2^players, players)"""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(np.bool_)


def _shapley_weights(players: int) -> npt.NDArray[np.float64]:
    """What a coalition's value counts for each player's contribution.  # (players, 2^players)"""
    coalitions = _coalitions(players)
    size = coalitions.sum(axis=1)
    # The share of all orders in which just these come first, a certain one of them last (or a certain other one next).
    ending = np.array([0.0, *(1.0 / (s * math.comb(players, s)) for s in range(1, players + 1))])[size]
    going_on = np.array([*(1.0 / ((players - s) * math.comb(players, s)) for s in range(players)), 0.0])[size]
    return np.asarray(np.where(coalitions, ending[:, None], -going_on[:, None]).T)
