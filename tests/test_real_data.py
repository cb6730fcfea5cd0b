"""The main job on real data: accuracy, training and serving agree, and no score depends on how events were batched."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_twin import pieces

from pipeline.decoder import Decoder
from pipeline.events import EventBatch
from pipeline.history import History
from pipeline.log import JSON, Record
from pipeline.model import Branch, Layer, Model
from pipeline.schema import Schema, load_schema
from pipeline.scorer import Scorer
from pipeline.transform import fit_transform
from pipeline.twin import Twin
from producers.networks import network_events, read_network
from producers.reviews import read_reviews, review_events

SCHEMAS = Path(__file__).parents[1] / "deploy/schemas"
DAY = 86400.0


def run(*args: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, args), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def whole_job(reviews: Path, folder: Path) -> dict[str, dict]:
    """Import, train, prune 4x, replay, score, judge: what the README shows, on one file."""
    events, log = folder / "events.jsonl.zst", f"sqlite:{folder / 'log.db'}"
    run("import", "reviews", reviews, "--label-delay", "30d", "--out", events)
    found = {"train": run("train", events, "--schema", SCHEMAS / "reviews.toml", "--out", folder / "model")}
    found["prune"] = run("prune", folder / "model", events, "--budget", 4, "--out", folder / "model4")
    run("replay", events, "--to", log)
    run("score", "--model", folder / "model4", "--log", log, "--state", folder / "state", "--until-end")
    found["quality"] = run("quality", "--log", log, "--last", 0.3, "--model", folder / "model4")
    return found


def assert_job(found: dict[str, dict], least_auroc: float, least_ap: float) -> None:
    assert found["train"]["auroc"] >= least_auroc
    assert found["train"]["ap"] >= least_ap
    for figure in ("auroc", "ap"):
        assert found["prune"][figure] >= found["train"][figure] - 0.005
        assert found["quality"][figure] == pytest.approx(found["prune"][figure], abs=0.001)
        assert found["quality"]["expected"][figure] == found["prune"][figure]
    drift = found["quality"]["drift"]  # of the last ten thousand, a part of those that the reference's scores are of
    assert max(drift["channels"].values()) < 0.1
    assert drift["scores"] < 0.1


def test_chicago_reaches_its_accuracy_pruned_and_served(data_dir, tmp_path):
    assert_job(whole_job(data_dir / "reviews/yelpchi.txt.gz", tmp_path), least_auroc=0.765, least_ap=0.35)


@pytest.mark.trial
def test_new_york_reaches_its_accuracy_in_under_five_minutes(data_dir, tmp_path):
    found = whole_job(data_dir / "reviews/yelpnyc.txt.gz", tmp_path)
    assert_job(found, least_auroc=0.80, least_ap=0.37)
    assert found["train"]["seconds"] < 300


@cache
def reviews(path: Path, most: int) -> tuple[Model, EventBatch]:
    table = read_reviews(path)
    lines = [line for line, _ in zip(review_events(table, 30 * DAY, seed=0), range(most), strict=False)]
    return prepared(load_schema(SCHEMAS / "reviews.toml"), lines)


@cache
def ratings(folder: Path, most: int) -> tuple[Model, EventBatch]:
    table = read_network(folder / "bitcoin_otc_ratings.csv.gz", folder / "bitcoin_otc_labels.csv.gz")
    lines = [line for line, _ in zip(network_events(table, 30 * DAY), range(most), strict=False)]
    return prepared(load_schema(SCHEMAS / "network.toml"), lines)


def prepared(schema: Schema, lines: list[bytes], width: int = 8) -> tuple[Model, EventBatch]:
    """A model with random weights on real inputs: what it says means nothing, but depends on every channel."""
    records = [Record(i, line, None, JSON, float("nan")) for i, line in enumerate(lines)]
    history, rng = History(schema, records), np.random.default_rng(0)
    channels, branches = len(schema.channel_names), 1 + len(schema.relations)
    transform = fit_transform("quantile", history.raw_until(history.entries), schema.indicators)

    def layer(inputs: int) -> Layer:
        keep = np.arange(inputs, dtype=np.int32)
        weights = [rng.normal(0, inputs**-0.5, (inputs, width)).astype(np.float32) for _ in range(branches)]
        return Layer([Branch(keep, weight, np.full(width, 0.1, np.float32)) for weight in weights])

    layers = (layer(channels), layer(branches * width))
    weight = rng.normal(0, 0.5, branches * width).astype(np.float32)
    model = Model(schema, transform, np.arange(channels, dtype=np.int32), layers, weight, bias=0.0, threshold=0.5)
    events, bad = Decoder(schema).decode(records)
    assert not bad
    return model, events


def scores(model: Model, events: EventBatch, sizes: list[int], restart_every: int = 0) -> np.ndarray:
    """Score in micro-batches; now and then the shard is written out and a new one takes its state up."""
    scorer, found = Scorer(model), []
    for number, piece in enumerate(pieces(events, sizes), start=1):
        found.append(scorer.score(piece).score)
        if restart_every and number % restart_every == 0:
            arrays = {name: np.array(array) for name, array in scorer.export().items()}
            scorer = Scorer(model)
            scorer.restore(arrays)
    return np.concatenate(found)


@pytest.mark.parametrize("which", ["reviews", "network"])
def test_scores_on_real_data_do_not_depend_on_batches_or_restarts(data_dir, which):
    if which == "reviews":
        model, events = reviews(data_dir / "reviews/yelpchi.txt.gz", 16_000)
    else:
        model, events = ratings(data_dir / "networks", 16_000)
    whole = scores(model, events, [512])
    random_sizes = np.random.default_rng(0).integers(1, 700, 50).tolist()
    for sizes, restart_every in (([1], 4001), ([7], 500), (random_sizes, 3)):
        np.testing.assert_allclose(scores(model, events, sizes, restart_every), whole, atol=1e-5)


@pytest.mark.trial
@pytest.mark.parametrize("name", ["yelpchi", "yelpnyc"])
def test_all_scores_of_a_data_set_are_the_same_in_batches_of_1_7_512_and_random_sizes(data_dir, name):
    model, events = reviews(data_dir / f"reviews/{name}.txt.gz", 10**9)
    whole = scores(model, events, [512])
    random_sizes = np.random.default_rng(0).integers(1, 2000, 50).tolist()
    for sizes, restart_every in (([1], 100_000), ([7], 9_000), (random_sizes, 40)):
        np.testing.assert_allclose(scores(model, events, sizes, restart_every), whole, atol=1e-5)


@pytest.mark.parametrize("which", ["reviews", "network"])
def test_the_slow_twin_agrees_on_real_data(data_dir, which):
    if which == "reviews":
        model, events = reviews(data_dir / "reviews/yelpchi.txt.gz", 2500)
    else:
        model, events = ratings(data_dir / "networks", 3000)
    slow = [score for _, score in Twin(model).run(events) if score is not None]
    np.testing.assert_allclose(scores(model, events, [512]), slow, atol=1e-4)
