"""What an experiment leaves for readers: docs/results/NAME.json, and its tables in docs/results.md."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import msgspec

from pipeline.experiments.run import Line
from pipeline.experiments.summary import Row, summarise
from pipeline.page import Table, fill, write_document


class Results(msgspec.Struct):
    """One experiment, as docs/results/NAME.json holds it."""

    name: str
    command: str
    commit: str
    date: str
    machine: str
    seeds: int
    rows: list[Row]


_decode = msgspec.json.Decoder(Results).decode


def gather(name: str, command: str, machine: str, lines: Sequence[Line]) -> Results:
    """Make an experiment's results from the lines of its jobs."""
    commits = sorted({line.commit for line in lines})
    records = [record for line in lines for record in line.records]
    seeds = len({record.key.get("seed", 0) for record in records})
    day = max((line.date for line in lines), default=date.min.isoformat())
    return Results(name, command, ", ".join(commits), day, machine, seeds, summarise(records))


def write_results(results: Results, folder: Path) -> Path:
    """Write the JSON into `folder`; return its path."""
    return write_document(results, results.name, folder)


def read_results(path: Path) -> Results:
    return _decode(path.read_bytes())


def provenance(results: Results) -> str:
    """Return the line that stands above an experiment's tables."""
    seeds = f"{results.seeds} seed{'s' * (results.seeds > 1)}"
    return f"`{results.command}` at {results.commit}, {seeds}, {results.date}, {results.machine}."


def insert(page: str, results: Results, tables: Sequence[Table]) -> str:
    """Return `page` with the experiment's tables in their places; DataError where a table has none."""
    return fill(page, results.name, provenance(results), tables)
