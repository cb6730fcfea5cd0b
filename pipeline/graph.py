"""The graph: rows, their memberships, and the counters of every list; turns events into the operation log.

    rows    (N,) ROW    one present node each; the index is the node's row
    lists   (L,) LIST   what one relation averages over: a group's members, or one node's neighbours
    links   (K,) LINK   "this row stands in that list"; chained by list, oldest first, and by row
    owner   (N, R)      the list that a row reads for each relation, -1 none
    names   row <-> id, list <-> group key

Invariants, each tested against a slow twin after every kind of event:
  - a group relation's list holds all present rows with its key, and they all own it;
    an edge relation's list is owned by one row and holds its neighbours
  - a link has entered (its row counts in the list's sums and counters) just if its row is live;
    a placeholder, named by an edge or a label before its own event, stands in lists but counts for nothing
  - a list without links is forgotten, counters and all; rows and lists free at the end of a batch are used again
  - "now" is the watermark, the largest event time so far: it never runs backwards, so no counter does

Costs: a node event O(R), a removal O(R) and now and then O(members) where a half-life must be summed anew, an edge
O(fewer of the two ends' links). Memory a node: 40 bytes, 40 a link, 4 R for owner, 4 a deviating channel, and its id;
a list: 72 bytes + 8 a counter, and its key. `ttl` and `max_neighbours` bound them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.events import RETRACT, EventBatch
from pipeline.graph_kernel import run
from pipeline.graph_state import (
    ABSENT,
    LINK,
    LIST,
    LIST_ARRAYS,
    LIVE,
    META,
    NEW_LIST,
    ROW,
    ROW_ARRAYS,
    Batch,
    Result,
    Rules,
    State,
)
from pipeline.names import Names
from pipeline.operations import OPERATION, Operations
from pipeline.room import with_room
from pipeline.schema import Schema

NO_ROWS = np.zeros(0, np.int32)


class Members(NamedTuple):
    """The members of a list, the newest first."""

    row: npt.NDArray[np.int64]  # (M,)
    ts: npt.NDArray[np.float64]  # (M,) the age that a half-life weighs: the node's, or the edge's
    label: npt.NDArray[np.int8]  # (M,) 1 spam, 0 not, -1 not judged


@dataclass
class Applied:
    """What a micro-batch did: the operation log, and its B entries (a node each, in order)."""

    operations: Operations
    outcome: npt.NDArray[np.uint8]  # (n,) per event: APPLIED, DUPLICATE, UNKNOWN, EXPIRED
    entry_event: npt.NDArray[np.int32]  # (B,) the event that made the entry
    entry_row: npt.NDArray[np.int32]  # (B,)
    previous: npt.NDArray[np.int32]  # (B,) where the row's values were before: a row of the store, or ~entry
    channels: npt.NDArray[np.float32]  # (B, G) arrival, label, deviation


class Graph:
    """One shard's graph. `apply` is the only way in."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules = _rules(schema)
        relations, levels = len(schema.relations), len(schema.deviating)
        arrivals, labels = len(schema.arrival_half_lives), len(schema.label_half_lives)
        self._state = State(
            rows=np.zeros(0, ROW), lists=np.zeros(0, LIST), links=np.zeros(0, LINK),
            owner=np.zeros((0, relations), np.int32), levels=np.zeros((0, levels), np.float32),
            level_sums=np.zeros((0, levels)), arrivals=np.zeros((0, arrivals)), labelled=np.zeros((0, labels)),
            spam=np.zeros((0, labels)), meta=np.zeros(1, META), free_lists=np.zeros(0, np.int32),
            idle_rows=np.zeros(0, np.int32), idle_lists=np.zeros(0, np.int32),
        )  # fmt: skip
        self._state.meta["watermark"] = -np.inf
        for end in ("oldest", "newest", "free_link"):
            self._state.meta[end] = -1
        self._ids = Names()
        self._keys = [Names() for _ in schema.groups]
        self._free_rows: list[int] = []
        self._log = np.zeros(1024, OPERATION)

    def apply(self, events: EventBatch) -> Applied:
        """Apply `events` in order, as if one at a time."""
        batch = self._numbers(events)
        meta = self._state.meta[0]
        meta["entries"], meta["operations"] = 0, 0
        n, width = len(events), len(self._schema.channel_names) - len(self._schema.own_channels)
        result = Result(
            outcome=np.zeros(n, np.uint8), log=self._log, entry_event=np.zeros(n, np.int32),
            previous=np.zeros(n, np.int32), channels=np.zeros((n, width), np.float32), last=np.zeros(n, np.uint8),
        )  # fmt: skip
        done = run(self._state, self._rules, batch, result, 0)
        while done < n:
            self._log = np.concatenate([self._log, np.zeros(int(meta["wanted"]), OPERATION)])
            result = result._replace(log=self._log)
            done = run(self._state, self._rules, batch, result, done)
        return self._finish(batch, result)

    def rows_of(self, ids: list[str]) -> list[int]:
        """Return each id's row, -1 where it is not present."""
        return [self._ids.index_of(name) for name in ids]

    def lists_of(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the list that each row reads for every relation, -1 none.  # (B, R)"""
        return self._state.owner.take(rows, axis=0)

    def group_keys(self, group: int, lists: list[int]) -> list[str | None]:
        """Return the key of each list of a group relation; None for -1, and for a list that is forgotten."""
        return self._keys[group].names_of(lists)

    def members_of(self, own: int) -> Members:
        """Return who stands in a list and counts; O(members), for people who ask, not for scoring."""
        links, found = self._state.links, []
        entered, before = links["entered"], links["prev"]
        link = int(self._state.lists["last"][own])
        while link >= 0:
            if entered[link]:
                found.append(link)
            link = int(before[link])
        rows = links["row"][found].astype(np.int64)
        return Members(rows, links["ts"][found], self._state.rows["label"][rows])

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of present rows."""
        return [name for name in self._ids.names_of(rows.tolist()) if name is not None]

    def is_live(self, row: int) -> bool:
        return row >= 0 and bool(self._state.rows["state"][row] == LIVE)

    @property
    def watermark(self) -> float:
        """The largest event time so far; -inf before the first event."""
        return float(self._state.meta["watermark"][0])

    @property
    def row_count(self) -> int:
        return len(self._ids)

    @property
    def list_count(self) -> int:
        return len(self._state.lists) - int(self._state.meta["free_lists"][0])

    @property
    def expired_count(self) -> int:
        return int(self._state.meta["expired"][0])

    @property
    def row_capacity(self) -> int:
        return len(self._state.rows)

    @property
    def list_capacity(self) -> int:
        return len(self._state.lists)

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part, as allocated; names are an estimate."""
        state = self._state
        rows = state.rows.nbytes + state.owner.nbytes + state.levels.nbytes + state.idle_rows.nbytes
        lists = sum(getattr(state, name).nbytes for name in (*LIST_ARRAYS, "free_lists", "idle_lists"))
        names = self._ids.memory_bytes() + sum(keys.memory_bytes() for keys in self._keys)
        return {"rows": rows, "links": state.links.nbytes, "lists": lists, "names": names}

    # -- state on disk --

    def _rows_used(self) -> int:
        """Return after which row no name has one."""
        return int(self._ids.indices().max(initial=-1)) + 1

    def _lists_used(self) -> int:
        """Return after which list all are free."""
        state = self._state
        used = np.ones(self.list_capacity, np.bool_)
        used[state.free_lists[: int(state.meta["free_lists"][0])]] = False
        return int(np.flatnonzero(used).max(initial=-1)) + 1

    def export(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything the graph remembers as plain arrays (views: copy or write them before the next batch).

        Of rows and lists only those that were ever in use; `idle_rows` and `free_lists` tell how many there may be.
        """
        used = dict.fromkeys(ROW_ARRAYS, self._rows_used()) | dict.fromkeys(LIST_ARRAYS, self._lists_used())
        arrays = {f"graph.{name}": array[: used.get(name)] for name, array in self._state._asdict().items()}
        arrays |= self._ids.export("graph.ids")
        for g, keys in enumerate(self._keys):
            arrays |= keys.export(f"graph.keys{g}")
        return arrays

    def restore(self, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take up the state that `export` gave."""
        state = {name: _as_ours(arrays[f"graph.{name}"], ours) for name, ours in self._state._asdict().items()}
        for names, room in zip((ROW_ARRAYS, LIST_ARRAYS), capacities(arrays), strict=True):
            state |= {name: with_room(state[name], room) for name in names}
        state["lists"][len(arrays["graph.lists"]) :] = NEW_LIST
        self._state = State(**state)
        self._ids = Names.restore(arrays, "graph.ids")
        self._keys = [Names.restore(arrays, f"graph.keys{g}") for g in range(len(self._keys))]
        used = np.zeros(self.row_capacity, np.bool_)
        used[self._ids.indices()] = True
        self._free_rows = np.flatnonzero(~used)[::-1].tolist()

    # -- names to numbers --

    def _numbers(self, events: EventBatch) -> Batch:
        """Give every name a row or a list, new ones too; those that come to nothing are released afterwards."""
        self._reserve(events)
        return Batch(
            kind=events.kind,
            row=self._rows(events.id),
            ts=self._times(events),
            label=events.label,
            group_lists=self._group_lists(events),
            levels=np.ascontiguousarray(events.features[:, self._schema.deviating]),
            edge_start=_starts(events.edge_event, len(events)),
            edge_relation=np.ascontiguousarray(events.edge_relation),
            edge_row=self._rows(events.edge_other),
        )

    def _times(self, events: EventBatch) -> npt.NDArray[np.float64]:
        """Return the events' times; a retract has none and takes the graph's own."""
        retracts = events.kind == RETRACT
        return np.where(retracts, self.watermark, events.ts) if retracts.any() else events.ts

    def _rows(self, ids: list[str]) -> npt.NDArray[np.int32]:
        if not ids:
            return NO_ROWS
        rows, new = self._ids.intern(ids, lambda: self._free_rows)
        if new:
            self._state.owner[new] = -1
            self._state.rows[new] = np.array((0, 0, -1, -1, -1, -1, ABSENT, -1, 0), ROW)
            self._note_idle(new, "rows")
        return rows

    def _group_lists(self, events: EventBatch) -> npt.NDArray[np.int32]:
        lists = np.full((len(self._schema.groups), len(events)), -1, np.int32)
        meta = self._state.meta
        for g, (relation, _) in enumerate(self._schema.groups):
            lists[g], new = self._keys[g].intern(events.keys[g], partial(self._top_of_free_lists, len(events)))
            if new:
                meta["free_lists"] -= len(new)
                self._state.lists["relation"][new] = relation
                self._note_idle(new, "lists")
        return lists

    def _top_of_free_lists(self, most: int) -> list[int]:
        """Return the lists that are free, those last that are to be used first; at most `most` of them."""
        free = int(self._state.meta["free_lists"][0])
        top: list[int] = self._state.free_lists[max(0, free - most) : free].tolist()
        return top

    def _note_idle(self, new: list[int], what: str) -> None:
        """Until an event uses them, new rows and lists are as free as those that were left."""
        meta, buffer = self._state.meta, getattr(self._state, f"idle_{what}")
        start = int(meta[f"idle_{what}"][0])
        buffer[start : start + len(new)] = new
        meta[f"idle_{what}"] += len(new)
        getattr(self._state, what)["idle"][new] = 1

    # -- room --

    def _reserve(self, events: EventBatch) -> None:
        """Make room for all that `events` could add at most."""
        n, edges = len(events), len(events.edge_other)
        meta = self._state.meta[0]
        if len(self._free_rows) < n + edges:
            self._grow_rows(n + edges)
        lists = n * len(self._schema.groups) + 2 * edges
        if meta["free_lists"] < lists:
            self._grow_lists(lists)
        if len(self._state.links) < meta["links_used"] + lists:
            more = max(lists, len(self._state.links), 1024)
            self._state = self._state._replace(links=_longer(self._state.links, more))

    def _grow_rows(self, wanted: int) -> None:
        old = self.row_capacity
        more = max(wanted, old, 1024)
        state = self._state
        self._state = state._replace(
            **{name: _longer(getattr(state, name), more) for name in (*ROW_ARRAYS, "idle_rows")}
        )
        self._free_rows = list(range(old + more - 1, old - 1, -1)) + self._free_rows

    def _grow_lists(self, wanted: int) -> None:
        old = self.list_capacity
        more = max(wanted, old, 1024)
        grown = {name: _longer(getattr(self._state, name), more) for name in (*LIST_ARRAYS, "free_lists", "idle_lists")}
        grown["lists"][old:] = NEW_LIST
        free = int(self._state.meta["free_lists"][0])
        grown["free_lists"][free : free + more] = np.arange(old + more - 1, old - 1, -1)
        self._state = self._state._replace(**grown)
        self._state.meta["free_lists"] += more

    # -- after the loop --

    def _finish(self, batch: Batch, result: Result) -> Applied:
        entries = int(self._state.meta["entries"][0])
        entry_event = result.entry_event[:entries]
        entry_row = batch.row[entry_event]
        kept = np.flatnonzero(result.last[:entries])
        self._release()
        operations = Operations(
            log=self._log[: int(self._state.meta["operations"][0])].copy(),
            entries=entries,
            relations=len(self._schema.relations),
            list_capacity=self.list_capacity,
            row_capacity=self.row_capacity,
            kept_entry=kept.astype(np.int32),
            kept_row=entry_row[kept],
        )
        return Applied(
            operations, result.outcome, entry_event, entry_row, result.previous[:entries], result.channels[:entries]
        )

    def _release(self) -> None:
        """Free the rows and lists that are idle still, with their names."""
        state, meta = self._state, self._state.meta[0]
        if meta["idle_rows"]:
            gone = state.idle_rows[: meta["idle_rows"]].tolist()
            self._ids.release(gone)
            self._free_rows += gone
            meta["idle_rows"] = 0
        if meta["idle_lists"]:
            gone = state.idle_lists[: meta["idle_lists"]].tolist()
            relations = state.lists["relation"][gone].tolist()
            for relation in set(relations):
                group = self._rules.group_of[relation]
                if group >= 0:
                    self._keys[group].release([own for own, of in zip(gone, relations, strict=True) if of == relation])
            state.free_lists[meta["free_lists"] : meta["free_lists"] + len(gone)] = gone
            meta["free_lists"] += len(gone)
            meta["idle_lists"] = 0


def capacities(arrays: Mapping[str, npt.NDArray[np.generic]]) -> tuple[int, int]:
    """Return for how many rows and how many lists an exported graph has room."""
    return len(arrays["graph.idle_rows"]), len(arrays["graph.free_lists"])


def _starts(event: npt.NDArray[np.int32], events: int) -> npt.NDArray[np.int64]:
    """Return where each event's edges begin, and where the last one's end.  # (m,) ascending -> (events + 1,)"""
    if not len(event):
        return np.zeros(events + 1, np.int64)
    return np.searchsorted(event, np.arange(events + 1)).astype(np.int64)


def _as_ours(array: npt.NDArray[np.generic], ours: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return `array` with the very type of `ours`: one from a file equals it, but numba would compile anew for it."""
    if array.dtype != ours.dtype:
        raise ValueError(f"an array of {array.dtype}, expected {ours.dtype}")
    return array.view(ours.dtype)


def _longer(array: npt.NDArray[np.generic], more: int) -> npt.NDArray[np.generic]:
    return with_room(array, len(array) + more)


def _rules(schema: Schema) -> Rules:
    relations = list(schema.relations.values())
    group_of = np.full(len(relations), -1, np.int64)
    for group, (relation, _) in enumerate(schema.groups):
        group_of[relation] = group
    return Rules(
        half_lives=np.array(schema.half_lives, np.float64),
        directed=np.array([relation.directed for relation in relations], np.bool_),
        max_neighbours=np.array([relation.max_neighbours or 0 for relation in relations], np.int64),
        group_of=group_of,
        arrival_half_lives=np.array(schema.arrival_half_lives, np.float64),
        label_half_lives=np.array(schema.label_half_lives, np.float64),
        prior=schema.labels.prior,
        strength=schema.labels.strength,
        ttl=schema.ttl,
    )
