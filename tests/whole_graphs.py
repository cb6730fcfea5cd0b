"""Small whole graphs for tests: communities whose members share a class, and features of which few say anything."""

import numpy as np

from pipeline.experiments.graphs.files import Graph, neighbour_mean

CLASSES = 3


def community_arrays(nodes=360, channels=24, seed=0, classes=CLASSES):
    """The arrays of a .npz of the form `x, edge_index, y`; the last two nodes have no edge."""
    rng = np.random.default_rng(seed)
    y = np.arange(nodes) % classes
    x = rng.normal(size=(nodes, channels))
    x[:, :classes] += 1.5 * np.eye(classes)[y]
    pairs = rng.integers(0, nodes - 2, (2, 12 * nodes))
    alike = (y[pairs[0]] == y[pairs[1]]) | (rng.random(pairs.shape[1]) < 0.2)
    return {"x": x.astype(np.float32), "edge_index": pairs[:, alike].astype(np.int32), "y": y.astype(np.int8)}


def community_graph(seed=0, classes=CLASSES):
    arrays = community_arrays(seed=seed, classes=classes)
    mean = neighbour_mean(*arrays["edge_index"].astype(np.int64), len(arrays["y"]))
    return Graph("made", arrays["x"], mean, arrays["y"].astype(np.int64), ())
