"""A network of ratings as events: users are nodes, every rating is an edge, and the rated user is scored again.

    6,2,4,1289241911.72836        rater, ratee, rating -10 to 10 but not 0, unix seconds; in time order, a pair once
    215,1                         user, label: 1 good, -1 bad; in a second file, and without a time

What the application would have sent, in this order, at the time of a rating:

    node    each of the two users who is new: scored as a newcomer
    edge    trust or distrust, by the sign        rater -> ratee: the ratee's list holds those who rated it so
    edge    gave_trust or gave_distrust           ratee -> rater: the rater's list holds those whom it rated so
    score   the ratee, on the graph with the new edges

A node event says nothing of the user but its time; counts and recency of ratings are the graph's arrival channels, so
no event holds what was not yet known. A verdict falls when a user's ratings have been looked at: the label comes
`label_delay_seconds` after the last rating that the user received (gave, if nobody rated it).
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DataError


@dataclass(frozen=True)
class RatingTable:
    """N ratings in time order, and the L labelled users in the order of their file."""

    rater: list[str]  # N
    ratee: list[str]  # N
    rating: npt.NDArray[np.int8]  # (N,) -10 to 10, never 0
    ts: npt.NDArray[np.float64]  # (N,) seconds since the epoch, never falling
    labels: dict[str, int]  # L: user -> 1 spam, 0 not; every one of them rates or is rated

    def __len__(self) -> int:
        return len(self.ts)


def read_network(ratings: Path, labels: Path) -> RatingTable:
    """Read both files; DataError names the file, the line and what was expected there."""
    rows: list[tuple[str, str, int, float]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in _numbered_lines(ratings):
        row = _rating(f"{ratings} line {number}", line)
        rater, ratee, _, ts = row
        if rows and ts < rows[-1][3]:
            problem = f"time {ts} after {rows[-1][3]}, expected time order; sort the file by its fourth column"
            raise DataError(f"{ratings} line {number}: {problem}")
        first = seen.setdefault((rater, ratee), number)
        if first != number:
            problem = f"{rater!r} rated {ratee!r} on line {first} already, expected one rating a pair; remove one"
            raise DataError(f"{ratings} line {number}: {problem}")
        rows.append(row)
    raters, ratees, values, times = map(list, zip(*rows, strict=True))
    users = {*raters, *ratees}
    return RatingTable(raters, ratees, np.array(values, np.int8), np.array(times), _labels(labels, users))


def network_events(table: RatingTable, label_delay_seconds: float) -> Iterator[bytes]:
    """Yield the events of every rating, and the labels in time order between them; at equal times ratings go first."""
    if not 0 <= label_delay_seconds < math.inf:
        raise ConfigError(f"label delay is {label_delay_seconds:g} seconds: expected 0 or more, for example '30d'")
    encode = msgspec.json.Encoder().encode
    due = _label_events(table, label_delay_seconds)
    known: set[str] = set()
    waiting = 0  # index of the next label in `due`
    for i, ts in enumerate(table.ts.tolist()):
        while waiting < len(due) and due[waiting]["ts"] < ts:
            yield encode(due[waiting])
            waiting += 1
        for event in _rating_events(table.rater[i], table.ratee[i], int(table.rating[i]), ts, known):
            yield encode(event)
    yield from map(encode, due[waiting:])


def network_summary(table: RatingTable) -> dict[str, Any]:
    """What an import tells about the two files."""
    return {
        "ratings": len(table),
        "users": len({*table.rater, *table.ratee}),
        "distrust_share": round(float((table.rating < 0).mean()), 4),
        "labelled_users": len(table.labels),
        "spam_share": round(sum(table.labels.values()) / max(1, len(table.labels)), 4),
        "first_day": datetime.fromtimestamp(float(table.ts[0]), UTC).date().isoformat(),
        "last_day": datetime.fromtimestamp(float(table.ts[-1]), UTC).date().isoformat(),
    }


def _rating_events(rater: str, ratee: str, rating: int, ts: float, known: set[str]) -> Iterator[dict[str, Any]]:
    for user in (rater, ratee):
        if user not in known:
            known.add(user)
            yield {"type": "node", "id": user, "ts": ts}
    relation = "trust" if rating > 0 else "distrust"
    yield {"type": "edge", "relation": relation, "src": rater, "dst": ratee, "ts": ts}
    yield {"type": "edge", "relation": f"gave_{relation}", "src": ratee, "dst": rater, "ts": ts}
    yield {"type": "score", "id": ratee, "ts": ts}


def _label_events(table: RatingTable, delay_seconds: float) -> list[dict[str, Any]]:
    """Return the label events in time order; equal times keep the order of the label file."""
    times = table.ts.tolist()
    last = dict(zip(table.rater, times, strict=True)) | dict(zip(table.ratee, times, strict=True))
    events = [{"type": "label", "id": u, "label": v, "ts": last[u] + delay_seconds} for u, v in table.labels.items()]
    return sorted(events, key=lambda event: event["ts"])


def _rating(place: str, line: str) -> tuple[str, str, int, float]:
    fields = line.split(",")
    if len(fields) != 4 or not (fields[0] and fields[1]):
        raise DataError(f"{place}: {line!r:.80}, expected rater,ratee,rating,unix seconds")
    if fields[0] == fields[1]:
        raise DataError(f"{place}: {fields[0]!r} rates itself; remove the line")
    if fields[2] not in _RATINGS:
        raise DataError(f"{place}: rating is {fields[2]!r:.80}, expected a whole number from -10 to 10 but not 0")
    try:
        ts = float(fields[3])
    except ValueError:
        ts = math.nan
    if not math.isfinite(ts):
        raise DataError(f"{place}: time is {fields[3]!r:.80}, expected unix seconds like 1289241911.72836")
    return fields[0], fields[1], _RATINGS[fields[2]], ts


def _labels(path: Path, users: set[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in _numbered_lines(path):
        user, _, label = line.partition(",")
        if not user or label not in _VERDICTS:
            raise DataError(f"{path} line {number}: {line!r:.80}, expected user,label with label 1 (good) or -1 (bad)")
        if user not in users:
            raise DataError(f"{path} line {number}: user {user!r} neither rates nor is rated; remove the line")
        if user in labels:
            raise DataError(f"{path} line {number}: user {user!r} is labelled again; remove one of the lines")
        labels[user] = _VERDICTS[label]
    return labels


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line), unpacked if the first bytes say gzip, whatever the name is."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        lines = [line.decode() for line in raw.splitlines()]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; expected lines of CSV, plain text or gzip") from None
    if not lines:
        raise DataError(f"{path} is empty: expected a line of CSV for each rating or label")
    return enumerate(lines, start=1)


_RATINGS = {str(rating): rating for rating in range(-10, 11) if rating != 0}
_VERDICTS = {"1": 0, "-1": 1}
