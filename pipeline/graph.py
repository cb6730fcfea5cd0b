"""The graph: rows, their memberships, and the counters of every list; turns events into the operation log.

    rows    (N,) ROW    one present node each; the index is the node's row
    lists   (L,) LIST   what one relation averages over: a group's members, or one node's neighbours
    links   (K,) LINK   "this row stands in that list"; chained by list, oldest first, and by row
    owner   (N, R)      the list that a row reads for each relation, -1 none
    names   row <-> id, list <-> group key

Invariants, each tested against a slow twin after every kind of event:
  - a group relation's list holds all present rows with its key, and they all own it;
    an edge relation's list is owned by one row and holds its neighbours
  - a link has entered (its row counts in the list's sums and counters) just while its row is live;
    a placeholder, named by an edge or a label before its own event, stands in lists but counts for nothing
  - a list without links is forgotten, counters and all; rows and lists free at the end of a batch are used again
  - "now" is the watermark, the largest event time so far: it never runs backwards, so no counter does

Costs: a node event O(R), a removal O(R) and now and then O(members) where a half-life must be summed anew, an edge
O(fewer of the two ends' links). Memory a node: 43 bytes, 20 a link (32 where there are edges), 4 R for owner, 4 a
deviating channel, and its id; a list: 59 bytes, 4 a counter, 8 a deviating channel, its key, and 16 where labels come.
`ttl` and `max_neighbours` bound them all.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import direct
from pipeline.events import EventBatch
from pipeline.graph_kernel import NO_ROOM, Known, run
from pipeline.graph_names import size_of
from pipeline.graph_state import (
    COUNTS,
    EDGE_LINK,
    JUDGED,
    LINK,
    LINK_ARRAYS,
    LIST,
    LIST_ARRAYS,
    LIVE,
    META,
    ROW,
    ROW_ARRAYS,
    Batch,
    Result,
    Rules,
    State,
    Targets,
)
from pipeline.instructions import CHANNELS
from pipeline.names import Names
from pipeline.operations import ENTRY, KEPT, OPERATION, Capacity, Operations
from pipeline.room import Room, more_room
from pipeline.schema import Schema

OF_ROWS, OF_LISTS = (*ROW_ARRAYS, "free_rows", "idle_rows"), (*LIST_ARRAYS, "free_lists", "idle_lists")  # grow together
FEW_EVENTS = 512  # a micro-batch of no backlog; room for more is made when they come
Run = Callable[[Known, Batch, Result, int], int]
_run = direct(run)  # `EventBatch` and `Room` see to it that no array is of another type


class Members(NamedTuple):
    """The members of a list, the newest first."""

    row: npt.NDArray[np.int64]  # (M,)
    ts: npt.NDArray[np.float64]  # (M,) the age that a half-life weighs: the node's, or the edge's
    label: npt.NDArray[np.int8]  # (M,) 1 spam, 0 not, -1 not judged


@dataclass(slots=True)
class Applied:
    """What a micro-batch of n events did: the operation log, and its B entries (a node each, in order).

    All that it returns lies where the micro-batch after the next writes: copy what is to stay.
    """

    result: Result
    events: int
    relations: int
    entry_count: int  # B
    target_count: int  # T
    kept_count: int
    operation_count: int
    capacity: Capacity

    @property
    def operations(self) -> Operations:
        return Operations(
            self.result.log[: self.operation_count], self.entry_count, self.relations, self.capacity,
            self.result.kept[: self.kept_count],
        )  # fmt: skip

    @property
    def outcome(self) -> npt.NDArray[np.uint8]:
        """APPLIED, DUPLICATE, UNKNOWN or EXPIRED, per event.  # (n,)"""
        outcome: npt.NDArray[np.uint8] = self.result.outcome[: self.events]
        return outcome

    @property
    def entries(self) -> npt.NDArray[np.void]:
        """ENTRY  # (B,)"""
        return self.result.entries[: self.entry_count]

    @property
    def channels(self) -> npt.NDArray[np.float32]:
        """Arrival, label and deviation channels.  # (B, G)"""
        channels: npt.NDArray[np.float32] = self.result.channels[: self.entry_count]
        return channels


class Graph:
    """One shard's graph. `apply` is the only way in."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        relations, levels = len(schema.relations), len(schema.deviating)
        arrivals, labels = len(schema.arrival_half_lives), len(schema.label_half_lives)
        self._rooms = {
            "rows": Room(ROW), "lists": Room(LIST), "links": Room(LINK), "edge_links": Room(EDGE_LINK),
            "owner": Room(np.int32, relations), "levels": Room(np.float32, levels),
            "level_sums": Room(np.float64, levels),
            "arrivals": Room(np.float32, arrivals), "judged": Room(JUDGED), "labelled": Room(np.float32, labels),
            "spam": Room(np.float32, labels), "free_rows": Room(np.int32), "free_lists": Room(np.int32),
            "idle_rows": Room(np.int32), "idle_lists": Room(np.int32),
        }  # fmt: skip
        meta = np.zeros(1, META)
        meta["watermark"] = -np.inf
        for end in ("oldest", "newest", "free_link"):
            meta[end] = -1
        self.capacity = Capacity(0, 0)
        self._ids, self._keys = Names(), Names()  # of rows; of lists, with the relation for their space
        self._known = Known(self._state_of(meta), _rules(schema), self._ids.table, self._keys.table)
        self._result, self._result_before = (
            self._result_of(FEW_EVENTS, 0, np.zeros(1024, OPERATION)) for _ in range(2)
        )

    def apply(self, events: EventBatch, run: Run = _run) -> Applied:
        """Apply `events` in order, as if one at a time.

        run   calls `graph_kernel.run`, and may do more when the last event is applied
        """
        n, m = len(events.kind), len(events.edge_event)
        self._result, self._result_before = room, _ = self._result_before, self._result
        if n > len(room.row) or m > len(room.edge_row):
            self._result = self._result_of(more_than(len(room.row), n), more_than(len(room.edge_row), m), room.log)
        done = NO_ROOM
        while done < n:
            done = run(self._known, events.columns, self._result, max(done, 0))
            if done == NO_ROOM:
                self._reserve(events.columns)
            elif done < n:
                longer = np.zeros(int(self._result.counts["wanted"][0]), OPERATION)
                self._result = self._result._replace(log=np.concatenate([self._result.log, longer]))
        entries, targets, kept, operations, _ = self._result.counts.item()
        relations = len(self._known.rules.group_of)
        return Applied(self._result, n, relations, entries, targets, kept, operations, self.capacity)

    def _result_of(self, n: int, m: int, log: npt.NDArray[np.void]) -> Result:
        """Return room for what `n` events with `m` edges give."""
        groups, width = len(self._schema.groups), len(self._schema.channel_names) - len(self._schema.own_channels)
        targets = Targets(*(np.empty(n, dtype) for dtype in (np.int64, np.int64, np.int32)))
        return Result(
            tags=np.empty(max(n, m), np.int64), row=np.empty(n, np.int32), group_lists=np.empty((groups, n), np.int32),
            edge_start=np.empty(n + 1, np.int64), edge_row=np.empty(m, np.int32),
            outcome=np.empty(n, np.uint8), counts=np.zeros(1, COUNTS), log=log, entries=np.empty(n, ENTRY),
            channels=np.empty((n, width), np.float32), targets=targets, kept=np.empty(n, KEPT),
            left=np.zeros((2, len(self._known.rules.label_rates))),
        )  # fmt: skip

    @property
    def _state(self) -> State:
        return self._known.state

    def rows_of(self, ids: list[str]) -> list[int]:
        """Return each id's row, -1 where it is not present."""
        return [self._ids.index_of(name) for name in ids]

    def lists_of(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return the list that each row reads for every relation, -1 none.  # (B, R)"""
        return self._state.owner.take(rows, axis=0)

    def group_keys(self, lists: list[int]) -> list[str | None]:
        """Return the key of each list; None for -1, and for a list that has none or is forgotten."""
        return self._keys.names_of(lists)

    def members_of(self, own: int) -> Members:
        """Return who stands in a list and counts; O(members), for people who ask, not for scoring."""
        state, found = self._state, []
        link = int(state.lists["last"][own])
        while link >= 0:
            found.append(link)
            link = int(state.links["prev"][link])
        rows = state.links["row"][found].astype(np.int64)
        of_edge = self._known.rules.group_of[state.lists["relation"][own]] < 0
        ts = state.edge_links["ts"][found] if of_edge else state.rows["ts"][rows]
        live = state.rows["state"][rows] == LIVE
        return Members(rows[live], ts[live], state.rows["label"][rows][live])

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of present rows."""
        return [name for name in self._ids.names_of(rows) if name is not None]

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
        meta = self._state.meta[0]
        return int(meta["lists_used"] - meta["free_lists"])

    @property
    def expired_count(self) -> int:
        return int(self._state.meta["expired"][0])

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part, as allocated."""
        state = self._state
        rows = sum(getattr(state, name).nbytes for name in OF_ROWS)
        lists = sum(getattr(state, name).nbytes for name in OF_LISTS)
        names = self._ids.memory_bytes() + self._keys.memory_bytes()
        edge_links = state.edge_links.nbytes if self._schema.has_edges else 0
        return {"rows": rows, "links": state.links.nbytes + edge_links, "lists": lists, "names": names}

    # -- state on disk --

    def export(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything the graph remembers as plain arrays (views: copy or write them before the next batch).

        Of each array what was ever in use; `graph.capacity` tells for how many rows and lists there is room.
        """
        state, meta = self._state, self._state.meta[0]
        used = dict.fromkeys(ROW_ARRAYS, int(meta["rows_used"])) | dict.fromkeys(LIST_ARRAYS, int(meta["lists_used"]))
        used |= {"free_rows": int(meta["free_rows"]), "free_lists": int(meta["free_lists"])}
        links = int(meta["links_used"])
        used |= {"links": links, "edge_links": links * self._schema.has_edges, "idle_rows": 0, "idle_lists": 0}
        arrays = {f"graph.{name}": array[: used.get(name)] for name, array in state._asdict().items()}
        arrays["graph.capacity"] = np.array([*self.capacity, len(state.links)])
        return arrays | self._ids.export("graph.ids") | self._keys.export("graph.keys")

    def restore(self, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take up the state that `export` gave."""
        rows, lists, links = arrays["graph.capacity"].tolist()
        wanted = dict.fromkeys(OF_ROWS, rows)
        wanted |= dict.fromkeys(OF_LISTS, lists)
        wanted |= dict.fromkeys(LINK_ARRAYS, links)
        self._rooms = {
            name: Room.of(arrays[f"graph.{name}"], wanted[name], room.array.dtype) for name, room in self._rooms.items()
        }
        state = self._state_of(Room.of(arrays["graph.meta"], 1, META).array)
        self.capacity = Capacity(rows, lists)
        with ThreadPoolExecutor(1) as beside:
            keys = beside.submit(Names.restore, arrays, "graph.keys", lists)
            self._ids = Names.restore(arrays, "graph.ids", rows)
        self._keys = keys.result()
        self._known = Known(state, self._known.rules, self._ids.table, self._keys.table)

    def _state_of(self, meta: npt.NDArray[np.void]) -> State:
        return State(meta=meta, **{name: room.array for name, room in self._rooms.items()})

    # -- room --

    def _reserve(self, batch: Batch) -> None:
        """Make room for all that `batch` could add at most."""
        n, edges, groups = len(batch.kind), len(batch.edge_event), len(self._schema.groups)
        meta, lists = self._state.meta[0], n * groups + 2 * edges
        if meta["free_rows"] + self.capacity.rows - meta["rows_used"] < n + edges:
            self._grow(OF_ROWS, more_room(self.capacity.rows, n + edges))
        if meta["free_lists"] + self.capacity.lists - meta["lists_used"] < lists:
            self._grow(OF_LISTS, more_room(self.capacity.lists, lists))
        if len(self._state.links) < meta["links_used"] + lists:
            self._grow(LINK_ARRAYS, more_room(len(self._state.links), lists))
        self._ids.reserve(self.capacity.rows, n + edges, size_of(batch.id) + size_of(batch.edge_other))
        self._keys.reserve(self.capacity.lists, n * groups, size_of(batch.keys))
        self._known = self._known._replace(ids=self._ids.table, keys=self._keys.table)

    def _grow(self, arrays: Iterable[str], capacity: int) -> None:
        state = self._state._replace(**{name: self._rooms[name].reserve(capacity).array for name in arrays})
        self._known = self._known._replace(state=state)
        self.capacity = Capacity(len(self._state.rows), len(self._state.lists))


def more_than(room: int, wanted: int) -> int:
    """Return for how many events to have room: twice as many at least, where too few fit, for it is made anew."""
    return room if wanted <= room else max(wanted, 2 * room)


def _rules(schema: Schema) -> Rules:
    relations = list(schema.relations.values())
    group_of = np.full(len(relations), -1, np.int64)
    for group, (relation, _) in enumerate(schema.groups):
        group_of[relation] = group
    return Rules(
        has_edges=schema.has_edges,
        half_lives=np.array(schema.half_lives, np.float64),
        directed=np.array([relation.directed for relation in relations], np.bool_),
        max_neighbours=np.array([relation.max_neighbours or 0 for relation in relations], np.int64),
        group_of=group_of,
        deviating=np.array(schema.deviating, np.int64),
        arrival_rates=_rates(schema, schema.arrival_half_lives),
        label_rates=_rates(schema, schema.label_half_lives),
        prior=float(schema.labels.prior),  # not a whole number's type, whatever the schema says: see `direct`
        strength=float(schema.labels.strength),
        ttl=float(schema.ttl),
    )


def _rates(schema: Schema, half_lives: list[float]) -> npt.NDArray[np.float64]:
    """Return the halvings a second, and zeros up to as many as `fade` takes."""
    most = max(len(schema.arrival_half_lives), len(schema.label_half_lives), 1)
    rates = np.zeros(-(-most // CHANNELS) * CHANNELS)
    rates[: len(half_lives)] = 1.0 / np.array(half_lives)
    return rates
