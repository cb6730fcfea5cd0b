"""The benches that need no broker: what their reports hold. Tiny runs; what they measure says nothing."""

import argparse
import json

import numpy as np
import pytest
from conftest import REPOSITORY

from pipeline.bench import core, embedded, explicit_lists, recovery, scale, startup, train
from pipeline.errors import ConfigError, DataError
from pipeline.history import History
from pipeline.log import JSON, Record
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

pytestmark = pytest.mark.usefixtures("in_the_root")


@pytest.fixture
def in_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def told(bench, capsys, **given: object) -> dict:
    """Return the bench's report; it prints a table, too."""
    options = {"events": None, "repeats": 1, "plot": None, "config": None} | given
    report = json.loads(json.dumps(bench.run(argparse.Namespace(**options))))
    assert capsys.readouterr().out.strip()
    assert {"ours", "peers", "ratio", "cpus", "load_before", "versions"} <= set(report)
    assert set(report["ratio"]) == set(report["peers"])
    assert all(ratio > 0 for ratio in report["ratio"].values())
    return report


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(core, "SLICE", 64)


def test_core_compares_with_every_peer_and_runs_the_code_that_serves(small, capsys, monkeypatch, tmp_path):
    called: list[int] = []
    serves = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, events: called.append(len(events)) or serves(self, events))
    report = told(core, capsys, events=1200, plot=tmp_path / "core.png")
    assert {"ours, unpruned", "torch, cached", "boosted trees"} <= set(report["peers"])
    assert set(report["ours"]["targets_per_s"]) == {str(size) for size in core.SIZES}
    assert {1, 8, 32} <= set(called)
    assert (tmp_path / "core.png").stat().st_size > 10_000


def test_core_refuses_a_peer_that_computes_something_else(small, capsys, monkeypatch):
    wrong = explicit_lists.explicit_lists

    def halved(history: History) -> list[explicit_lists.ExplicitList]:
        return [one._replace(weight=one.weight / 2) for one in wrong(history)]

    monkeypatch.setattr(core, "explicit_lists", halved)
    with pytest.raises(RuntimeError, match="torch, cached differs from ours"):
        told(core, capsys, events=1200)


def test_core_says_how_many_events_it_needs(capsys):
    with pytest.raises(ConfigError, match="--events 100: the bench needs at least 30,720"):
        told(core, capsys, events=100)


def test_explicit_lists_hold_what_the_running_sums_hold():
    schema = load_schema(REPOSITORY / "deploy/schemas/synthetic.toml")
    lines = synthetic_events(0, 4000)
    history = History(schema, [Record(i, line, None, JSON, float("nan")) for i, line in enumerate(lines)])
    values = np.random.default_rng(0).normal(size=(history.entries, 3)).astype(np.float32)
    means = history.means_of(values)
    for r, one in enumerate(explicit_lists.explicit_lists(history)):
        summed = np.zeros((history.entries, 3))
        np.add.at(summed, one.reader, values[one.source] * one.weight[:, None])
        assert means[:, r] == pytest.approx(summed, abs=1e-4)
        assert (one.source < one.reader).all()


def test_embedded_tells_where_the_time_goes(capsys):
    report = told(embedded, capsys, events=9000)
    assert {"decode", "A", "B", "C", "D", "commit", "rest"} <= set(report["ours"]["stage_us_per_event"])


def test_train_tells_the_seconds_of_each_part(capsys):
    report = told(train, capsys, events=9000)
    assert set(report["ours"]["by_part"]) == {"replay", "train", "prune"}
    assert report["peak_memory_mb"] > 100


def test_recovery_loads_what_it_wrote(capsys):
    report = told(recovery, capsys, events=3000)
    assert report["nodes"] >= 3000
    assert report["ours"]["megabytes"] > 0


def test_scale_grows_step_by_step(capsys, tmp_path):
    report = told(scale, capsys, events=12_000, plot=tmp_path / "scale.png")
    assert [step["nodes"] >= size for step, size in zip(report["ours"]["steps"], (10_000, 12_000), strict=True)]
    assert all(100 < step["bytes_a_node"] < 20_000 for step in report["ours"]["steps"])
    assert (tmp_path / "scale.png").exists()
    with pytest.raises(DataError, match="--events 10: the bench begins at 10,000 nodes"):
        told(scale, capsys, events=10)


def test_startup_waits_for_the_first_score(capsys, monkeypatch):
    monkeypatch.setattr(startup, "COLD_RUNS", 0)
    assert told(startup, capsys)["ours"]["warm_s"] > 0
