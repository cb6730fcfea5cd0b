"""Baselines read what our model reads and learn from nothing else; the explicit graph is the lists, edge by edge."""

from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from worlds import event_sequences, records, world

from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.evaluate import auroc
from pipeline.experiments.baselines import family, methods, mlp, ours, sage, trees
from pipeline.experiments.baselines.information import Information, best_by_validation, distinct_relations, inform
from pipeline.experiments.baselines.past_graph import past_edges
from pipeline.experiments.evaluate import load_settings
from pipeline.experiments.page import Results
from pipeline.experiments.recordings import REPOSITORY, Recording, as_records, open_recording
from pipeline.experiments.summary import Row, Spread
from pipeline.fit import FitOptions
from pipeline.history import History
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from pipeline.train import TrainOptions, train_on
from producers.synthetic import synthetic_events

SHARES = (0.6, 0.1, 0.3)
QUICK = TrainOptions(hidden=8, fit=FitOptions(epochs=4))
SMALL = {"width": 8.0, "dropout": 0.2, "weight_decay": 0.1}
FEW_ROUNDS = {"leaves": 7.0, "learning_rate": 0.5, "l2": 1.0, "columns": 1.0}


@cache
def recording() -> Recording:
    schema = load_schema(REPOSITORY / "deploy/schemas/synthetic.toml")
    return Recording("synthetic", schema, as_records(synthetic_events(0, 10_000)))


@cache
def information() -> Information:
    return inform(recording(), SHARES, "quantile")


def mean_over(edges, values: np.ndarray) -> np.ndarray:
    """The slow twin of a list's mean: edge by edge, 0 without any."""
    total, count = np.zeros(values.shape), np.zeros(len(values))
    np.add.at(total, edges.target, values[edges.source])
    np.add.at(count, edges.target, 1)
    return total / np.maximum(count, 1)[:, None]


# ---- what may be read ----


@settings(max_examples=40)
@given(event_sequences())
def test_the_explicit_graph_holds_the_members_of_every_list_after_every_kind_of_event(events):
    schema = world()
    assume(any("stars" in event for event in events))
    history = History(schema, records(events))
    values = np.random.default_rng(0).normal(size=(history.entries, 2)).astype(np.float32)
    means, edges = history.means_of(values), past_edges(history, most=1000)
    for relation, found in zip(distinct_relations(schema), edges, strict=True):
        assert (found.source < found.target).all()
        assert (np.diff(found.target) >= 0).all()
        if np.isinf(schema.half_lives[relation]):
            np.testing.assert_allclose(mean_over(found, values), means[:, relation], atol=1e-5)


def test_the_most_recent_members_are_kept_where_a_list_has_more():
    history = information().history
    few, all_of_them = past_edges(history, most=3), past_edges(history, most=10**9)
    for capped, whole in zip(few, all_of_them, strict=True):
        for reader in np.unique(whole.target)[-200:]:
            everyone = whole.source[whole.target == reader]
            assert capped.source[capped.target == reader].tolist() == everyone[-3:].tolist()


def test_edges_before_an_entry_are_those_among_the_entries_before_it():
    for edges in past_edges(information().history, most=5):
        before = edges.before(1000)
        assert (before.target < 1000).all()
        assert len(before.source) == len(before.target) == (edges.target < 1000).sum()


def test_columns_are_the_raw_channels_and_the_means_that_layer_1_and_layer_2_could_know():
    info, schema = information(), recording().schema
    channels, relations = len(schema.channel_names), len(schema.relations)
    rows = info.history.sample_entry
    np.testing.assert_array_equal(info.of_channels("own"), info.x[rows][:, : len(schema.own_channels)])
    np.testing.assert_array_equal(info.of_channels("all"), info.x[rows])
    one = info.of_channels("one step")
    np.testing.assert_array_equal(one[:, channels:], info.means[rows].reshape(len(rows), -1))
    two = info.of_channels("two steps")
    np.testing.assert_array_equal(two[:, : one.shape[1]], one)
    # The mean, over the user's reviews, of what their products' reviews were on average: channel 0 of the last block.
    by_user, by_product = 0, schema.relation_names.index("product")
    edges = past_edges(info.history, most=10**9)[distinct_relations(schema).index(by_user)]
    expected = mean_over(edges, info.means[:, by_product])[rows]
    wanted = len(distinct_relations(schema)) ** 2
    plain = (two.shape[1] - one.shape[1]) // wanted
    place = one.shape[1] + distinct_relations(schema).index(by_product) * plain
    np.testing.assert_allclose(two[:, place], expected[:, 0], atol=1e-5)
    assert relations > len(distinct_relations(schema))  # product_now has the members of product


def test_label_columns_are_what_the_event_says_and_what_moderators_said():
    names = recording().schema.channel_names
    found = [names[c] for c in ours.label_columns(information())]
    assert "stars=5" in found
    assert "user.spam_share" in found
    assert "device.labelled" in found
    assert not [
        name for name in found if "count" in name or "since" in name or "arrivals" in name or "dev" in name[-9:]
    ]


# ---- what may be learned from ----


METHODS = {
    "trees": lambda info: trees.fit_trees(info, info.of_channels("one step"), FEW_ROUNDS, seed=0),
    "logistic": lambda info: trees.fit_logistic(info, info.of_channels("all")),
    "mlp": lambda info: mlp.fit_mlp(
        info, info.of_channels("all"), {"width": 8.0, "dropout": 0.2, "weight_decay": 0.1}, 0
    ),
    "sage": lambda info: sage.fit_sage(info, len(recording().schema.channel_names), 4, seed=0),
    "one layer": lambda info: ours.fit_one_layer(info, QUICK, seed=0),
    "without graph": lambda info: ours.fit_without_graph(info, QUICK, seed=0),
}


@cache
def scores(method: str) -> np.ndarray:
    return METHODS[method](information())


def with_truth(info: Information, truth: np.ndarray) -> Information:
    history = History.__new__(History)
    history.__dict__ |= info.history.__dict__ | {"truth": truth}
    return info._replace(history=history)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_tells_spam_from_the_rest(method):
    info = information()
    test = info.truth[info.split.test]
    assert scores(method).shape == info.truth[info.later].shape
    assert ((scores(method) >= 0) & (scores(method) <= 1)).all()
    assert auroc(test, scores(method)[-len(test) :]) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_no_method_learns_from_the_truth_of_the_test_part(method):
    info = information()
    lies = info.truth.copy()
    lies[info.split.test] = 1 - lies[info.split.test]
    np.testing.assert_array_equal(METHODS[method](with_truth(info, lies)), scores(method))


@pytest.mark.parametrize("method", METHODS)
def test_no_score_depends_on_the_inputs_of_later_nodes(method):
    info = information()
    last = len(info.truth) - 100
    entry = int(info.history.sample_entry[last])
    changed = info._replace(x=info.x.copy(), means=info.means.copy())
    changed.x[entry:] = 1.0
    changed.means[entry:] = 1.0
    found = METHODS[method](changed)
    np.testing.assert_allclose(found[:-100], scores(method)[:-100], atol=1e-6)
    assert not np.allclose(found[-100:], scores(method)[-100:])


def test_settings_are_chosen_one_after_the_other_by_validation():
    grid = {"a": (1.0, 2.0, 3.0), "b": (1.0, 0.0)}
    assert best_by_validation(grid, lambda o: -((o["a"] - 2.0) ** 2) - o["b"]) == {"a": 2.0, "b": 0.0}
    assert best_by_validation(grid, lambda _: 0.5) == {"a": 1.0, "b": 1.0}


# ---- our model ----


def test_our_scores_are_those_that_serving_gives():
    info = information()
    model, _, _ = train_on(info.history, info.split, ours.seeded(QUICK, 3))
    events, _ = Decoder(recording().schema).decode(recording().records)
    served = np.full(info.history.entries, np.nan)
    served[info.history.target] = Scorer(model).score(events).score
    wanted = served[info.history.sample_entry[info.later]]
    np.testing.assert_allclose(ours.fit_ours(info, QUICK, seed=3), wanted, atol=1e-5)


# ---- the family ----


def test_the_experiment_of_the_repository_is_sound():
    path = REPOSITORY / "experiments/baselines.toml"
    found, settings = load_settings(path)
    assert found is family
    whole = family.jobs(settings)
    assert len({str(job.about) for job in whole}) == len(whole)
    assert {job.about["data"] for job in whole} == {"yelpchi", "yelpnyc", "network"}
    assert len(family.jobs(load_settings(path, quick=True)[1])) < 6


def test_an_unknown_method_is_refused_with_those_there_are():
    run = family.Run("network", 1, ["forest"])
    with pytest.raises(ConfigError, match="method 'forest': expected one of logistic regression, trees: own"):
        family.jobs(family.Settings([run]))


def test_a_job_on_the_network_tells_nodes_that_training_has_not_seen(data_dir):
    job = family.jobs(family.Settings([family.Run("network", 1, ["ours: labels without graph"])]))[0]
    (record,) = job.run()
    assert record.key == {"data": "network", "method": "ours: labels without graph", "delay": "30d", "seed": 0}
    assert 0.6 < record.figures["auroc"] < 1.0
    assert record.figures["auroc_unseen"] != record.figures["auroc"]


def test_without_labels_the_samples_are_the_same_and_the_label_channels_say_nothing(data_dir):
    seen, silent = (inform(open_recording("network", delay, 0), SHARES, "quantile") for delay in ("30d", methods.NEVER))
    np.testing.assert_array_equal(silent.history.sample_entry, seen.history.sample_entry)
    np.testing.assert_array_equal(silent.truth, seen.truth)
    columns = ours.label_columns(seen)[len(seen.recording.schema.own_channels) :]
    assert (silent.x[:, columns].std(axis=0) == 0).all()
    assert (seen.x[:, columns].std(axis=0) > 0).all()


def test_tables_and_plots_are_made_from_the_results_alone(tmp_path):
    rows = [
        Row({"data": data, "method": method}, {name: Spread(value, 0.01, 3) for name in ("auroc", "ap", "brier")})
        for data in "ab"
        for method, value in (("ours", 0.5), ("MLP: one step", 0.6))
    ]
    results = Results("baselines", "command", "abc", "2026-01-01", "here", 3, rows)
    first, second = family.tables(results)
    assert (first.name, second.name) == ("a", "b")
    assert first.header == ["method", "seeds", "AUROC", "AP", "Brier"]
    assert first.cells == [
        ["MLP: one step", "3", "**0.600 ± 0.010**", "**0.600 ± 0.010**", "0.600 ± 0.010"],
        ["ours", "3", "0.500 ± 0.010", "0.500 ± 0.010", "**0.500 ± 0.010**"],
    ]
    (path,) = family.plots(results, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
