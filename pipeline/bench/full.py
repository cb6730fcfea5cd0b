"""`graphsieve bench full`: milliseconds for the logits of all nodes of a graph, by ours and by what others would take.

Widths are the paper's: two layers, 128 channels a branch, concatenation. The network is trained for a few epochs, for
no speed depends on what it has learnt; which channels stay is what the LASSO (scheme `full`) says of it. The logits of
all who compute one network are compared before anything is timed. Then they take turns, one thread each, matrices and
kept channels laid out beforehand.

    ours            `whole_graph`, pruned 4x; likewise 8x and unpruned
    torch           sparse CSR times dense
    DGL             message passing, its products are torch's
    dense products  those of ours and nothing else, by the same BLAS: what no order of the rest can go below

The graphs are those of the data folder, else, or with --events, a random one of so many nodes. A ratio is the median of
those of single turns, over several graphs their geometric mean.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.bench.surroundings import Report, surroundings
from pipeline.errors import ConfigError
from pipeline.experiments.graphs.files import Graph, Split, neighbour_mean, read_graph, split_of
from pipeline.experiments.graphs.inference import Full
from pipeline.experiments.graphs.network import Network
from pipeline.experiments.graphs.prune import Unpruned, plan_by, refitted
from pipeline.experiments.graphs.sage import Data, FitOptions, fresh, train, use_one_thread
from pipeline.experiments.graphs.settings import path_of
from pipeline.experiments.message_passing import to_dgl
from pipeline.model import Layer
from pipeline.page import Table
from pipeline.whole_graph import Floats, WholeGraph, padded, products

GRAPHS = ("amazon_cs", "coauthor_phy", "tolokers", "reddit_banned")
NODES, DEGREE, CHANNELS, CLASSES = 20_000, 16, 128, 4  # of a random graph
WIDTH = 128  # channels a branch
EPOCHS = 8
BUDGETS = (4, 8)
TURNS = 10  # a repeat
ALIKE = 1e-4  # of the largest logit
PRODUCTS = "dense products"

Runs = dict[str, Callable[[], Any]]
Seconds = dict[str, list[float]]


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    use_one_thread()
    taken: dict[str, Seconds] = {}
    about: dict[str, Any] = {}
    for graph in _graphs(args.events):
        networks = _networks(graph, split_of(graph, 0))
        about[graph.name] = _about(graph, networks)
        taken[graph.name] = _in_turn(_compared(graph, networks), args.repeats * TURNS, graph.name)
    return {"width": WIDTH, "threads": 1, "graphs": about, **around, **_report(taken)}


def _graphs(nodes: int | None) -> Iterator[Graph]:
    if nodes is None:
        try:
            paths = [path_of(name) for name in GRAPHS]
        except ConfigError as error:
            print(error)
        else:
            yield from map(read_graph, paths)
            return
    yield _random_graph(nodes or NODES)


def _random_graph(nodes: int) -> Graph:
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, nodes, (2, nodes * DEGREE))
    x = rng.normal(size=(nodes, CHANNELS)).astype(np.float32)
    return Graph("random", x, neighbour_mean(source, target, nodes), rng.integers(0, CLASSES, nodes), ())


def _networks(graph: Graph, split: Split) -> dict[str, Network]:
    """Return the unpruned network and those that the budgets leave of it."""
    network = fresh(graph.x.shape[1], WIDTH, np.full(graph.classes, 1 / graph.classes, np.float32), seed=0)
    try:
        network = train(network, Data(graph, split), FitOptions(EPOCHS, 0.01, EPOCHS))
    except ConfigError as error:  # no DGL: weights stay as they were drawn
        print(error)
    unpruned = Unpruned(network, graph.x, graph.mean, split.train)
    pruned = {
        f"{budget}x": refitted(unpruned, plan_by(unpruned, "lasso", "full", budget, seed=0)) for budget in BUDGETS
    }
    return {"unpruned": network} | pruned


def _about(graph: Graph, networks: dict[str, Network]) -> dict[str, Any]:
    channels = {name: [[len(b.bias) for b in one.branches] for one in net.layers] for name, net in networks.items()}
    return {"nodes": len(graph.y), "edges": graph.mean.nnz, "inputs": graph.x.shape[1], "outputs_a_branch": channels}


def _compared(graph: Graph, networks: dict[str, Network]) -> Runs:
    """Return all who compute logits; RuntimeError where a peer's are not ours."""
    try:
        edges = to_dgl(graph.mean)
    except ConfigError:
        edges = None
    runs: Runs = {}
    for name, network in networks.items():
        ours = WholeGraph(network.layers, network.weight, network.bias, graph.x, graph.mean).logits
        full = Full(network, graph.x, graph.mean)
        peers: Runs = {f"torch, {name}": full.by_torch}
        if edges is not None:
            peers[f"DGL, {name}"] = partial(full.by_dgl, edges)
        expected = ours()
        for who, logits in peers.items():
            apart = float(np.abs(logits().numpy() - expected).max() / np.abs(expected).max())
            if not apart <= ALIKE:
                raise RuntimeError(f"{who} differs from ours by {apart:g}: it computes something else")
        runs |= {f"ours, {name}": ours, **peers, f"{PRODUCTS}, {name}": partial(_multiply, _dense(network, graph.x))}
    return runs


Product = tuple[Floats, Floats]  # (N, K), (K, O)


def _dense(network: Network, x: Any) -> list[Product]:
    """Return the dense products of both layers; those of sparse features are passes over a sparse matrix."""
    layers = network.layers if isinstance(x, np.ndarray) else network.layers[1:]
    weights = [weight for layer in layers for weight in _weights(layer)]
    return [(np.ones((x.shape[0], len(weight)), np.float32), padded(weight)) for weight in weights]


def _weights(layer: Layer) -> list[Floats]:
    """Return the matrices of a layer; branches that read the same channels have one."""
    own, near = layer.branches
    if np.array_equal(own.keep, near.keep):
        return [np.concatenate([own.weight, near.weight], axis=1)]
    return [own.weight, near.weight]


def _multiply(pairs: list[Product]) -> None:
    for x, weight in pairs:
        for _ in products(x, weight):
            pass


def _in_turn(runs: Runs, turns: int, title: str) -> Seconds:
    taken: Seconds = {who: [] for who in runs}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(turns), desc=title, unit="turn", leave=False, disable=None):
        for who in rng.permutation(list(runs)).tolist():  # who comes after a wide one finds the cache full of it
            began = time.perf_counter()
            runs[who]()
            taken[who].append(time.perf_counter() - began)
    return taken


# ---- what is told ----


def _report(taken: dict[str, Seconds]) -> Report:
    names = list(next(iter(taken.values())))
    figures = {who: {"ms": {graph: _spread(seconds[who]) for graph, seconds in taken.items()}} for who in names}
    ours = {f"{budget}x": figures.pop(f"ours, {budget}x") for budget in BUDGETS}
    alone = {name: figures.pop(f"{PRODUCTS}, {name}") for name in ("unpruned", *ours)}
    ratios = {budget: {who: _ratio(taken, who, f"ours, {budget}") for who in figures} for budget in ours}
    return {"ours": ours, "peers": figures, "ratio": ratios["4x"], "ratio_of_8x": ratios["8x"], "products": alone}


def _spread(seconds: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.array(seconds) * 1e3, [25, 50, 75]).round(1).tolist()
    return {"median": middle, "low": low, "high": high}


def _ratio(taken: dict[str, Seconds], who: str, ours: str) -> float:
    """Return how many times as long `who` takes."""
    by_graph = [np.median(np.array(seconds[who]) / np.array(seconds[ours])) for seconds in taken.values()]
    return round(float(np.exp(np.mean(np.log(by_graph)))), 2)


def tables(report: Report) -> list[Table]:
    """Milliseconds by graph; the last columns are theirs over ours, pruned 4x and 8x."""
    header = ["ms, all nodes", *report["graphs"], "over ours, 4x", "over ours, 8x"]
    rows = {f"ours, {budget}": found for budget, found in report["ours"].items()} | report["peers"]
    rows |= {f"{PRODUCTS}, {name}": found for name, found in report["products"].items()}
    ratios = [report["ratio"], report["ratio_of_8x"]]
    cells = [
        [who, *(f"{one['median']:.1f}" for one in row["ms"].values()), *(_cell(ratio, who) for ratio in ratios)]
        for who, row in rows.items()
    ]
    return [Table("ms", header, cells)]


def _cell(ratio: dict[str, float], who: str) -> str:
    return f"{ratio[who]:.2f}" if who in ratio else ""
