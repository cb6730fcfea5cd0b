"""docs/results.md says what docs/results/*.json say, and these say how they were made."""

import re

import pytest
from conftest import REPOSITORY

from pipeline.errors import DataError
from pipeline.experiments.evaluate import load_settings
from pipeline.experiments.page import Results, insert, provenance, read_results
from pipeline.page import Table

PAGE = REPOSITORY / "docs/results.md"
FILES = sorted((REPOSITORY / "docs/results").glob("*.json"))
EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*.toml"))


def test_all_results_are_of_an_experiment():
    assert {path.stem for path in FILES} == {path.stem for path in EXPERIMENTS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_is_made_from_the_results(path):
    found = read_results(path)
    family, _ = load_settings(REPOSITORY / f"experiments/{path.stem}.toml")
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page, found, family.tables(found)) == page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_say_how_they_were_made(path):
    found = read_results(path)
    assert f"experiments/{path.stem}.toml" in found.command
    assert re.fullmatch(r"[0-9a-f]{7,}(, [0-9a-f]{7,})*", found.commit), "run it on a clean commit"
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", found.date)
    assert found.seeds >= 1
    assert provenance(found) in PAGE.read_text(encoding="utf-8")


def test_every_table_of_the_page_is_made_from_results():
    page = PAGE.read_text(encoding="utf-8")
    outside = re.sub(r"<!-- [a-z_.]+ -->\n.*?<!-- end -->", "", page, flags=re.DOTALL)
    assert not re.search(r"^\|", outside, re.MULTILINE)
    assert not re.search(r"<!-- [a-z_.]+ -->\n<!-- end -->", page), "a place without its table"


def test_a_page_without_a_place_for_a_table_is_refused():
    found = Results("one", "graphsieve evaluate one.toml", "abc1234", "2026-01-01", "2 cores", 1, [])
    with pytest.raises(DataError, match="no place for one.accuracy: write <!-- one.accuracy --> and <!-- end -->"):
        insert("<!-- one -->\n<!-- end -->", found, [Table("accuracy", ["a"], [["1"]])])


def test_a_changed_figure_is_seen():
    found = Results("one", "graphsieve evaluate one.toml", "abc1234", "2026-01-01", "2 cores", 1, [])
    page = "<!-- one -->\n<!-- end -->\n<!-- one.t -->\n<!-- end -->\n"
    once = insert(page, found, [Table("t", ["a"], [["0.785"]])])
    assert once == insert(once, found, [Table("t", ["a"], [["0.785"]])])
    assert once.replace("0.785", "0.795") != insert(
        once.replace("0.785", "0.795"), found, [Table("t", ["a"], [["0.785"]])]
    )
