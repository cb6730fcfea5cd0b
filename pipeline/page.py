"""Tables, and pages that are written by hand around them.

Each table of a page stands between two comments and is made from committed JSON alone, so a test can make it again and
compare:

    <!-- graphs.accuracy -->
    | data | method | F1-micro |
    ...
    <!-- end -->
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.errors import DataError


class Table(NamedTuple):
    name: str
    header: Sequence[str]
    cells: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def text(self) -> str:
        """Return it with aligned columns, for a terminal."""
        lines = [list(self.header), *map(list, self.cells)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_text(tables: Sequence[Table]) -> str:
    """Return the tables that have any line, each under its name."""
    return "\n\n".join(f"{table.name}\n{table.text()}" for table in tables if table.cells)


def write_document(document: Any, name: str, folder: Path) -> Path:
    """Write `document` into `folder` as NAME.json; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return path


def fill(page: str, name: str, provenance: str, tables: Sequence[Table]) -> str:
    """Return `page` with the provenance and the tables of `name` in their places; DataError where one is missing."""
    page = _put(page, name, provenance)
    for table in tables:
        page = _put(page, f"{name}.{table.name}", table.markdown())
    return page


def _put(page: str, place: str, text: str) -> str:
    pattern = re.compile(rf"(<!-- {re.escape(place)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise DataError(f"the page has no place for {place}: write <!-- {place} --> and <!-- end --> where it belongs")
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page, count=1)
