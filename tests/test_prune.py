"""Pruning: what is kept, what it costs, and that dropped channels are never computed."""

import numpy as np
import pytest
from test_checkpoint import SCHEMA, made_up_reviews, records

from pipeline.channels_kept import METHODS, RIDGE, SCHEMES, Moments, Product, lasso_order
from pipeline.errors import ConfigError
from pipeline.fit import FitOptions
from pipeline.model import Model
from pipeline.prune import PruneOptions, prune
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from pipeline.train import TrainOptions, train


@pytest.fixture(scope="module")
def log() -> list:
    return records(made_up_reviews())


@pytest.fixture(scope="module")
def model(log) -> Model:
    return train(load_schema(SCHEMA), log, TrainOptions(hidden=8, fit=FitOptions(epochs=5, batch_size=128)))[0]


def product(x: np.ndarray, weight: np.ndarray) -> Product:
    x = x - x.mean(axis=0)
    return Product(x.T @ x, weight)


def test_the_lasso_takes_up_the_channels_that_matter_first():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(500, 12)), np.full((12, 4), 0.01)
    weight[[3, 8, 11]] = rng.normal(size=(3, 4)) + 2
    assert set(lasso_order([product(x, weight)])[:3].tolist()) == {3, 8, 11}


def test_the_lasso_sees_that_a_channel_is_redundant_where_magnitude_does_not():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 3))
    x[:, 1] = x[:, 0] + 1e-3 * rng.normal(size=500)  # the same once more
    weight = np.array([[1.0], [1.0], [0.5]])
    assert set(lasso_order([product(x, weight)])[:2].tolist()) in ({0, 2}, {1, 2})


def test_products_that_share_their_channels_are_ranked_together():
    rng = np.random.default_rng(2)
    x, first, second = rng.normal(size=(500, 4)), np.zeros((4, 2)), np.zeros((4, 2))
    first[0], second[2] = 3.0, 5.0
    assert lasso_order([product(x, first), product(x, second)])[:2].tolist() == [2, 0]


def test_a_channel_that_never_varies_comes_last():
    x = np.random.default_rng(3).normal(size=(300, 3))
    x[:, 0] = 7.0
    assert lasso_order([product(x, np.ones((3, 2)))])[-1] == 0


def test_a_path_cut_short_begins_as_the_whole_one_and_forgets_no_channel():
    rng = np.random.default_rng(4)
    one = product(rng.normal(size=(500, 20)), rng.normal(size=(20, 3)))
    whole, short = lasso_order([one]), lasso_order([one], longest=6)
    assert short[:6].tolist() == whole[:6].tolist()
    assert sorted(short) == list(range(20))


def test_least_squares_of_samples_in_pieces_are_those_of_all_at_once():
    rng = np.random.default_rng(5)
    x = (100 + rng.normal(size=(300, 6))).astype(np.float32)
    y = (x @ rng.normal(size=(6, 2)) + rng.normal(size=(300, 2))).astype(np.float32)
    moments = Moments(6, 2)
    for piece in (slice(0, 7), slice(7, 250), slice(250, 300)):
        moments.add(x[piece], y[piece])
    np.testing.assert_allclose(moments.mean, np.hstack([x, y]).mean(axis=0, dtype=np.float64), rtol=1e-9)
    centred = x - x.mean(axis=0, dtype=np.float64)
    square = centred.T @ centred
    np.testing.assert_allclose(moments.gram, square, rtol=1e-9)
    penalty = RIDGE * np.trace(square) / 6 * np.eye(6)
    weight, bias = moments.ridge()
    y_mean = y.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(weight, np.linalg.solve(square + penalty, centred.T @ (y - y_mean)), rtol=1e-7)
    np.testing.assert_allclose(x.mean(axis=0, dtype=np.float64) @ weight + bias, y_mean, rtol=1e-9)


@pytest.mark.parametrize("budget", [2, 4, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_budget_is_kept_and_used(model, log, budget, scheme):
    pruned, report = prune(model, log, PruneOptions(budget=budget, scheme=scheme, fit=FitOptions(epochs=1)))
    share = pruned.multiply_adds / model.multiply_adds
    assert share <= 1 / budget
    assert share >= 0.6 / budget  # and not far below it: channels are few here
    assert report["multiply_adds"] == pruned.multiply_adds


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_model_that_serves(model, log, method):
    from pipeline.decoder import Decoder

    pruned, report = prune(model, log, PruneOptions(budget=4, method=method, fit=FitOptions(epochs=1)))
    scored = Scorer(pruned).score(Decoder(pruned.schema).decode(log)[0])
    assert np.isfinite(scored.score).all()
    assert {"before", "refitted", "auroc", "ap"} <= report.keys()
    assert pruned.report["pruning"]["method"] == method


def test_dropped_hidden_channels_are_neither_computed_nor_stored(model, log):
    pruned, _ = prune(model, log, PruneOptions(budget=8, fit=FitOptions(epochs=1)))
    read = np.unique(np.concatenate([branch.keep for branch in pruned.layers[1].branches if len(branch.bias)]))
    assert pruned.layers[0].width == len(read)  # every hidden channel that is computed is read by layer 2
    assert pruned.layers[0].width < model.layers[0].width
    scorer = Scorer(pruned)
    assert scorer.hidden.values.rows.shape[1] == scorer.hidden.values.sums.shape[1] == len(read)
    assert scorer.inputs.values.rows.shape[1] == len(pruned.input_keep) < len(model.input_keep)
    assert len(pruned.weight) == pruned.layers[1].width < model.layers[1].width


def test_scheme_batched_keeps_more_for_self_than_for_the_relations(model, log):
    pruned, _ = prune(model, log, PruneOptions(budget=4, fit=FitOptions(epochs=1)))
    for layer in pruned.layers:
        own, *relations = (len(branch.keep) for branch in layer.branches)
        assert own > max(relations)


def test_scheme_full_shares_one_choice_among_all_branches(model, log):
    pruned, _ = prune(model, log, PruneOptions(budget=4, scheme="full", fit=FitOptions(epochs=1)))
    for layer in pruned.layers:
        kept = {tuple(branch.keep.tolist()) for branch in layer.branches if len(branch.bias)}
        assert len(kept) == 1


def test_a_budget_below_one_or_beyond_reach_is_refused(model, log):
    with pytest.raises(ConfigError, match=r"budget 0.5: expected at least 1"):
        prune(model, log, PruneOptions(budget=0.5))
    with pytest.raises(ConfigError, match=r"budget 1e\+06: this model can be pruned \d+x at most"):
        prune(model, log, PruneOptions(budget=1e6))


def test_a_pruned_model_is_not_pruned_again(model, log):
    pruned, _ = prune(model, log, PruneOptions(budget=2, fit=FitOptions(epochs=1)))
    with pytest.raises(ConfigError, match="pruned already"):
        prune(pruned, log, PruneOptions(budget=2))
