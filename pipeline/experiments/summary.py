"""From the records of many seeds to rows: mean and standard deviation of every figure."""

import math
import statistics
from collections.abc import Iterable, Mapping

import msgspec

from pipeline.experiments.run import Key, Record

SEED = "seed"


class Spread(msgspec.Struct, frozen=True):
    """A figure over seeds. The deviation is the sample's (n - 1), 0 for a single seed."""

    mean: float
    sd: float
    n: int

    def text(self, digits: int = 3) -> str:
        return f"{self.mean:.{digits}f}" + (f" ± {self.sd:.{digits}f}" if self.n > 1 else "")


class Row(msgspec.Struct):
    key: Key  # without the seed
    figures: dict[str, Spread]


def summarise(records: Iterable[Record]) -> list[Row]:
    """Return a row for each key but for its seed, in the order in which they first come."""
    groups: dict[bytes, list[Record]] = {}
    for record in records:
        key = {name: value for name, value in record.key.items() if name != SEED}
        groups.setdefault(msgspec.json.encode(key, order="sorted"), []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: list[Record]) -> Row:
    key = {name: value for name, value in group[0].key.items() if name != SEED}
    names = dict.fromkeys(name for record in group for name in record.figures)
    values = {name: _known(record.figures.get(name) for record in group) for name in names}
    return Row(key, {name: _spread(known) for name, known in values.items() if known})


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _spread(values: list[float]) -> Spread:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(round(statistics.fmean(values), 6), round(sd, 6), len(values))


def select(rows: Iterable[Row], **wanted: str | int | float) -> list[Row]:
    """Return the rows whose keys hold all of `wanted`."""
    return [row for row in rows if matches(row.key, wanted)]


def matches(key: Key, wanted: Mapping[str, str | int | float]) -> bool:
    return all(key.get(name) == value for name, value in wanted.items())
