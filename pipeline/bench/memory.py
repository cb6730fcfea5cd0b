"""`graphsieve bench memory`: bytes a node and bytes a list, ids and links included, as the system tells them.

Reviews of the synthetic stream's schema, all different, fall on so many lists as are asked for: few or many nodes, few
or many lists, each combination in a process of its own whose memory is read from outside. What it took before is
subtracted, and least squares split the rest into so much a node, so much a list, and what a process takes besides:
room for a micro-batch, the ends of huge pages. Room that is not used takes none, but for the slots of names, which
double: at these sizes about half are taken.

    predicted   what `graphsieve inspect` says, footprint.py, from the widths of the arrays
    networkx    the same events as a graph of reviews and groups, an edge for each membership, and at every review an
                array of the channels that we keep, float32; nothing at the groups, where we have sums and counters

A quarter of the sizes for networkx, whose bytes a node do not depend on them.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pipeline.bench.models import WIDTHS, some_model, synthetic_schema
from pipeline.bench.soak import BATCH
from pipeline.bench.surroundings import Report, surroundings
from pipeline.bench.watched import Tell, Work, steps_of
from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.experiments.recordings import as_records
from pipeline.footprint import footprint
from pipeline.model import Model
from pipeline.page import Table
from pipeline.scorer import Scorer
from producers.synthetic import Node

NODES = 500_000  # the most
LEAST = 20_000
NODE_SHARES, LIST_SHARES = (0.25, 0.5, 1.0), (0.0, 0.5, 1.0)  # of the most nodes
PRODUCTS = 10  # seven lists each: product, with five kinds of stars, fading
PEER_SHARE = 4
ROW = WIDTHS["inputs"] + WIDTHS["hidden"]  # channels that are kept of a node


class Size(NamedTuple):
    nodes: int
    lists: int


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    most = args.events or NODES
    if most < LEAST:
        raise ConfigError(f"--events {most}: the bench needs at least {LEAST:,} nodes")
    inputs, hidden, outputs = WIDTHS.values()
    model = some_model(synthetic_schema(lasting=True), outputs, inputs, hidden)
    predicted = footprint(model).each()
    peers = {
        "predicted": {name: predicted[name] for name in ("bytes_a_node", "bytes_a_list")},
        "networkx": _measured(most // PEER_SHARE, _fill_networkx),
    }
    ours = _measured(most, _fill, model)
    ratio = {who: round(_of_both(one) / _of_both(ours), 2) for who, one in peers.items()}
    return {"repeats": 1, "widths": WIDTHS, **around, "ours": ours, "peers": peers, "ratio": ratio}


def _measured(most: int, work: Work, *given: Any) -> dict[str, Any]:
    """Return bytes a node and a list, by how much they miss what they were fitted on at most, and that."""
    sizes, grown = [], []
    for nodes in (int(most * share) for share in NODE_SHARES):
        for lists in (int(most * share) for share in LIST_SHARES):
            if lists <= 2 * nodes:  # or not every one would be met
                (_, before), (size, after) = steps_of(work, *given, nodes, lists)
                sizes.append(Size(**size))
                grown.append(after - before)
    return _split(sizes, grown)


def _split(sizes: list[Size], grown: list[float]) -> dict[str, Any]:
    terms = [(size.nodes, size.lists, 1) for size in sizes]
    a_node, a_list, besides = np.linalg.lstsq(np.array(terms, np.float64), np.array(grown), rcond=None)[0].tolist()
    fitted = [a_node * size.nodes + a_list * size.lists + besides for size in sizes]
    return {
        "bytes_a_node": round(a_node),
        "bytes_a_list": round(a_list),
        "bytes_besides": round(besides),  # whatever it holds: room for a micro-batch, ends of huge pages
        "largest_miss": round(max(abs(f / g - 1) for f, g in zip(fitted, grown, strict=True)), 3),
        "sizes": [size._asdict() | {"bytes": round(g)} for size, g in zip(sizes, grown, strict=True)],
    }


def _of_both(figures: dict[str, Any]) -> int:
    both: int = figures["bytes_a_node"] + figures["bytes_a_list"]
    return both


def tables(report: Report) -> list[Table]:
    rows = {"ours": report["ours"], **report["peers"]}
    names = ("bytes_a_node", "bytes_a_list", "bytes_besides")
    cells = [[who, *(f"{one[name]:,}" if name in one else "" for name in names)] for who, one in rows.items()]
    return [Table("bytes", ["bytes", "a node", "a list", "besides"], cells)]


# ---- the processes ----


def _reviews(nodes: int, lists: int) -> Iterator[list[Node]]:
    """Yield batches of reviews by so many users that they and their devices make so many lists."""
    users = max(1, lists // 2)
    embeddings = np.random.default_rng(0).normal(size=(997, 8)).round(3).tolist()
    for start in range(0, nodes, BATCH):
        yield [
            Node(
                f"n{i}", 1.6e9 + i, f"u{i % users}", f"p{i % PRODUCTS}", 1 + i // PRODUCTS % 5, 100 + i % 400,
                embeddings[i % len(embeddings)], f"d{i % users}",
            )
            for i in range(start, min(start + BATCH, nodes))
        ]  # fmt: skip


def _fill(tell: Tell, model: Model, nodes: int, lists: int) -> None:
    decoder, encode = Decoder(model.schema), msgspec.json.Encoder().encode

    def into(scorer: Scorer, count: int) -> None:
        for reviews in _reviews(count, lists):
            events, _ = decoder.decode(as_records(map(encode, reviews)))
            scorer.score(events)

    into(Scorer(model), BATCH + 1)  # what the first batches load stays: one of many events, one of few
    scorer = Scorer(model)
    tell({})
    into(scorer, nodes)
    tell(Size(scorer.graph.row_count, scorer.graph.list_count)._asdict())


def _fill_networkx(tell: Tell, nodes: int, lists: int) -> None:
    import networkx

    graph = networkx.Graph()
    tell({})
    for reviews in _reviews(nodes, lists):
        for one in reviews:
            graph.add_node(one.id, values=np.ones(ROW, np.float32))
            groups = ("user", one.user), ("product", one.product), ("product_stars", one.product, one.stars)
            fading, device = ("product_now", one.product), ("device", one.device)
            graph.add_edges_from((one.id, group) for group in (*groups, fading, device))
    tell(Size(nodes, graph.number_of_nodes() - nodes)._asdict())
