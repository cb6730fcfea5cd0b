"""What a bench leaves for readers: docs/performance/NAME.json, and its tables in docs/performance.md."""

from pathlib import Path
from typing import Any

import msgspec

from pipeline.bench.surroundings import Report
from pipeline.page import Table, put


def write_report(report: Report, folder: Path) -> Path:
    """Write the JSON into `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report['bench']}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return path


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
    page = put(page, report["bench"], provenance(report))
    for table in tables:
        page = put(page, f"{report['bench']}.{table.name}", table.markdown())
    return page
