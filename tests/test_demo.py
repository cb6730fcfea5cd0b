"""The demo, small: the same processes, the same steps, fewer events."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.demo import Scale, demo
from pipeline.demo_report import judged_scores, table
from pipeline.errors import ConfigError, GraphsieveError
from pipeline.evaluate import auroc, average_precision
from pipeline.inspect import inspect

SMALL = Scale(events=12_000, budgets=(4,), live_seconds=2.0, audited_events=1500, audited_scores=30)


def processes_in(folder):
    """The ids of the processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo that has ended: its folder, its report, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    said = []
    return folder, demo(folder, 0, said.append, SMALL), said


def test_every_unseen_target_is_scored_live_and_in_time(finished):
    _, report, _ = finished
    live, before = report["live"], report["caught_up_after"]
    assert before["position"] == SMALL.history
    assert live["position"] == live["events"] + SMALL.history == SMALL.events
    assert live["scored"] > 0.3 * SMALL.unseen
    assert 0 < live["p50_ms"] <= live["p99_ms"]
    assert set(live["stages"]) == {"decode", "A", "B", "C", "D", "commit"}


def test_the_latency_picture_shows_what_the_metrics_said_of_all_live_scores(finished):
    _, report, _ = finished
    counts = list(report["latency_buckets"].values())
    assert counts == sorted(counts)
    assert report["latency_buckets"]["+Inf"] == report["live"]["scored"]


def test_the_roc_is_drawn_from_the_very_scores_that_quality_judged(finished):
    folder, report, _ = finished
    for name in ("before", "after"):
        judged = judged_scores(folder / f"{name}.jsonl", folder / "unseen.jsonl", SMALL.history)
        assert len(judged.score) == report[name]["labelled"] > 100
        assert auroc(judged.spam, judged.score) == pytest.approx(report[name]["auroc"], abs=1e-6)
        assert average_precision(judged.spam, judged.score) == pytest.approx(report[name]["ap"], abs=1e-6)


def test_pruning_saves_what_its_budget_says_and_the_audit_agrees(finished):
    _, report, _ = finished
    (point,) = report["curve"]
    for method in ("lasso", "random"):
        assert point[method]["multiply_adds"] <= point[method]["multiply_adds_before"] / 4
    assert report["audit"]["compared"] == SMALL.audited_scores
    assert report["audit"]["max_abs_difference"] < 1e-5


def test_the_table_names_every_stage_and_aligns_its_columns(finished):
    _, report, _ = finished
    lines = table(report).splitlines()
    stages = [line for line in lines if line.startswith("  stage") and "event" in line]
    assert [line.split()[1].strip(",") for line in stages] == ["decode", "A", "B", "C", "D", "commit"]
    assert len({len(line) for line in stages}) == 1
    assert f"{report['after']['auroc']:.4f}" in next(line for line in lines if "AUROC" in line)


def test_the_picture_is_readable_in_full_width(finished):
    folder, report, _ = finished
    data = (folder / "report.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG") and (width, height) == (1600, 1000)
    assert len(data) < 300_000
    assert json.loads((folder / "report.json").read_text()) == report


def test_it_tells_where_the_page_is_and_leaves_no_process(finished):
    folder, _, said = finished
    assert any("look at http://127.0.0.1:" in line for line in said)
    assert processes_in(folder) == []


def test_what_it_leaves_can_be_looked_at(finished):
    folder, report, _ = finished
    assert inspect(str(folder / "lasso4"))["model"] == report["live"]["model"]
    assert inspect(str(folder / "log.db"))["groups"]["graphsieve"]["events"] == {"position": SMALL.events, "behind": 0}


def test_a_failing_step_ends_the_demo_with_its_own_line(tmp_path):
    with pytest.raises(GraphsieveError, match=r"demo, step `train`: .* expected at least 100.*train\.txt"):
        demo(tmp_path / "out", 0, lambda line: None, Scale(events=150))
    assert processes_in(tmp_path / "out") == []


def test_a_demo_empties_the_folder_of_an_earlier_one_and_no_other(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files that no demo made: name a new folder with --out"):
        demo(tmp_path, 0, lambda line: None, SMALL)
    assert (tmp_path / "thesis.txt").exists()
    for _ in range(2):
        with pytest.raises(GraphsieveError, match="step `train`"):
            demo(tmp_path / "out", 0, lambda line: None, Scale(events=150))


def test_a_demo_that_is_terminated_takes_its_processes_along(tmp_path):
    folder = tmp_path / "out"
    line = [sys.executable, "-m", "pipeline.cli", "demo", "--out", str(folder)]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("logs/*train.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_in(folder)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 143
    assert processes_in(folder) == []
