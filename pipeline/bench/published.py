"""What a bench leaves for readers: docs/performance/NAME.json, and its tables in docs/performance.md."""

from pathlib import Path
from typing import Any

import msgspec

from pipeline.bench.surroundings import Report
from pipeline.page import Table, fill, write_document


def write_report(report: Report, folder: Path) -> Path:
    """Write the JSON into `folder`; return its path."""
    return write_document(report, report["bench"], folder)


def read_report(path: Path) -> Report:
    report: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return report


def provenance(report: Report) -> str:
    """Return the line that stands above a bench's tables."""
    python, load = report["versions"]["python"], report["load_before"]
    return (
        f"`{report['command']}` at {report['commit']}, {report['date']}, {report['cpus']} cores, Python {python}; "
        f"load {load:.2f} before."
    )


def insert(page: str, report: Report, tables: list[Table]) -> str:
    """Return `page` with the bench's tables in their places; DataError where a table has none."""
    return fill(page, report["bench"], provenance(report), tables)
