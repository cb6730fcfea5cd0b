"""Quality by calendar quarter, from the rows alone."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.experiments.decay.retrain import NEVER
from pipeline.experiments.summary import Row, select
from pipeline.page import Table

ALL = "all"


class Pair(NamedTuple):
    """A quarter under both policies."""

    quarter: str
    never: Row
    again: Row


def tables(rows: Sequence[Row]) -> list[Table]:
    """`quarters`: a row a quarter, both policies side by side; `all` over the whole test part."""
    header = ["stream", "quarter", "nodes", "spam", "AUROC, never retrained", "AUROC, retrained", "AP, never retrained",
              "AP, retrained"]  # fmt: skip
    cells = [
        [str(data), quarter, *_counts(never), *(_text(row, name) for name in ("auroc", "ap") for row in (never, again))]
        for data in streams(rows)
        for quarter, never, again in pairs(rows, data)
    ]
    return [Table("quarters", header, cells)]


def streams(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row.key["data"]) for row in rows))


def pairs(rows: Sequence[Row], data: str) -> list[Pair]:
    """Return a stream's quarters in order of time, `all` last."""
    of_stream = select(rows, data=data)
    found = []
    for never in select(of_stream, policy=NEVER):
        quarter = str(never.key["quarter"])
        (again,) = [row for row in select(of_stream, quarter=quarter) if row.key["policy"] != NEVER]
        found.append(Pair(quarter, never, again))
    return sorted(found, key=lambda pair: (pair.quarter == ALL, pair.quarter))


def _counts(row: Row) -> list[str]:
    count, spam = row.figures["count"].mean, row.figures["spam"].mean
    return [f"{count:,.0f}", f"{spam / count:.1%}"]


def _text(row: Row, name: str) -> str:
    return row.figures[name].text() if name in row.figures else "-"
