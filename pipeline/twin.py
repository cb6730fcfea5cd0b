"""The slow twin: the whole method once more, plain Python over networkx in float64, one event at a time.

    graph   a networkx digraph: an arc node -> list says that the node stands in that list
    node    ("node", id): own, channels, x, h, ts, label, label_ts, live
    list    ("list", relation, key): key is the group key, or the id of the node whose neighbours it holds

Nothing is incremental: every mean, count and decayed count is worked out afresh from what is in the graph, so that
this file is right by reading it. It shares with the fast path the decoded events, the schema and the checkpoint's
numbers; no code.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt

from pipeline.durations import parse_duration
from pipeline.events import EDGE, LABEL, NODE, SCORE, EventBatch
from pipeline.model import Layer, Model
from pipeline.schema import Relation

Vector = npt.NDArray[np.float64]
NEVER = 315_360_000.0  # seconds "since the last member" of a list that had none: ten years


@dataclass
class Node:
    own: Vector
    ts: float = 0.0
    live: bool = False
    label: int | None = None
    label_at: float = 0.0
    keys: dict[str, str] = field(default_factory=dict)  # of its groups, by relation
    arrival: list[float] = field(default_factory=list)  # arrival channels, as of its newest event
    x: Vector = field(default_factory=lambda: np.zeros(0))
    h: Vector = field(default_factory=lambda: np.zeros(0))


class Twin:
    """Scores events as the design's words say, slowly."""

    def __init__(self, model: Model) -> None:
        self.model, self.schema = model, model.schema
        self.graph = nx.DiGraph()
        self.nodes: dict[str, Node] = {}  # present ones, in order of arrival
        self.arrivals: dict[Any, list[float]] = {}  # list -> watermark at each arrival since it last was empty
        self.watermark = -math.inf
        self.links = 0  # numbers the arcs in the order they came

    def run(
        self, events: EventBatch, wanted: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[str, float | None]]:
        """Yield (outcome, score) of each event; a score only of targets, and of those only the `wanted`."""
        edges: list[list[tuple[str, str]]] = [[] for _ in range(len(events))]
        names = self.schema.relation_names
        others = events.edge_other.known()
        for event, relation, other in zip(events.edge_event, events.edge_relation, others, strict=True):
            edges[event].append((names[relation], other))
        for i in range(len(events)):
            outcome, scored = self._event(events, i, edges[i])
            wants = events.target[i] and (wanted is None or wanted[i])
            yield outcome, self._score(scored) if scored and wants else None

    def _event(self, events: EventBatch, i: int, edges: list[tuple[str, str]]) -> tuple[str, str | None]:
        kind, name, ts = events.kind[i], events.id[i] or "", float(events.ts[i])
        if not math.isnan(ts):
            self.watermark = max(self.watermark, ts)
        self._expire()
        if kind in (NODE, EDGE) and ts < self.watermark - self.schema.ttl:
            return "expired", None
        if kind == NODE:
            keys = {
                self.schema.relation_names[r]: key
                for (r, _), key in zip(self.schema.groups, events.keys[:, i], strict=True)
                if key is not None
            }
            return self._node(name, ts, np.array(events.features[i], np.float64), keys, edges)
        if kind == EDGE:
            return ("applied" if self._connect(edges[0][0], name, edges[0][1], ts) else "duplicate"), None
        if kind == SCORE:
            return self._rescore(name)
        if kind == LABEL:
            return self._label(name, int(events.label[i])), None
        return self._retract(name, edges), None

    # -- the events --

    def _node(
        self, name: str, ts: float, own: Vector, keys: dict[str, str], edges: list[tuple[str, str]]
    ) -> tuple[str, str | None]:
        node = self.nodes.get(name)
        if node and node.live and ts <= node.ts:
            return "duplicate", None
        node = self.nodes.pop(name, None) or Node(own)
        self.nodes[name] = node  # last in the order of arrival
        node.own, node.ts, node.live = own, ts, False
        for relation in self.schema.relation_names:
            old, new = node.keys.get(relation), keys.get(relation)
            if old is not None and old != new:
                self._remove_link(name, ("list", relation, old))
            if new is not None and old != new:
                self._add_link(name, ("list", relation, new), ts)
            elif new is not None:
                self.graph.edges[("node", name), ("list", relation, new)]["ts"] = ts
        node.keys = keys
        for relation, other in edges:
            self._connect(relation, name, other, ts)
        node.arrival = self._arrival_channels(name)
        self._compute(name)
        node.live = True
        for _, own_list in self.graph.out_edges(("node", name)):
            self.arrivals.setdefault(own_list, []).append(self.watermark)
        return "applied", name

    def _rescore(self, name: str) -> tuple[str, str | None]:
        node = self.nodes.get(name)
        if node is None or not node.live:
            return "unknown", None
        node.live = False  # nobody is its own neighbour
        node.arrival = self._arrival_channels(name)
        self._compute(name)
        node.live = True
        return "applied", name

    def _label(self, name: str, label: int) -> str:
        self._ensure_present(name)
        node = self.nodes[name]
        if node.label == label:
            return "duplicate"
        node.label, node.label_at = label, self.watermark
        return "applied"

    def _retract(self, name: str, edges: list[tuple[str, str]]) -> str:
        if not edges:
            if name not in self.nodes:
                return "unknown"
            self._forget(name)
            return "applied"
        (relation, other), known = edges[0], False
        ends = [(name, other)] if self.schema.relations[relation].directed else [(name, other), (other, name)]
        for member, owner in ends:
            if self.graph.has_edge(("node", member), ("list", relation, owner)):
                self._remove_link(member, ("list", relation, owner))
                known = True
        return "applied" if known else "unknown"

    def _expire(self) -> None:
        while self.nodes:
            name, node = next(iter(self.nodes.items()))
            if not node.ts < self.watermark - self.schema.ttl:
                return
            self._forget(name)

    # -- nodes and lists --

    def _ensure_present(self, name: str) -> None:
        if name not in self.nodes:
            self.nodes[name] = Node(np.zeros(0), ts=self.watermark)

    def _forget(self, name: str) -> None:
        del self.nodes[name]
        if self.graph.has_node(("node", name)):
            for _, own_list in list(self.graph.out_edges(("node", name))):
                self._remove_link(name, own_list)
            self.graph.remove_node(("node", name))
        for relation in self.schema.relation_names:
            own_list = ("list", relation, name)
            if self.schema.relations[relation].kind == "edge" and self.graph.has_node(own_list):
                for (_, member), _ in list(self.graph.in_edges(own_list)):
                    self._remove_link(member, own_list)

    def _connect(self, relation: str, src: str, dst: str, ts: float) -> bool:
        if src == dst:
            return False
        self._ensure_present(src)
        self._ensure_present(dst)
        about = self.schema.relations[relation]
        new = self._add_neighbour(about, ("list", relation, dst), src, ts)
        if not about.directed:
            new = self._add_neighbour(about, ("list", relation, src), dst, ts) or new
        return new

    def _add_neighbour(self, about: Relation, own_list: Any, member: str, ts: float) -> bool:
        if self.graph.has_edge(("node", member), own_list):
            return False
        self._add_link(member, own_list, ts)
        if self.nodes[member].live:
            self.arrivals.setdefault(own_list, []).append(self.watermark)
        if about.max_neighbours and self.graph.in_degree(own_list) > about.max_neighbours:
            oldest = min(self.graph.in_edges(own_list, data="number"), key=lambda arc: arc[2])
            self._remove_link(oldest[0][1], own_list)
        return True

    def _add_link(self, name: str, own_list: Any, ts: float) -> None:
        self.links += 1
        self.graph.add_edge(("node", name), own_list, ts=ts, number=self.links)

    def _remove_link(self, name: str, own_list: Any) -> None:
        self.graph.remove_edge(("node", name), own_list)
        if self.graph.in_degree(own_list) == 0:
            self.graph.remove_node(own_list)
            self.arrivals.pop(own_list, None)

    def _lists_of(self, name: str) -> list[tuple[Relation, Any, list[tuple[Node, float]]]]:
        """The lists that a node reads, one a relation, each with its live members and the times that weigh them."""
        lists = []
        for relation, about in self.schema.relations.items():
            key = self.nodes[name].keys.get(relation) if about.kind == "group" else name
            own_list = ("list", relation, key)
            arcs = self.graph.in_edges(own_list, data="ts") if self.graph.has_node(own_list) else []
            members = [(self.nodes[member], ts) for (_, member), _, ts in arcs if self.nodes[member].live]
            lists.append((about, own_list, members))
        return lists

    # -- channels --

    def _arrival_channels(self, name: str) -> list[float]:
        channels: list[float] = []
        for _, own_list, members in self._lists_of(name):
            came = self.arrivals.get(own_list, [])
            channels.append(math.log1p(len(members)))
            channels.append(math.log1p(self.watermark - came[-1] if came else NEVER))
            for half_life in self.schema.arrival_half_lives:
                channels.append(math.log1p(sum(_fade(self.watermark - then, half_life) for then in came)))
        return channels

    def _label_channels(self, name: str) -> list[float]:
        prior, strength = self.schema.labels.prior, self.schema.labels.strength
        channels: list[float] = []
        for _, _, members in self._lists_of(name):
            labelled = [member for member, _ in members if member.label is not None]
            channels.append((sum(m.label or 0 for m in labelled) + prior * strength) / (len(labelled) + strength))
            channels.append(math.log1p(len(labelled)))
            for half_life in self.schema.label_half_lives:
                weights = [_fade(self.watermark - member.label_at, half_life) for member in labelled]
                spam = sum(w * (member.label or 0) for w, member in zip(weights, labelled, strict=True))
                channels.append((spam + prior * strength) / (sum(weights) + strength))
        return channels

    def _deviation_channels(self, name: str) -> list[float]:
        channels: list[float] = []
        for about, _, members in self._lists_of(name):
            for c in self.schema.deviating:
                mean = _mean(about, members, lambda member, c=c: member.own[c : c + 1])
                channels.append(float(self.nodes[name].own[c] - mean[0]) if members else 0.0)
        return channels

    # -- the model --

    def _compute(self, name: str) -> None:
        """Read the lists and compute the node's input channels and hidden features."""
        node = self.nodes[name]
        raw = np.concatenate([node.own, node.arrival, self._label_channels(name), self._deviation_channels(name)])
        node.x = np.array([self._transformed(c, raw[c]) for c in self.model.input_keep.tolist()])
        means = [_mean(about, members, lambda m: m.x, len(node.x)) for about, _, members in self._lists_of(name)]
        node.h = _layer(self.model.layers[0], [node.x, *means])

    def _transformed(self, channel: int, value: float) -> float:
        table = self.model.transform
        knots = slice(table.start[channel], table.start[channel + 1])
        return float(np.interp(value, table.x[knots].astype(float), table.z[knots].astype(float)))

    def _score(self, name: str) -> float:
        node = self.nodes[name]
        node.live = False
        lists = self._lists_of(name)
        node.live = True
        means = [_mean(about, members, lambda m: m.h, len(node.h)) for about, _, members in lists]
        h2 = _layer(self.model.layers[1], [node.h, *means])
        return 1.0 / (1.0 + math.exp(-float(h2 @ self.model.weight.astype(float)) - self.model.bias))


def _layer(layer: Layer, values: list[Vector]) -> Vector:
    return np.concatenate([
        np.maximum(branch_in[branch.keep] @ branch.weight.astype(float) + branch.bias.astype(float), 0.0)
        for branch_in, branch in zip(values, layer.branches, strict=True)
    ])  # fmt: skip


def _mean(about: Relation, members: list[tuple[Node, float]], value: Any, width: int = 1) -> Vector:
    """Weighted mean over a list's members, 0 for an empty list; weights fade with the relation's half-life."""
    if not members:
        return np.zeros(width)
    values = np.array([value(member) for member, _ in members])
    times = np.array([ts for _, ts in members])
    weights = np.ones(len(times))
    if about.half_life is not None:
        from_newest = times.max() - times
        weights = 2.0 ** (-from_newest / parse_duration(about.half_life))
    return np.asarray(weights @ values / weights.sum())


def _fade(age: float, half_life: float) -> float:
    return float(2.0 ** (-age / half_life))
