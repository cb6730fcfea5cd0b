"""What an experiment leaves for readers: docs/results/NAME.json, and its tables in docs/results.md.

The page is written by hand around its tables. Each stands between two comments and is made from the JSON alone, so a
test can make it again and compare:

    <!-- graphs.accuracy -->
    | data | method | F1-micro |
    ...
    <!-- end -->
"""

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.errors import DataError
from pipeline.experiments.run import Line
from pipeline.experiments.summary import Row, summarise


class Results(msgspec.Struct):
    """One experiment, as docs/results/NAME.json holds it."""

    name: str
    command: str
    commit: str
    date: str
    machine: str
    seeds: int
    rows: list[Row]


class Table(NamedTuple):
    name: str
    header: Sequence[str]
    cells: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gather(name: str, command: str, machine: str, lines: Sequence[Line]) -> Results:
    """Make an experiment's results from the lines of its jobs."""
    commits = sorted({line.commit for line in lines})
    records = [record for line in lines for record in line.records]
    seeds = len({record.key.get("seed", 0) for record in records})
    day = max((line.date for line in lines), default=date.min.isoformat())
    return Results(name, command, ", ".join(commits), day, machine, seeds, summarise(records))


def write_results(results: Results, folder: Path) -> Path:
    """Write the JSON into `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return path


def read_results(path: Path) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def provenance(results: Results) -> str:
    """Return the line that stands above an experiment's tables."""
    seeds = f"{results.seeds} seed{'s' * (results.seeds > 1)}"
    return f"`{results.command}` at {results.commit}, {seeds}, {results.date}, {results.machine}."


def insert(page: str, results: Results, tables: Sequence[Table]) -> str:
    """Return `page` with the experiment's tables in their places; DataError where a table has none."""
    page = _put(page, f"{results.name}", provenance(results))
    for table in tables:
        page = _put(page, f"{results.name}.{table.name}", table.markdown())
    return page


def _put(page: str, place: str, text: str) -> str:
    pattern = re.compile(rf"(<!-- {re.escape(place)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise DataError(f"the page has no place for {place}: write <!-- {place} --> and <!-- end --> where it belongs")
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page, count=1)
