"""The reference that training leaves in a checkpoint, and that pruning keeps; drift on real data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import DAY, SCHEMA, made_up_reviews, records

from consumers.windows import Expected, Windows
from pipeline.config import Quality
from pipeline.decoder import Decoder
from pipeline.drift import DriftWindow, fit_bins
from pipeline.events import NODE, EventBatch
from pipeline.fit import FitOptions
from pipeline.messages import ScoreMessage
from pipeline.model import Model, load_model
from pipeline.prune import PruneOptions, prune
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from pipeline.train import TrainOptions, train
from producers.reviews import read_reviews, review_events


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return made_up_reviews(4000)


@pytest.fixture(scope="module")
def trained(lines) -> Model:
    return train(load_schema(SCHEMA), records(lines), TrainOptions(hidden=8, fit=FitOptions(epochs=4)))[0]


@pytest.fixture(scope="module")
def pruned(trained, lines) -> Model:
    return prune(trained, records(lines), PruneOptions(budget=4, fit=FitOptions(epochs=1)))[0]


def decoded(lines: list[bytes]) -> EventBatch:
    return Decoder(load_schema(SCHEMA)).decode(records(lines))[0]


def test_features_are_those_of_the_training_part(trained, lines):
    features = trained.report["reference"]["features"]
    assert list(features) == trained.schema.own_channels
    nodes = [event for event in map(json.loads, lines) if event["type"] == "node"]
    labelled = {event["id"] for event in map(json.loads, lines) if event["type"] == "label"}
    assert all(node["id"] in labelled for node in nodes)  # so samples and nodes are the same, and so is their split
    part = nodes[: len(nodes) * 6 // 10]
    stars = [node["stars"] for node in part]
    assert features["rating"]["values"] == [1, 2, 3, 4, 5]
    assert features["rating"]["shares"] == pytest.approx(
        [stars.count(s) / len(stars) for s in range(1, 6)] + [0, 0], abs=1e-5
    )
    five = stars.count(5) / len(stars)
    assert features["stars=5"] == {"values": [0, 1], "shares": pytest.approx([1 - five, five, 0, 0], abs=1e-5)}


@pytest.mark.parametrize("which", ["trained", "pruned"])
def test_scores_are_those_that_the_model_gives_from_the_test_part_on(which, lines, request):
    model = request.getfixturevalue(which)
    scored = Scorer(model).score(decoded(lines)).score
    newest = scored[len(scored) * 7 // 10 :]
    bins = Expected.of(model).reference.scores
    counts = np.bincount(bins.place(newest), minlength=len(bins.shares))
    np.testing.assert_allclose(counts / len(newest), bins.shares, atol=2 / len(newest))
    assert len(bins.edges) == 9


def test_pruning_keeps_the_features_and_notes_its_own_scores(trained, pruned):
    before, after = (model.report["reference"] for model in (trained, pruned))
    assert after["features"] == before["features"]
    assert after["scores"]["edges"] != before["scores"]["edges"]


def test_pruning_a_checkpoint_of_an_older_version_gives_it_a_whole_reference(trained, pruned, lines):
    older = dataclasses.replace(trained, report={k: v for k, v in trained.report.items() if k != "reference"})
    assert older.version == trained.version  # no score depends on the reference
    again, _ = prune(older, records(lines), PruneOptions(budget=4, fit=FitOptions(epochs=1)))
    assert again.report["reference"] == pruned.report["reference"]


def test_the_reference_comes_back_from_disk(pruned, tmp_path):
    pruned.save(tmp_path)
    assert Expected.of(load_model(tmp_path)) == Expected.of(pruned)


def test_an_entry_of_a_score_event_is_none_of_the_features(lines):
    again = b'{"type":"score","id":"%s","ts":%f}'
    events = [(line, json.loads(line)) for line in lines]
    doubled = [
        x
        for line, e in events
        for x in ((line, again % (e["id"].encode(), e["ts"])) if e["type"] == "node" else (line,))
    ]
    options = TrainOptions(hidden=4, fit=FitOptions(epochs=1))
    model, _ = train(load_schema(SCHEMA), records(doubled), options)
    for bins in model.report["reference"]["features"].values():
        assert bins["shares"][-1] == 0.0  # nothing is missing


# ---- drift as a service tells it ----


def messages(model: Model, scores: np.ndarray) -> list[ScoreMessage]:
    return [
        ScoreMessage(f"n{i}", score, score >= 0.5, 0.5, model.version, 1e9, i, 0, 1e9)
        for i, score in enumerate(scores.tolist())
    ]


def test_a_stream_like_the_training_tells_little_and_another_one_much(trained, lines):
    windows = Windows(Quality(window=2000), Expected.of(trained))
    batch = decoded(lines)
    windows.add_events(batch)
    windows.add_scores(messages(trained, Scorer(trained).score(batch).score[-1200:]))
    assert max(windows.drift().values()) < 0.1
    assert windows.score_drift() < 0.01
    changed = [line.replace(b'"stars":5', b'"stars":1') for line in made_up_reviews(4000, seed=1)]
    batch = decoded(changed)
    windows.add_events(batch)
    windows.add_scores(messages(trained, 1 - Scorer(trained).score(batch).score))
    largest = dict(list(windows.drift().items())[:2])
    assert set(largest) <= {"stars=1", "stars=5", "rating"} and min(largest.values()) > 0.25
    assert windows.score_drift() > 0.25


def test_in_chicago_ratings_drifted_from_2006_to_2012_and_weekdays_did_not(data_dir: Path):
    schema = load_schema(SCHEMA)
    table = read_reviews(data_dir / "reviews/yelpchi.txt.gz")
    batch, _ = Decoder(schema).decode(records(list(review_events(table, 30 * DAY, seed=0))))
    node = batch.kind == NODE
    year, own = batch.ts[node].astype("M8[s]").astype("M8[Y]").astype(int) + 1970, batch.features[node]
    bins = [fit_bins(column) for column in own[year == 2006].T]  # the first year of more than a thousand reviews
    drift = {}
    for when in (2006, 2012):
        window = DriftWindow(bins, int((year == when).sum()))
        window.add(own[year == when])
        drift[when] = dict(zip(schema.own_channels, window.psi(), strict=True))
    assert max(drift[2006].values()) < 1e-6
    assert 0.05 < drift[2012]["rating"] < 0.25  # of one star there were half as many again: moderate at most
    assert drift[2012]["stars=1"] == max(index for name, index in drift[2012].items() if "=" in name)
    assert max(index for name, index in drift[2012].items() if name.startswith("weekday=")) < 0.02
