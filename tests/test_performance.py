"""docs/performance.md says what docs/performance/*.json say, and these say how they were made."""

import importlib
import re

import pytest
from conftest import REPOSITORY

from pipeline.bench.published import insert, provenance, read_report

PAGE = REPOSITORY / "docs/performance.md"
FILES = sorted((REPOSITORY / "docs/performance").glob("*.json"))


def test_every_bench_that_make_runs_has_its_report():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    lines = re.findall(r"^\t@for name in (.*); do \\\n.*graphsieve bench", makefile, re.MULTILINE)
    assert sorted(path.stem for path in FILES) == sorted(name for line in lines for name in line.split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_is_made_from_the_reports(path):
    report = read_report(path)
    bench = importlib.import_module(f"pipeline.bench.{path.stem}")
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page, report, bench.tables(report)) == page
    assert provenance(report) in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reports_say_how_they_were_made(path):
    report = read_report(path)
    assert re.fullmatch(r"[0-9a-f]{7,}", report["commit"]), "run it on a clean commit"
    assert report["command"].startswith(f"graphsieve bench {path.stem}")
    assert set(report["ratio"]) == set(report["peers"])


def test_every_place_of_the_page_is_filled():
    assert not re.search(r"<!-- [a-z_.]+ -->\n<!-- end -->", PAGE.read_text(encoding="utf-8"))
