"""`graphsieve evaluate`: on a graph that nobody has seen, on an experiment of ours; resumed, told, refused."""

import json

import numpy as np
import pytest
from conftest import REPOSITORY
from whole_graphs import community_arrays

pytest.importorskip("dgl", reason="DGL 1.1.3 is not installed: it exists for Python 3.11 only")

from pipeline.cli import main
from pipeline.experiments.graphs.report import plots, tables
from pipeline.experiments.page import insert, read_results
from pipeline.experiments.summary import select


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    np.savez(folder / "unseen.npz", **community_arrays(classes=2))
    return folder / "unseen.npz"


def evaluated(path, work, *words):
    options = ["--budgets", "2,4", "--schemes", "full,batched", "--methods", "lasso,random,small", "--seeds", "2"]
    return main(["evaluate", str(path), *options, "--work", str(work), *words])


@pytest.fixture(scope="module")
def results(unseen):
    assert evaluated(unseen, unseen.parent, "--json") == 0
    return read_results(unseen.parent / "unseen.json")


def test_the_last_line_is_one_document_with_a_row_for_every_network(unseen, results, capsys):
    assert evaluated(unseen, unseen.parent, "--json") == 0  # nothing is left to do
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["command"].endswith(
        "unseen.npz --budgets 2,4 --schemes full,batched --methods lasso,random,small --seeds 2"
    )
    # unpruned; per budget a small one, and two methods by two schemes in three stages
    assert len(report["rows"]) == 1 + 2 * (1 + 2 * 2 * 3)
    for row in report["rows"]:
        figures = row["figures"]
        assert {"f1_micro", "f1_macro", "auroc", "ap", "multiply_adds", "parameters"} <= set(figures)
        assert all({"mean", "sd", "n"} == set(spread) for spread in figures.values())
        assert figures["f1_micro"]["n"] == 2
    assert len((unseen.parent / "unseen.jsonl").read_text().splitlines()) == 2  # a job a seed, done once


def test_pruned_networks_are_timed_against_the_unpruned_one(results):
    (full,) = select(results.rows, method="lasso", scheme="full", budget=4.0, stage="tuned")
    (batched,) = select(results.rows, method="lasso", scheme="batched", budget=4.0, stage="tuned")
    assert {"full_speedup", "full_dgl_speedup", "tuning_seconds"} <= set(full.figures)
    assert {"batched_speedup", "batched_stored_speedup", "batched_speedup_by_both"} <= set(batched.figures)
    (refitted,) = select(results.rows, method="lasso", scheme="full", budget=4.0, stage="refitted")
    assert refitted.figures["pruning_seconds"].mean > 0


def test_tables_and_picture_are_made_from_the_json_alone(results, tmp_path):
    page = "<!-- unseen -->\n<!-- end -->\n"
    for table in tables(results):
        page += f"<!-- unseen.{table.name} -->\n<!-- end -->\n"
    page = insert(page, results, tables(results))
    (row,) = select(results.rows, method="lasso", scheme="full", budget=4.0, stage="tuned")
    assert f"| 4x | LASSO, closed form | {row.figures['f1_micro'].text()} |" in page
    assert "| 2x | small, from scratch |" in page
    (picture,) = plots(results, tmp_path)
    assert picture.name == "unseen-accuracy.png"
    assert picture.stat().st_size > 10_000


def test_people_get_tables(unseen, results, capsys):
    assert evaluated(unseen, unseen.parent) == 0
    told = capsys.readouterr().out
    assert "LASSO, closed form" in told
    assert "full, DGL" in told


def test_the_quick_experiment_fills_its_page(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHSIEVE_DATA", str(data_dir))
    page = tmp_path / "page.md"
    names = ("", ".full_before", ".full", ".batched_before", ".batched", ".other", ".speed", ".pruning")
    page.write_text("".join(f"<!-- graphs{name} -->\n<!-- end -->\n" for name in names))
    experiment = REPOSITORY / "experiments/graphs.toml"
    assert main(["evaluate", str(experiment), "--quick", "--work", str(tmp_path), "--page", str(page)]) == 0
    assert "| 4x | LASSO, closed form |" in page.read_text()
    assert (tmp_path / "graphs-accuracy.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.npz"], "no graph at absent.npz"),
        (["events.jsonl.zst"], "events.jsonl.zst: expected an experiment (.toml), a graph (.npz), or recorded"),
        (["absent.toml"], "cannot read the experiment absent.toml"),
        (["UNSEEN", "--methods", "lassso"], "methods 'lassso': expected some of lasso, paper, random"),
        (["UNSEEN", "--schemes", "half"], "schemes 'half': expected some of batched, full"),
        (["UNSEEN", "--budgets", "0.5"], "budgets [0.5]: expected numbers of at least 1"),
        (["UNSEEN", "--budgets", "100000", "--methods", "first"], "budget 100000: this model can be pruned"),
        (["UNSEEN", "--quick"], "--quick is for an experiment's .toml"),
        ([str(REPOSITORY / "experiments/graphs.toml"), "--seeds", "3"], "--seeds: an experiment says these itself"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(unseen, tmp_path, capsys, words, message):
    words = [str(unseen) if word == "UNSEEN" else word for word in words]
    assert main(["evaluate", *words, "--work", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
