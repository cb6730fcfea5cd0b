"""Fresher hidden features, to measure what they buy: before a node comes, the last of each of its lists are scored.

A member's hidden features are those of its own arrival; a `score` event computes them anew, from its lists as they are
by then, and the node that comes next reads the mean over the new ones. Only what node events asked for is a sample, so
that all is judged on the same ones.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from pipeline.history import History
from pipeline.log import Record
from pipeline.schema import Schema


def refreshed(schema: Schema, records: Iterable[Record], members: int) -> Iterator[Record]:
    """Yield the records with a `score` event, before each node, for the last `members` of each group that it joins."""
    groups = list(dict.fromkeys(tuple(r.group_by) for r in schema.relations.values() if r.group_by))
    last: dict[tuple[object, ...], deque[str]] = defaultdict(lambda: deque(maxlen=members))
    position = 0
    for record in records:
        event = msgspec.json.decode(record.value)
        for line in [*_scores(event, groups, last), record.value]:
            yield record._replace(position=position, value=line)
            position += 1


def _scores(
    event: dict[str, object], groups: list[tuple[str, ...]], last: dict[tuple[object, ...], deque[str]]
) -> list[bytes]:
    if event["type"] != "node":
        return []
    lists = [last[(names, *(event.get(name) for name in names))] for names in groups]
    wanted = dict.fromkeys(name for members in lists for name in members)
    for members in lists:
        members.append(str(event["id"]))
    return [msgspec.json.encode({"type": "score", "id": name, "ts": event["ts"]}) for name in wanted]


def judge_nodes_alone(history: History) -> None:
    """Leave the samples that node events made: an entry of a `score` event has no values of its own."""
    own = history.raw_until(history.entries)[history.sample_entry, : len(history.schema.own_channels)]
    kept = ~np.isnan(own).all(axis=1)
    for name in ("sample_entry", "truth", "sample_ts", "sample_position"):
        setattr(history, name, getattr(history, name)[kept])
