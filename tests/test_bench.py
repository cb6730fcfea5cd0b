"""The benches that need no broker: what their reports hold. Tiny runs; what they measure says nothing."""

import gc
import json

import numpy as np
import pytest
from benches import told
from conftest import REPOSITORY

from pipeline.bench import (
    core,
    core_given,
    embedded,
    explicit_lists,
    full,
    load,
    memory,
    recovery,
    scale,
    startup,
    train,
)
from pipeline.bench.published import insert, read_report
from pipeline.bench.watched import steps_of
from pipeline.cli import main
from pipeline.errors import ConfigError, DataError
from pipeline.experiments.recordings import as_records
from pipeline.history import History
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

pytestmark = pytest.mark.usefixtures("in_the_root")


@pytest.fixture
def in_the_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def own_collector():
    """What a bench tells Python's collector ends with the test."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def small(monkeypatch, own_collector):
    monkeypatch.setattr(core, "SLICE", 64)
    monkeypatch.setattr(core, "LEAD", 16)


def test_core_compares_with_every_peer_and_runs_the_code_that_serves(small, monkeypatch, tmp_path):
    called: list[int] = []
    serves = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, events: called.append(len(events)) or serves(self, events))
    report = told(core, events=1200, plot=tmp_path / "core.png")
    assert {"ours, unpruned", "torch, cached", "boosted trees"} <= set(report["peers"])
    assert set(report["ours"]["targets_per_s"]) == {str(size) for size in core.SIZES}
    assert {1, 8, 32} <= set(called)
    assert set(report["given"]["targets_per_s"]) == {"128", "512", "2048"}
    assert {"torch, cached", "boosted trees"} <= set(report["ratio_of_given"]) <= set(report["peers"])
    assert "ours, unpruned, given" in report["ratio_of_given"]
    assert (tmp_path / "core.png").stat().st_size > 10_000


def test_core_refuses_a_peer_that_computes_something_else(small, monkeypatch):
    wrong = explicit_lists.explicit_lists

    def halved(history: History) -> list[explicit_lists.ExplicitList]:
        return [one._replace(weight=one.weight / 2) for one in wrong(history)]

    monkeypatch.setattr(core, "explicit_lists", halved)
    with pytest.raises(RuntimeError, match="torch, cached differs from ours"):
        told(core, events=1200)


def test_core_refuses_given_stages_that_compute_something_else(small, monkeypatch):
    monkeypatch.setattr(core_given.Given, "score", lambda self, events: np.zeros(np.count_nonzero(events.target)))
    with pytest.raises(RuntimeError, match="ours, given differs from ours"):
        told(core, events=1200)


def test_core_says_how_many_events_it_needs():
    with pytest.raises(ConfigError, match="--events 100: the bench needs at least 38,400"):
        told(core, events=100)


def test_explicit_lists_hold_what_the_running_sums_hold():
    schema = load_schema(REPOSITORY / "deploy/schemas/synthetic.toml")
    lines = synthetic_events(0, 4000)
    history = History(schema, as_records(lines))
    values = np.random.default_rng(0).normal(size=(history.entries, 3)).astype(np.float32)
    means = history.means_of(values)
    for r, one in enumerate(explicit_lists.explicit_lists(history)):
        summed = np.zeros((history.entries, 3))
        np.add.at(summed, one.reader, values[one.source] * one.weight[:, None])
        assert means[:, r] == pytest.approx(summed, abs=1e-4)
        assert (one.source < one.reader).all()


def test_embedded_tells_where_the_time_goes():
    report = told(embedded, events=9000)
    assert {"decode", "A", "B", "C", "D", "commit", "all"} <= set(report["ours"]["stage_us_per_event"])


def test_train_tells_the_seconds_of_each_part():
    report = told(train, events=9000)
    assert set(report["ours"]["by_part"]) == {"replay", "train", "prune"}
    assert report["peak_memory_mb"] > 100


def test_recovery_loads_what_it_wrote(own_collector):
    report = told(recovery, events=3000)
    assert report["nodes"] >= 3000
    assert report["ours"]["megabytes"] > 0
    assert report["ours"]["batch_ms"]["beside"]["median"] > 0
    assert report["ours"]["replay_events_per_s"] > 0
    assert report["peers"]["serving"]["events_per_s"] > 0


def test_load_serves_the_same_events_at_every_rate(own_collector, monkeypatch, tmp_path):
    monkeypatch.setattr(load, "RATES", (500.0,))
    report = told(load, events=400, plot=tmp_path / "load.png")
    for found in (report["ours"], report["peers"]["waiting"]):
        quiet, full, half = found["rates"]
        assert half["offered"] == "half of that"
        assert quiet["achieved"] < 1000
        assert 0 < quiet["read_p50_ms"] <= quiet["read_p99_ms"]
        assert full["batch"] > quiet["batch"]
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_scale_grows_step_by_step(capsys, tmp_path):
    report = told(scale, events=12_000, plot=tmp_path / "scale.png")
    assert [step["nodes"] >= size for step, size in zip(report["ours"]["steps"], (10_000, 12_000), strict=True)]
    assert all(100 < step["bytes_a_node"] < 20_000 for step in report["ours"]["steps"])
    assert (tmp_path / "scale.png").exists()
    with pytest.raises(DataError, match="--events 10: the bench begins at 10,000 nodes"):
        told(scale, events=10)


def test_ten_million_nodes_are_reached_in_steps_where_they_are_asked_for():
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
    assert scale._sizes(10_000_000) == [*sizes, 10_000_000]
    assert scale._sizes(scale.NODES) == sizes


def hold(tell, size):
    tell({})
    held = b"x" * size
    tell({"held": len(held)})


def test_a_watched_process_is_seen_to_grow_by_what_it_holds():
    (_, before), (step, after) = steps_of(hold, 64_000_000)
    assert step == {"held": 64_000_000}
    assert 60_000_000 < after - before < 80_000_000


def test_memory_is_split_into_nodes_and_lists():
    sizes = [memory.Size(*size) for size in ((1000, 10), (2000, 10), (2000, 900), (4000, 3000))]
    found = memory._split(sizes, [500.0 * nodes + 800.0 * lists for nodes, lists in sizes])
    assert (found["bytes_a_node"], found["bytes_a_list"], found["largest_miss"]) == (500, 800, 0.0)


def test_memory_tells_bytes_a_node_and_a_list(monkeypatch):
    monkeypatch.setattr(memory, "NODE_SHARES", (0.5, 1.0))
    monkeypatch.setattr(memory, "LIST_SHARES", (0.0, 0.5))
    report = told(memory, events=20_000)
    assert [size["nodes"] for size in report["ours"]["sizes"]] == [10_000, 10_000, 20_000, 20_000]
    few, many = (size["lists"] for size in report["ours"]["sizes"][:2])
    assert few < 100 and many == pytest.approx(10_000, abs=100)
    for one in (report["ours"], *report["peers"].values()):
        assert all(100 < one[name] < 20_000 for name in ("bytes_a_node", "bytes_a_list"))
    with pytest.raises(ConfigError, match="--events 10: the bench needs at least 20,000 nodes"):
        told(memory, events=10)


def test_full_compares_with_every_peer_before_it_times_them():
    report = told(full, events=600)
    assert {"ours, unpruned", "torch, unpruned", "torch, 4x", "torch, 8x"} <= set(report["peers"])
    assert set(report["ours"]) == {"4x", "8x"}
    assert set(report["products"]) == {"unpruned", "4x", "8x"}
    wide, *pruned = (sum(map(sum, widths)) for widths in report["graphs"]["random"]["outputs_a_branch"].values())
    assert wide == 4 * full.WIDTH and all(0 < width < wide for width in pruned)


def test_full_refuses_a_peer_that_computes_something_else(monkeypatch):
    right = full.WholeGraph.logits
    monkeypatch.setattr(full.WholeGraph, "logits", lambda self: right(self) + 0.1)
    with pytest.raises(RuntimeError, match="torch, unpruned differs from ours"):
        told(full, events=600)


def test_startup_waits_for_the_first_score(monkeypatch):
    monkeypatch.setattr(startup, "COLD_RUNS", 0)
    (warm,) = told(startup)["ours"]["seconds"]["warm"]
    assert warm > 0


def test_a_bench_writes_its_report_and_its_tables(own_collector, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- recovery -->\n<!-- end -->\n<!-- recovery.figures -->\n<!-- end -->\n")
    words = ["bench", "recovery", "--events", "2000", "--repeats", "1", "--out", str(tmp_path), "--page", str(page)]
    assert main([*words, "--json"]) == 0
    report = read_report(tmp_path / "recovery.json")
    assert insert(page.read_text(), report, recovery.tables(report)) == page.read_text()
    assert "`graphsieve bench recovery --events 2000 --repeats 1` at " in page.read_text()
    assert "| pause when one begins | " in page.read_text()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report


def test_a_bench_without_tables_leaves_no_file(tmp_path, capsys):
    assert main(["bench", "soak", "--events", "10", "--out", str(tmp_path)]) == 2
    assert "bench soak: it tells its figures as it goes and leaves no file" in capsys.readouterr().err
