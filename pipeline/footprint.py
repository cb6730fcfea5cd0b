"""What a shard will weigh: the bytes of a row, a link and a list, from the schema and the model's widths.

    row    what the graph keeps of a node, its id, its input channels and its hidden features
    link   "this node stands in that list"
    list   its counters and key, and two running sums: of input channels and of hidden features

N nodes with S links each and L lists weigh N * (row + S * link) + L * list at least; room that is not used yet weighs
nothing. While a snapshot is written, what changes meanwhile is there twice: at most everything.

A test holds this to what a scorer's arrays weigh; docs/deploy.md has what a process of a million nodes weighed.
"""

import math
from typing import NamedTuple

from pipeline.graph_state import EDGE_LINK, JUDGED, LINK, LIST, ROW
from pipeline.model import Model
from pipeline.names import NAME_BYTES

TWICE = 2
INDEX_BYTES = 4  # of a row or a list
PROCESS_BYTES = 200_000_000  # a consumer without a node: Python, LLVM, a Kafka client


class Footprint(NamedTuple):
    """Bytes of each thing that a shard keeps. Names are an estimate, the rest is exact."""

    row: int  # in the graph, without its id
    values: int  # a row's input channels and hidden features
    link: int
    list: int  # in the graph, without its key
    sums: int  # a list's running sums
    links_a_node: int  # of the group relations; each edge adds two

    def least(self, nodes: int, lists: int) -> int:
        """Return the bytes of a shard while no snapshot is written."""
        names = NAME_BYTES * (nodes + lists)
        return self._arrays(nodes, nodes * self.links_a_node, lists) + names

    def most(self, nodes: int, lists: int) -> int:
        """Return the bytes of a shard all of which has changed since its snapshot began."""
        return TWICE * self.least(nodes, lists)

    def each(self) -> dict[str, int]:
        """Return the bytes that one more of each thing needs, its name with it."""
        return {
            "bytes_a_node": self.row + self.values + self.links_a_node * self.link + NAME_BYTES,
            "bytes_an_edge": 2 * self.link,
            "bytes_a_list": self.list + self.sums + NAME_BYTES,
        }

    def report(self, nodes: int, lists: int) -> dict[str, int]:
        """Return what a consumer of one such shard needs, in megabytes, its process with it."""
        sizes = {"least_mb": self.least(nodes, lists), "most_mb": self.most(nodes, lists)}
        megabytes = {name: math.ceil((PROCESS_BYTES + size) / 1e6) for name, size in sizes.items()}
        return {"nodes": nodes, "lists": lists, **megabytes}

    def _arrays(self, rows: int, links: int, lists: int) -> int:
        return (self.row + self.values) * rows + self.link * links + (self.list + self.sums) * lists


def footprint(model: Model) -> Footprint:
    """Return what a node, a link and a list of this model weigh."""
    schema = model.schema
    inputs, hidden = len(model.input_keep), model.layers[0].width
    counters = len(schema.arrival_half_lives) + 2 * len(schema.label_half_lives)
    return Footprint(
        row=ROW.itemsize + INDEX_BYTES * len(schema.relations) + 4 * len(schema.deviating) + 2 * INDEX_BYTES,
        values=4 * (inputs + hidden),
        link=LINK.itemsize + EDGE_LINK.itemsize * schema.has_edges,
        list=LIST.itemsize + JUDGED.itemsize + 8 * len(schema.deviating) + 4 * counters + 2 * INDEX_BYTES,
        sums=8 * (inputs + hidden),
        links_a_node=len(schema.groups),
    )
