"""Whole graphs from .npz files: three forms, one graph; what is wrong is named."""

import numpy as np
import pytest
import scipy.sparse as sp
from whole_graphs import community_arrays

from pipeline.errors import DataError
from pipeline.experiments.graphs.files import neighbour_mean, read_graph, split_of


def written(folder, arrays, name="graph.npz"):
    np.savez(folder / name, **arrays)
    return folder / name


def test_the_three_forms_of_a_file_give_the_same_graph(tmp_path):
    arrays = community_arrays()
    x, (source, target), y = np.where(arrays["x"] > 1, 1, 0), arrays["edge_index"], arrays["y"]
    edges = sp.csr_matrix((np.ones(len(source)), (source, target)), shape=(len(y), len(y)))
    features = sp.csr_matrix(x)
    forms = [
        {"x": x, "edge_index": arrays["edge_index"], "y": y},
        {"node_features": x, "edges": arrays["edge_index"].T, "node_labels": y},
        {
            "indptr": edges.indptr, "indices": edges.indices, "y": y, "x_shape": x.shape,
            "x_indptr": features.indptr, "x_indices": features.indices,
        },
    ]  # fmt: skip
    one, two, three = (read_graph(written(tmp_path, form, f"{i}.npz")) for i, form in enumerate(forms))
    assert (one.mean != two.mean).nnz == (one.mean != three.mean).nnz == 0
    assert one.y.tolist() == two.y.tolist() == three.y.tolist()
    assert np.array_equal(one.x, two.x)
    assert np.array_equal(three.x, x)  # binary features stay as they are, the others are standardised
    assert one.x.std(axis=0) == pytest.approx(1, abs=1e-5)


def test_every_edge_counts_once_in_both_directions_and_self_loops_do_not():
    mean = neighbour_mean(np.array([0, 0, 1, 2, 3]), np.array([1, 1, 0, 0, 3]), 5)
    assert mean.toarray().tolist() == [[0, 0.5, 0.5, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0] * 5, [0] * 5]


def test_features_that_are_mostly_zero_stay_sparse(tmp_path):
    arrays = community_arrays(channels=200)
    few = sp.csr_matrix(np.where(arrays["x"] > 2.5, arrays["x"], 0))
    form = {"x_indptr": few.indptr, "x_indices": few.indices, "x_data": few.data, "x_shape": few.shape}
    graph = read_graph(written(tmp_path, form | {"edge_index": arrays["edge_index"], "y": arrays["y"]}))
    assert np.array_equal(graph.x.toarray(), few.toarray())


def test_a_split_is_60_20_20_of_every_class_and_its_seeds_own(tmp_path):
    graph = read_graph(written(tmp_path, community_arrays()))
    split = split_of(graph, 0)
    assert sorted(np.concatenate(split)) == list(range(360))
    for part, share in zip(split, (0.6, 0.2, 0.2), strict=True):
        assert np.bincount(graph.y[part]).tolist() == [round(120 * share)] * 3
    assert np.array_equal(split.test, split_of(graph, 0).test)
    assert not np.array_equal(split.test, split_of(graph, 1).test)


def test_splits_inside_the_file_are_used_one_after_the_other(tmp_path):
    arrays = community_arrays()
    order = np.stack([np.random.default_rng(s).permutation(360) for s in range(2)])
    masks = {f"{name}_masks": (order // 120 == i) for i, name in enumerate(("train", "val", "test"))}
    graph = read_graph(written(tmp_path, arrays | masks))
    assert np.array_equal(split_of(graph, 1).validation, np.flatnonzero(masks["val_masks"][1]))
    assert np.array_equal(split_of(graph, 2).train, split_of(graph, 0).train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "no array y or node_labels; it has x, edge_index"),
        ({"y": np.zeros(360, np.int8)}, "one class only"),
        ({"y": np.zeros(7, np.int8)}, r"labels int8 of shape \(7,\), expected one whole number for each of 360"),
        ({"edge_index": np.array([[0], [360]])}, "an edge leads outside the 360 nodes"),
        ({"edge_index": np.zeros((3, 9), int)}, r"edges of shape \(3, 9\)"),
        ({"x": np.full((360, 2), np.nan)}, "features that are not finite"),
        ({"train_mask": np.ones(360, bool)}, "no array val_mask"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, change, message):
    arrays = {name: value for name, value in (community_arrays() | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        read_graph(written(tmp_path, arrays))


def test_a_file_with_objects_or_of_another_kind_is_refused(tmp_path):
    objects = written(tmp_path, {"x": np.array([{}], dtype=object)})
    (tmp_path / "text.npz").write_text("no array")
    for path in (objects, tmp_path / "text.npz", tmp_path / "absent.npz"):
        with pytest.raises(DataError, match=r"expected a NumPy .npz file without objects"):
            read_graph(path)


def test_the_real_graphs_are_what_their_description_says(data_dir):
    said = {"amazon_cs": (13_752, 767, 10), "tolokers": (11_758, 10, 2), "reddit_banned": (10_984, 64, 2)}
    for name, (nodes, channels, classes) in said.items():
        graph = read_graph(data_dir / "graphs" / f"{name}.npz")
        assert (*graph.x.shape, graph.classes) == (nodes, channels, classes)
    assert len(read_graph(data_dir / "graphs" / "tolokers.npz").splits) == 10
