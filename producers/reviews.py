"""Review files as events: every review a node, every verdict a label that comes later.

    201 0 5.0 1 2011-06-08          user product rating label date, separated by blanks or tabs; plain or gzip

    ReviewTable     the file as columns, in the file's order; row i is node `r<i>`, line i + 1 of the file
    review_events   the table as event lines in time order

The file knows days, not times, and its lines are in no order. So `ts` is midnight UTC of the date, and the reviews of
one day are put in an order drawn from a seed: any order would be a guess, a shuffle at least favours no product and no
user. The label (-1 filtered as spam, 1 recommended) becomes a label event `label_delay_seconds` after its review.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DataError

COLUMNS = ("user", "product", "rating", "label", "date")


@dataclass(frozen=True)
class ReviewTable:
    """N reviews in the file's order."""

    user: npt.NDArray[np.object_]  # (N,) str
    product: npt.NDArray[np.object_]  # (N,) str
    stars: npt.NDArray[np.int8]  # (N,) 1 to 5
    label: npt.NDArray[np.int8]  # (N,) 1 spam, 0 not
    ts: npt.NDArray[np.float64]  # (N,) midnight UTC of the date, seconds since the epoch

    def __len__(self) -> int:
        return len(self.ts)


def read_reviews(path: Path) -> ReviewTable:
    """Read a review file; DataError names the file, the line and what was expected there. Some 3 µs a line."""
    words: list[str] = []  # all columns in one flat list: a list for each line would keep the garbage collector busy
    for i, line in enumerate(_lines(path)):
        row = line.split()
        if len(row) != len(COLUMNS):
            expected = f"expected {len(COLUMNS)}: {' '.join(COLUMNS)}"
            raise DataError(f"{path} line {i + 1}: {len(row)} columns in {line.strip()!r:.80}, {expected}")
        words += row
    if not words:
        raise DataError(f"{path} is empty: expected a review a line: {' '.join(COLUMNS)}")
    user, product, rating, label, date = (words[c :: len(COLUMNS)] for c in range(len(COLUMNS)))
    return ReviewTable(
        user=np.array(user, np.object_),
        product=np.array(product, np.object_),
        stars=np.array(_column(path, "rating", rating, _stars, "a whole number of stars from 1 to 5"), np.int8),
        label=np.array(_column(path, "label", label, _label, "-1 (spam) or 1 (not)"), np.int8),
        ts=np.array(_column(path, "date", date, _midnight, "a day like 2011-06-08"), np.float64),
    )


def review_events(table: ReviewTable, label_delay_seconds: float, seed: int) -> Iterator[bytes]:
    """Yield two events a review, its node and its label, in the order (ts, nodes before labels, order of the reviews).

    Reviews are ordered by date, those of one day by a shuffle that `seed` decides. A label comes
    `label_delay_seconds` after its review, between the reviews of that time; those still due come at the end.
    """
    if not 0 <= label_delay_seconds < math.inf:
        raise ConfigError(f"label delay is {label_delay_seconds:g} seconds: expected 0 or more, for example '30d'")
    order = review_order(table, seed)
    times = table.ts[order]
    # All nodes, then all labels, each part in the order of the reviews: a stable sort by time keeps that among equals.
    timeline = np.argsort(np.concatenate([times, times + label_delay_seconds]), kind="stable")
    encode, n = msgspec.json.Encoder().encode, len(order)
    user, product, stars = table.user.tolist(), table.product.tolist(), table.stars.tolist()
    label, ts, row = table.label.tolist(), table.ts.tolist(), order.tolist()
    for k in timeline.tolist():
        i = row[k % n]
        event: dict[str, Any] = {"type": "node", "id": f"r{i}", "ts": ts[i]}
        if k < n:
            event |= {"user": user[i], "product": product[i], "stars": stars[i]}
        else:
            event |= {"type": "label", "label": label[i], "ts": ts[i] + label_delay_seconds}
        yield encode(event)


def review_order(table: ReviewTable, seed: int) -> npt.NDArray[np.int64]:
    """Return the rows of `table` by date, those of one day shuffled: the same order for the same seed."""
    shuffled = np.random.default_rng(seed).permutation(len(table))
    return shuffled[np.argsort(table.ts[shuffled], kind="stable")]


def review_summary(table: ReviewTable, seed: int) -> dict[str, Any]:
    """What an import tells about the file, and that the order within a day is not the file's."""
    return {
        "reviews": len(table),
        "users": len(set(table.user.tolist())),
        "products": len(set(table.product.tolist())),
        "spam_share": round(float(table.label.mean()), 4),
        "first_day": datetime.fromtimestamp(float(table.ts.min()), UTC).date().isoformat(),
        "last_day": datetime.fromtimestamp(float(table.ts.max()), UTC).date().isoformat(),
        "order_within_a_day": f"unknown to the file; shuffled with seed {seed}",
    }


def _lines(path: Path) -> list[str]:
    """Return the file's lines, unpacked if its first bytes say gzip, whatever its name is."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        return [line.decode() for line in raw.splitlines()]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; expected a review a line, plain text or gzip") from None


def _column(path: Path, name: str, texts: list[str], parse: Callable[[str], float], expected: str) -> list[float]:
    values: list[float] = []
    try:
        for text in texts:
            values.append(parse(text))
    except ValueError:
        i = len(values)
        raise DataError(f"{path} line {i + 1}: {name} is {texts[i]!r:.80}, expected {expected}") from None
    return values


# A column has few different values: each is parsed once.
@lru_cache(maxsize=4096)
def _stars(text: str) -> float:
    stars = float(text)
    if stars not in (1, 2, 3, 4, 5):
        raise ValueError(text)
    return stars


@lru_cache(maxsize=4096)
def _label(text: str) -> float:
    label = int(text)
    if label not in (-1, 1):
        raise ValueError(text)
    return float(label == -1)


@lru_cache(maxsize=65536)
def _midnight(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
