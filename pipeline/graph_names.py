"""Names of the graph, compiled: an event's ids and group keys become rows and lists, and idle ones are freed.

New rows and lists are as good as idle until an event of the batch uses them: those that come to nothing, as a row that
a label for an unknown id named, go back with their names at the end of the batch.
"""

from pipeline.compiled import compiled, inlined
from pipeline.graph_lists import note_idle_list, note_idle_row, take_list
from pipeline.graph_state import ABSENT, Batch, Result, Rules, State
from pipeline.names_kernel import Table, find, go_on, has_slots, hash_all, put, release
from pipeline.texts_kernel import Column, Data


@compiled
def has_room(g: State, ids: Table, keys: Table, batch: Batch) -> bool:
    """Is there room for all that the batch could add at most?"""
    meta = g.meta[0]
    events, edges, groups = len(batch.kind), len(batch.edge_event), len(batch.keys.start)
    lists = events * groups + 2 * edges
    return bool(
        meta.free_rows + len(g.rows) - meta.rows_used >= events + edges
        and meta.free_lists + len(g.lists) - meta.lists_used >= lists
        and len(g.links) >= meta.links_used + lists
        and _fits(ids, events + edges, size_of(batch.id) + size_of(batch.edge_other))
        and _fits(keys, events * groups, size_of(batch.keys))
    )


@compiled
def _fits(table: Table, names: int, size: int) -> bool:
    meta = table.meta[0]
    return bool(has_slots(table, names) and meta.used + size <= len(table.text))


@compiled
def size_of(texts: Column) -> int:
    """Return the bytes of all texts of a column."""
    size, length = 0, texts.length.reshape(-1)
    for i in range(len(length)):
        size += max(int(length[i]), 0)
    return size


@inlined
def number(g: State, rules: Rules, ids: Table, keys: Table, batch: Batch, out: Result) -> None:
    """Give every name of the batch a row or a list."""
    _find_edges(batch, out)
    own, other, key, tags = batch.id, batch.edge_other, batch.keys, out.tags
    hash_all(ids, own.data, own.start, own.length, 0, tags)
    for e in range(len(batch.kind)):
        out.row[e] = _row_of(g, ids, own.data, own.start[e], own.length[e], tags[e])
    hash_all(ids, other.data, other.start, other.length, 0, tags)
    for i in range(len(batch.edge_event)):
        out.edge_row[i] = _row_of(g, ids, other.data, other.start[i], other.length[i], tags[i])
    for relation in range(len(rules.group_of)):
        group = rules.group_of[relation]
        if group >= 0:
            starts, lengths = key.start[group], key.length[group]
            hash_all(keys, key.data, starts, lengths, relation, tags)
            for e in range(len(batch.kind)):
                out.group_lists[group, e] = _list_of(g, keys, key.data, starts[e], lengths[e], relation, tags[e])
    go_on(ids, len(batch.kind) + len(batch.edge_event))
    go_on(keys, len(batch.kind) * len(key.start))


@inlined
def _find_edges(batch: Batch, out: Result) -> None:
    """Note where each event's edges begin, and where the last one's end."""
    i = 0
    for e in range(len(batch.kind)):
        out.edge_start[e] = i
        while i < len(batch.edge_event) and batch.edge_event[i] == e:
            i += 1
    out.edge_start[len(batch.kind)] = i


@inlined
def _row_of(g: State, ids: Table, data: Data, start: int, length: int, tag: int) -> int:
    slot = find(ids, data, start, length, 0, tag)
    if slot >= 0:
        return int(ids.slots[slot].index)
    row = _take_row(g)
    put(ids, ~slot, row, data, start, length, 0, tag)
    it = g.rows[row]
    it.ts, it.label_ts, it.links, it.older, it.newer, it.fresh = 0.0, 0.0, -1, -1, -1, -1
    it.state, it.label = ABSENT, -1
    for r in range(g.owner.shape[1]):
        g.owner[row, r] = -1
    note_idle_row(g, row)
    return int(row)


@inlined
def _take_row(g: State) -> int:
    meta = g.meta[0]
    if meta.free_rows > 0:
        meta.free_rows -= 1
        return int(g.free_rows[meta.free_rows])
    meta.rows_used += 1
    return int(meta.rows_used - 1)


@inlined
def _list_of(g: State, keys: Table, data: Data, start: int, length: int, relation: int, tag: int) -> int:
    if length < 0:
        return -1
    slot = find(keys, data, start, length, relation, tag)
    if slot >= 0:
        return int(keys.slots[slot].index)
    own = take_list(g)
    put(keys, ~slot, own, data, start, length, relation, tag)
    g.lists[own].relation = relation
    note_idle_list(g, own)
    return int(own)


@inlined
def free_idle(g: State, ids: Table, keys: Table) -> None:
    """Free the idle rows and lists that nothing uses, with their names."""
    meta = g.meta[0]
    for i in range(meta.idle_rows):
        row = g.idle_rows[i]
        g.rows[row].idle = 0
        if g.rows[row].state == ABSENT:
            release(ids, row)
            g.free_rows[meta.free_rows] = row
            meta.free_rows += 1
    for i in range(meta.idle_lists):
        own = g.idle_lists[i]
        g.lists[own].idle = 0
        if g.lists[own].links == 0:
            release(keys, own)
            g.free_lists[meta.free_lists] = own
            meta.free_lists += 1
    meta.idle_rows, meta.idle_lists = 0, 0
