"""The family `streams` on a small stream: what its records hold, that nothing is chosen on the test part, its page."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_checkpoint import SCHEMA, made_up_reviews, records

from pipeline.errors import ConfigError
from pipeline.experiments.evaluate import evaluate, load_settings
from pipeline.experiments.page import Results, read_results
from pipeline.experiments.run import Job, run_jobs
from pipeline.experiments.streams import family, study
from pipeline.experiments.summary import select
from pipeline.fit import FitOptions
from pipeline.history import History
from pipeline.prune import PruneOptions, prune_on
from pipeline.schema import load_schema
from pipeline.train import Trained, TrainOptions, check_samples, train

EXPERIMENT = Path(__file__).parents[1] / "experiments/streams.toml"
BUDGETS, METHODS = (2.0, 4.0), ("lasso", "first")


def settings_of(path: Path, seeds: int = 2) -> family.Settings:
    one = family.Study((str(path),), ("own",), (16,), seeds, BUDGETS, ("batched",), METHODS, curves=True)
    return family.Settings((one,), schema=str(SCHEMA), epochs=2)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "shop.jsonl"
    path.write_bytes(b"\n".join(made_up_reviews(700)) + b"\n")
    return path


@pytest.fixture(scope="module")
def folder(recorded) -> Path:
    """What an experiment leaves: its JSON and its pictures."""
    place = recorded.parent / "results"
    evaluate(
        "streams", family, settings_of(recorded), recorded.parent / "work", place, "graphsieve evaluate shop.jsonl"
    )
    return place


@pytest.fixture(scope="module")
def results(folder) -> Results:
    return read_results(folder / "streams.json")


def test_every_way_to_make_a_model_small_has_its_figures(results):
    (unpruned,) = select(results.rows, method="unpruned", width=16)[:1]
    assert {"auroc", "ap", "precision_top1", "precision_top5", "recall_at_fpr1", "brier"} < unpruned.figures.keys()
    for budget in BUDGETS:
        wanted = unpruned.figures["multiply_adds"].mean / budget
        for method in METHODS:
            for stage in ("refitted", "tuned"):
                (row,) = select(results.rows, method=method, scheme="batched", budget=budget, stage=stage)
                assert row.figures["multiply_adds"].mean <= wanted
                assert row.figures["ap"].n == 2
                lost = unpruned.figures["ap"].mean - row.figures["ap"].mean
                assert row.figures["ap_lost"].mean == pytest.approx(lost, abs=2e-6)
        (small,) = select(results.rows, method="small", budget=budget)
        assert 0.7 * wanted < small.figures["multiply_adds"].mean < 1.4 * wanted


def test_curves_and_kept_channels_are_rows_of_their_own(results):
    (roc,) = select(results.rows, method="unpruned", curve="roc")
    points = [spread.mean for spread in roc.figures.values()]
    assert points == sorted(points) and points[-1] == 1.0
    (kept,) = select(results.rows, kept="user", budget=4.0)
    assert set(kept.figures) == set(load_schema(SCHEMA).channel_names)
    assert {spread.mean for spread in kept.figures.values()} <= {0.0, 0.5, 1.0}  # of two seeds
    fewer, more = (sum(s.mean for s in select(results.rows, kept="user", budget=b)[0].figures.values()) for b in (4, 2))
    assert 0 < fewer < more


def test_tables_and_pictures_are_made_from_the_json_alone(folder, results, tmp_path):
    tables = {table.name: table for table in family.tables(results)}
    assert list(tables) == ["figures", "loss", "methods", "small", "kept"]
    for table in tables.values():
        assert table.cells and {len(line) for line in table.cells} == {len(table.header)}, table.name
    pictures = family.plots(results, tmp_path)
    assert [path.name for path in pictures] == [
        "streams-accuracy.png", "streams-roc.png", "streams-calibration.png", "streams-kept.png",
    ]  # fmt: skip
    for path in pictures:
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_tables_say_what_the_rows_say(results):
    loss = next(table for table in family.tables(results) if table.name == "loss")
    (row,) = select(results.rows, method="lasso", budget=4.0, stage="tuned")
    assert ["shop", "own", "16", "4x batched", row.figures["auroc_lost"].text(4), row.figures["ap_lost"].text(4)] in [
        line[:6] for line in loss.cells
    ]


def test_a_run_that_died_goes_on_where_it_was(recorded, tmp_path):
    jobs = family.jobs(settings_of(recorded))
    assert [job.about["seed"] for job in jobs] == [0, 1]
    ran = []

    def noted(job: Job) -> Job:
        return job._replace(run=lambda: ran.append(job.about["seed"]) or [])

    def dies() -> list:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([noted(jobs[0]), jobs[1]._replace(run=dies)], tmp_path / "work.jsonl")
    run_jobs([noted(job) for job in jobs], tmp_path / "work.jsonl")
    assert ran == [0, 1]


def test_what_a_job_is_about_tells_trainings_apart(recorded):
    one = family.jobs(settings_of(recorded))[0].about
    other = family.jobs(msgspec.structs.replace(settings_of(recorded), epochs=3))[0].about
    assert json.loads(json.dumps(one)) != json.loads(json.dumps(other))


def flipped(lines: list[bytes], first: int) -> list[bytes]:
    """The same log, but for the verdicts on the last reviews, which are turned round."""
    late = {json.loads(line)["id"] for line in [line for line in lines if b'"node"' in line][first:]}

    def turned(event: dict) -> dict:
        return event | {"label": 1 - event["label"]} if event["type"] == "label" and event["id"] in late else event

    return [json.dumps(turned(json.loads(line))).encode() for line in lines]


def test_neither_training_nor_pruning_looks_at_the_test_part():
    lines, versions = made_up_reviews(700), []
    options = TrainOptions(hidden=4, fit=FitOptions(epochs=3, batch_size=64))
    schema = load_schema(SCHEMA)
    for log in (lines, flipped(lines, 490), flipped(lines, 400)):
        model, _ = train(schema, records(log), options)
        history = History(schema, records(log))
        split = check_samples(history, options.shares)
        inputs = history.inputs(model.transform, model.input_keep)
        unpruned = Trained(model, inputs, history.hidden(model.layers[0], *inputs))
        pruned = prune_on(unpruned, history, split, PruneOptions(budget=4, fit=FitOptions(epochs=3, batch_size=64)))
        versions.append((model.version, pruned.refitted.version, pruned.tuned.version))
    assert versions[0] == versions[1]
    assert versions[0] != versions[2]  # the validation part is looked at, so that the test can fail


def test_a_small_model_comes_as_close_to_the_budget_as_whole_channels_do():
    model, _ = train(
        load_schema(SCHEMA), records(made_up_reviews(400)), TrainOptions(hidden=3, fit=FitOptions(epochs=1))
    )
    assert model.multiply_adds == study.work(1 + len(model.schema.relations), len(model.input_keep), 3)


def test_the_experiments_settings_are_read_and_the_quick_ones_are_small():
    _, whole = load_settings(EXPERIMENT)
    _, quick = load_settings(EXPERIMENT, quick=True)
    assert {job.about["data"] for job in family.jobs(whole)} == {"yelpchi", "yelpnyc", "network", "wide"}
    assert len(family.jobs(quick)) <= 2 and quick.events is not None


def test_methods_and_schemes_that_do_not_exist_are_refused(tmp_path):
    for key, wrong in (("methods", "best"), ("schemes", "halves")):
        path = tmp_path / f"{key}.toml"
        path.write_text(f'kind = "streams"\nstudies = [{{ data = ["wide"], {key} = ["{wrong}"] }}]\n')
        with pytest.raises(ConfigError, match=rf"{key}.toml: Invalid enum value '{wrong}'"):
            load_settings(path)


def test_scores_of_all_samples_are_probabilities(recorded):
    on = study.replayed(str(recorded), str(SCHEMA), "own", 0, None)
    model, _ = train(on.recording.schema, on.recording.records, TrainOptions(hidden=2, fit=FitOptions(epochs=1)))
    hidden = on.history.hidden(model.layers[0], *on.history.inputs(model.transform, model.input_keep))
    scores = study.scores_of(model, on.history, hidden)
    assert len(scores) == len(on.history.truth) and np.all((scores > 0) & (scores < 1))


def test_two_jobs_about_the_same_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two jobs are about the same"):
        run_jobs([Job({"seed": 0}, list), Job({"seed": 0}, list)], tmp_path / "jobs.jsonl")
