"""Whole graphs: trained by DGL, pruned, timed; every fast way against a slow one."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from whole_graphs import community_graph

pytest.importorskip("dgl", reason="DGL 1.1.3 is not installed: it exists for Python 3.11 only")

from pipeline.channels_kept import SCHEMES
from pipeline.experiments.graphs.files import split_of
from pipeline.experiments.graphs.inference import Batched, Full, seconds_in_turn
from pipeline.experiments.graphs.network import Network, judge, logits_of, sparse_inputs
from pipeline.experiments.graphs.paper_lasso import Descent, Term, fade, plan_by_descent
from pipeline.experiments.graphs.prune import Unpruned, plan_by, refitted, selected
from pipeline.experiments.graphs.sage import Data, FitOptions, fine_tune, fresh, train
from pipeline.experiments.message_passing import mean_over_neighbours, to_dgl
from pipeline.model import Branch, Layer
from pipeline.whole_graph import WholeGraph

FIT = FitOptions(epochs=12, learning_rate=0.02, patience=12)


@pytest.fixture(scope="module")
def graph():
    return community_graph()


@pytest.fixture(scope="module")
def data(graph):
    return Data(graph, split_of(graph, 0))


@pytest.fixture(scope="module")
def network(data):
    return train(fresh(24, 16, np.full(3, 1 / 3, np.float32), 0), data, FIT)


@pytest.fixture(scope="module")
def unpruned(graph, network):
    return Unpruned(network, graph.x, graph.mean, split_of(graph, 0).train)


def dense_logits(network, x, mean):
    """The slow twin: whole matrices with zeros where nothing is kept, plain loops over nothing but nodes."""
    h = x.toarray() if sp.issparse(x) else x
    for layer in network.layers:
        outputs = []
        for branch, block in zip(layer.branches, (h, mean.toarray() @ h), strict=True):
            weight = np.zeros((h.shape[1], len(branch.bias)))
            weight[branch.keep] = branch.weight
            outputs.append(block @ weight + branch.bias)
        h = np.maximum(np.concatenate(outputs, axis=1), 0)
    return h @ network.weight + network.bias


def test_training_finds_the_communities(graph, network):
    test = split_of(graph, 0).test
    assert judge(logits_of(network, graph.x, graph.mean)[test], graph.y[test])["f1_micro"] > 0.9


def test_numpy_torch_dgl_and_the_compiled_passes_give_the_logits_of_the_dense_twin(graph, network, unpruned):
    pruned = [refitted(unpruned, plan_by(unpruned, "lasso", scheme, 4, 0)) for scheme in SCHEMES]
    for one in (network, *pruned):
        twin = dense_logits(one, graph.x, graph.mean)
        full = Full(one, graph.x, graph.mean)
        for logits in (
            logits_of(one, graph.x, graph.mean), full.by_torch().numpy(), full.by_dgl(to_dgl(graph.mean)).numpy(),
            whole_graph(one, graph.x, graph.mean).logits(),
        ):  # fmt: skip
            assert logits == pytest.approx(twin, abs=1e-3)


def whole_graph(network, x, mean):
    return WholeGraph(network.layers, network.weight, network.bias, x, mean)


def test_whole_graphs_are_computed_alike_in_either_order_by_rows_and_again(graph, network, monkeypatch):
    monkeypatch.setattr("pipeline.whole_graph.ROWS", 100)  # 360 nodes: the last rows are fewer
    rng = np.random.default_rng(0)
    keeps = [[np.arange(24), np.arange(24)], [np.arange(3), np.arange(2, 8)], [np.arange(20), np.arange(20)]]
    for own, near in keeps:  # 16 outputs: more inputs than that are multiplied first, fewer are averaged first
        first = [Branch(k.astype(np.int32), rng.normal(size=(len(k), 16)), rng.normal(size=16)) for k in (own, near)]
        one = Network((Layer(first), network.layers[1]), network.weight, network.bias)
        made = whole_graph(one, graph.x, graph.mean)
        twin = dense_logits(one, graph.x, graph.mean)
        for _ in range(2):
            assert made.logits() == pytest.approx(twin, rel=1e-4, abs=1e-4)


def test_batches_give_what_the_whole_graph_gives_with_and_without_stored_features(graph, network, unpruned):
    targets = np.array([359, 3, 200, 17])  # the first has no neighbour
    for one in (network, refitted(unpruned, plan_by(unpruned, "random", "batched", 4, 0))):
        batched, expected = Batched(one, graph.x, graph.mean), dense_logits(one, graph.x, graph.mean)[targets]
        assert batched.with_stored(targets) == pytest.approx(expected, abs=1e-3)
        assert batched.from_scratch(targets) == pytest.approx(expected, abs=1e-3)


def test_sparse_features_train_and_infer_as_dense_ones_do(graph):
    sparse = graph._replace(x=sp.csr_matrix(np.where(graph.x > 1, graph.x, 0)))
    dense = graph._replace(x=sparse.x.toarray())
    start = fresh(24, 8, np.full(3, 1 / 3, np.float32), 0)
    trained = [
        train(start, Data(one, split_of(one, 0)), replace(FIT, epochs=4, dropout=0.0)) for one in (sparse, dense)
    ]
    twins = [dense_logits(one, dense.x, dense.mean) for one in trained]
    assert twins[0] == pytest.approx(twins[1], abs=2e-2)
    for logits in (
        logits_of(trained[0], sparse.x, sparse.mean),
        whole_graph(trained[0], sparse.x, sparse.mean).logits(),
    ):
        assert logits == pytest.approx(twins[0], abs=1e-3)
    batched = Batched(trained[0], sparse.x, sparse.mean)
    assert batched.from_scratch(np.arange(20)) == pytest.approx(twins[0][:20], abs=1e-3)


def test_folding_and_unfolding_change_nothing(graph, data, network):
    before = logits_of(network, graph.x, graph.mean)
    still = fine_tune(network, data, before, FitOptions(epochs=2, learning_rate=0.0, patience=9))
    assert logits_of(still, graph.x, graph.mean) == pytest.approx(before, abs=1e-4)


def test_a_short_fine_tune_brings_a_network_closer_to_the_unpruned_one(graph, data, network, unpruned):
    teacher = logits_of(network, graph.x, graph.mean)
    cut = selected(unpruned, plan_by(unpruned, "random", "full", 4, 0))
    tuned = fine_tune(cut, data, teacher, FitOptions(epochs=10, learning_rate=0.005, patience=10, dropout=0.0))
    before, after = (np.abs(logits_of(one, graph.x, graph.mean) - teacher).mean() for one in (cut, tuned))
    assert after < before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_cut_computes_what_the_unpruned_one_would_with_zeros_in_its_place(graph, network, unpruned, scheme):
    plan = plan_by(unpruned, "lasso", scheme, 4, 0)
    small = selected(unpruned, plan)
    first, second = (
        Layer([zeroed(b, keep) for b, keep in zip(layer.branches, keeps, strict=True)])
        for layer, keeps in zip(network.layers, (plan.first, plan.second), strict=True)
    )
    weight = np.zeros_like(network.weight)
    last = np.concatenate([kept + 16 * b for b, kept in enumerate(plan.outputs)])
    weight[last] = network.weight[last]
    twin = Network((first, second), weight, network.bias)
    assert logits_of(small, graph.x, graph.mean) == pytest.approx(dense_logits(twin, graph.x, graph.mean), abs=1e-4)


def zeroed(branch, keep):
    weight = np.zeros_like(branch.weight)
    weight[keep] = branch.weight[keep]
    return Branch(branch.keep, weight, branch.bias)


@pytest.mark.parametrize("budget", [2, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_budget_is_kept_and_nothing_unread_is_computed(network, unpruned, budget, scheme):
    small = refitted(unpruned, plan_by(unpruned, "lasso", scheme, budget, 0))
    assert 0.6 * network.multiply_adds() / budget <= small.multiply_adds() <= network.multiply_adds() / budget
    read = np.unique(np.concatenate([b.keep for b in small.layers[1].branches if len(b.bias)]))
    assert small.layers[0].width == len(read)
    assert small.layers[1].width == len(small.weight)
    assert small.parameters < network.parameters / budget * 1.5


def test_sparse_inputs_all_stay_and_are_charged_for_their_non_zeros(graph):
    x = sp.csr_matrix(np.where(graph.x > 1, graph.x, 0))
    network = fresh(24, 16, np.full(3, 1 / 3, np.float32), 0)
    unpruned = Unpruned(network, x, graph.mean, split_of(graph, 0).train)
    small = refitted(unpruned, plan_by(unpruned, "lasso", "full", 4, 0))
    assert all(len(branch.keep) == 24 for branch in small.layers[0].branches if len(branch.bias))
    non_zeros = sparse_inputs(x)
    assert non_zeros == x.nnz / 360
    assert small.multiply_adds(non_zeros) <= network.multiply_adds(non_zeros) / 4


def test_the_lasso_with_refit_stays_closest_to_the_unpruned_network(graph, network, unpruned):
    whole = logits_of(network, graph.x, graph.mean)

    def error(method, seed=0, make=refitted):
        small = make(unpruned, plan_by(unpruned, method, "full", 4, seed))
        return ((logits_of(small, graph.x, graph.mean) - whole) ** 2).mean()

    assert error("lasso") < np.mean([error("random", seed) for seed in range(3)])
    assert error("lasso") < min(error("first"), error("magnitude"), error("lasso", make=selected))


def test_the_papers_descent_drops_channels_that_say_nothing_and_keeps_the_budget(network, unpruned):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2000, 12)).astype(np.float32), np.full((12, 4), 0.01, np.float32)
    weight[[3, 8, 11]] = rng.normal(size=(3, 4)) + 2
    assert set(fade([Term(x, weight)])[:3].tolist()) == {3, 8, 11}
    plan = plan_by_descent(unpruned, "batched", 4, 0)
    assert refitted(unpruned, plan, Descent()).multiply_adds() <= network.multiply_adds() / 4


def test_figures_are_those_of_their_definitions():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    figures = judge(logits, np.array([0, 0, 1, 0]))
    assert figures["f1_micro"] == 0.75
    assert figures["f1_macro"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)
    assert figures["auroc"] == figures["ap"] == 1.0
    assert set(judge(np.eye(3), np.arange(3))) == {"f1_micro", "f1_macro"}


def test_times_are_medians_of_runs_in_turn():
    order = []
    seconds = seconds_in_turn([lambda: order.append("a"), lambda: order.append("b")], repeats=3)
    assert order == ["a", "b"] * 4
    assert all(0 <= value < 0.1 for value in seconds)


def test_a_mean_of_no_channel_or_of_every_second_one_is_computed_too(graph, data):
    h = torch.randn(360, 6)
    assert mean_over_neighbours(data.edges, h[:, :0]).shape == (360, 0)
    expected = graph.mean @ h.numpy()[:, ::2]
    assert mean_over_neighbours(data.edges, h[:, ::2]).numpy() == pytest.approx(expected, abs=1e-5)


def test_a_branch_of_sparse_inputs_may_lose_all_its_outputs(graph):
    sparse = graph._replace(x=sp.csr_matrix(np.where(graph.x > 1, graph.x, 0)))
    network = fresh(24, 4, np.full(3, 1 / 3, np.float32), 0)
    own, near = network.layers[0].branches
    none = Branch(near.keep[:0], near.weight[:0, :0], near.bias[:0])
    second = [Branch(b.keep[:4], b.weight[:4], b.bias) for b in network.layers[1].branches]
    lame = Network((Layer([own, none]), Layer(second)), network.weight, network.bias)
    tuned = fine_tune(lame, Data(sparse, split_of(sparse, 0)), dense_logits(lame, sparse.x, sparse.mean), FIT)
    assert tuned.layers[0].width == 4
    expected = dense_logits(tuned, sparse.x, sparse.mean)
    assert whole_graph(tuned, sparse.x, sparse.mean).logits() == pytest.approx(expected, abs=1e-3)
