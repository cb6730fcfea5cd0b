"""The compiled loop of stage A: events, one by one, into operations, counters and channels.

The loop returns before an event for which the operation log might be too short, and is called again with a longer one:
a step first reckons its worst case, then acts, so it never stops midway.
"""

from typing import NamedTuple

from pipeline.compiled import compiled, inlined
from pipeline.graph_lists import (
    add_link,
    arrival_channels,
    count_label,
    drop_list,
    enter,
    find_link,
    fits,
    label_channels,
    leave,
    note_idle_row,
    push,
    remove_link,
    row_cost,
    take_list,
    take_logarithms,
    worst_case,
)
from pipeline.graph_names import free_idle, has_room, number
from pipeline.graph_state import (
    ABSENT,
    APPLIED,
    DUPLICATE,
    EDGE,
    EXPIRED,
    LABEL,
    LIVE,
    NODE,
    PLACEHOLDER,
    RETRACT,
    SCORE,
    UNKNOWN,
    Batch,
    Result,
    Rules,
    State,
)
from pipeline.instructions import prefetch
from pipeline.names_kernel import Table
from pipeline.operations import NEW, READ

NO_ROOM = -1
FAR_AHEAD, NEAR_AHEAD = 8, 4  # events; twenty and ten did no better


class Known(NamedTuple):
    """All that there is of a graph."""

    state: State
    rules: Rules
    ids: Table  # of rows
    keys: Table  # of lists, with the relation for their space


@compiled
def run(graph: Known, batch: Batch, out: Result, start: int) -> int:
    """Apply events from `start` on; return how many are done.

    Fewer than all: lengthen the log and call again; NO_ROOM: nothing is done, make room for the batch and call again.
    """
    g, rules, ids, keys = graph
    meta, counts = g.meta[0], out.counts[0]
    if start == 0:
        if not has_room(g, ids, keys, batch):
            return NO_ROOM
        number(g, rules, ids, keys, batch, out)
        counts.entries, counts.targets, counts.kept, counts.operations = 0, 0, 0, 0
    for e in range(start, len(batch.kind)):
        _fetch(g, batch, out, e)
        kind = batch.kind[e]
        if kind != RETRACT:
            meta.watermark = max(meta.watermark, batch.ts[e])
        if not _expire(g, rules, out):
            return e
        if kind != LABEL and not fits(g, out, worst_case(g, rules, batch, out, e)):  # a label moves no sums
            return e
        if kind == NODE:
            out.outcome[e] = _node(g, rules, batch, out, e)
        elif kind == EDGE:
            out.outcome[e] = _edge(g, rules, batch, out, e)
        elif kind == SCORE:
            out.outcome[e] = _score(g, rules, batch, out, e)
        elif kind == LABEL:
            out.outcome[e] = _label(g, rules, batch, out, e)
        else:
            out.outcome[e] = _retract(g, rules, batch, out, e)
    for entry in range(counts.entries):
        row = out.entries[entry].row
        if g.rows[row].fresh == entry:
            kept = out.kept[counts.kept]
            kept.entry, kept.row = entry, row
            counts.kept += 1
            g.rows[row].fresh = -1
    take_logarithms(g, rules, out)
    free_idle(g, ids, keys)
    return len(batch.kind)


# ---- what will be read ----


@inlined
def _fetch(g: State, batch: Batch, out: Result, e: int) -> None:
    """Have what coming events will read fetched: first where their lists are, then what follows from that."""
    if e + FAR_AHEAD < len(batch.kind):
        _fetch_lists(g, batch, out, e + FAR_AHEAD)
    if e + NEAR_AHEAD < len(batch.kind):
        _fetch_from_lists(g, batch, out, e + NEAR_AHEAD)


@inlined
def _fetch_lists(g: State, batch: Batch, out: Result, e: int) -> None:
    if batch.kind[e] != NODE:
        prefetch(g.owner, out.row[e])
        prefetch(g.rows, out.row[e])
        return
    for group in range(len(out.group_lists)):
        own = out.group_lists[group, e]
        if own >= 0:
            prefetch(g.lists, own)
            prefetch(g.lists, own + 1)  # the line in which it ends
            prefetch(g.arrivals, own)
            prefetch(g.level_sums, own)
            _fetch_judged(g, own)


@inlined
def _fetch_from_lists(g: State, batch: Batch, out: Result, e: int) -> None:
    if batch.kind[e] == NODE:
        for group in range(len(out.group_lists)):
            own = out.group_lists[group, e]
            if own >= 0 and g.lists[own].last >= 0:
                prefetch(g.links, g.lists[own].last)
    elif batch.kind[e] == LABEL:
        prefetch(g.links, g.rows[out.row[e]].links)
        for r in range(g.owner.shape[1]):
            if g.owner[out.row[e], r] >= 0:
                _fetch_judged(g, g.owner[out.row[e], r])


@inlined
def _fetch_judged(g: State, own: int) -> None:
    prefetch(g.judged, own)
    prefetch(g.labelled, own)
    prefetch(g.spam, own)


# ---- the five events ----


@inlined
def _node(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row, ts, meta = out.row[e], batch.ts[e], g.meta[0]
    if ts < meta.watermark - rules.ttl:
        return EXPIRED
    if g.rows[row].state == LIVE and ts <= g.rows[row].ts:
        return DUPLICATE
    _leave_all(g, rules, out, row)
    if g.rows[row].state != ABSENT:
        _dequeue(g, row)
    g.rows[row].ts = ts
    g.rows[row].state = PLACEHOLDER  # until it has read: nobody is its own neighbour
    _enqueue(g, row)
    _join_groups(g, rules, batch, out, e)
    for i in range(out.edge_start[e], out.edge_start[e + 1]):
        _connect(g, rules, out, batch.edge_relation[i], row, out.edge_row[i], ts)
    g.rows[row].state = LIVE
    for d in range(g.levels.shape[1]):
        g.levels[row, d] = batch.features[e, rules.deviating[d]]
    _read(g, rules, batch, out, e, row)
    _enter_all(g, rules, out, row, True)
    return APPLIED


@inlined
def _score(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row = out.row[e]
    if g.rows[row].state != LIVE:
        return UNKNOWN
    _leave_all(g, rules, out, row)
    _read(g, rules, batch, out, e, row)
    _enter_all(g, rules, out, row, False)
    return APPLIED


@inlined
def _edge(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    i, row, ts = out.edge_start[e], out.row[e], batch.ts[e]
    if ts < g.meta[0].watermark - rules.ttl:
        return EXPIRED
    return APPLIED if _connect(g, rules, out, batch.edge_relation[i], row, out.edge_row[i], ts) else DUPLICATE


@inlined
def _label(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row, label = out.row[e], batch.label[e]
    if g.rows[row].label == label:
        return DUPLICATE
    _ensure_present(g, row)
    count_label(g, rules, out, row, -1.0)
    g.rows[row].label = label
    g.rows[row].label_ts = g.meta[0].watermark
    count_label(g, rules, out, row, 1.0)
    return APPLIED


@inlined
def _retract(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row, first = out.row[e], out.edge_start[e]
    if out.edge_start[e + 1] > first:
        relation, other = batch.edge_relation[first], out.edge_row[first]
        known = _disconnect(g, rules, out, relation, row, other)
        if not rules.directed[relation]:
            known = _disconnect(g, rules, out, relation, other, row) or known
        return APPLIED if known else UNKNOWN
    if g.rows[row].state == ABSENT:
        return UNKNOWN
    _forget(g, rules, out, row)
    return APPLIED


# ---- a row comes, reads and goes ----


@inlined
def _expire(g: State, rules: Rules, out: Result) -> bool:
    """Forget the rows that came first while they are older than ttl; False if the log is too short to go on."""
    meta = g.meta[0]
    oldest_kept = meta.watermark - rules.ttl
    while meta.oldest >= 0 and g.rows[meta.oldest].ts < oldest_kept:
        if not fits(g, out, row_cost(g, rules, meta.oldest)):
            return False
        _forget(g, rules, out, meta.oldest)
        meta.expired += 1
    return True


@inlined
def _forget(g: State, rules: Rules, out: Result, row: int) -> None:
    """Take the row out of every list, drop its own lists, and everything known of it."""
    while g.rows[row].links >= 0:
        remove_link(g, rules, out, g.rows[row].links)
    for r in range(g.owner.shape[1]):
        own = g.owner[row, r]
        if own >= 0 and rules.group_of[r] < 0:
            drop_list(g, rules, out, own)
        g.owner[row, r] = -1
    _dequeue(g, row)
    g.rows[row].state = ABSENT
    g.rows[row].label = -1
    g.rows[row].fresh = -1
    note_idle_row(g, row)


@inlined
def _ensure_present(g: State, row: int) -> None:
    """A row named by an edge or a label before its own event is a placeholder: nobody's neighbour yet."""
    if g.rows[row].state == ABSENT:
        g.rows[row].state = PLACEHOLDER
        g.rows[row].ts = g.meta[0].watermark
        _enqueue(g, row)


@inlined
def _join_groups(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> None:
    row = out.row[e]
    for r in range(g.owner.shape[1]):
        group = rules.group_of[r]
        if group < 0:
            continue
        old, new = g.owner[row, r], out.group_lists[group, e]
        if old == new:
            continue
        if old >= 0:
            remove_link(g, rules, out, find_link(g, old, row))
        g.owner[row, r] = new
        if new >= 0:
            add_link(g, rules, new, row)


@inlined
def _read(g: State, rules: Rules, batch: Batch, out: Result, e: int, row: int) -> None:
    """Make the row's entry of this micro-batch: read its lists, and their counters for its channels."""
    counts = out.counts[0]
    entry = counts.entries
    counts.entries += 1
    it, fresh = out.entries[entry], g.rows[row].fresh
    it.event, it.row = e, row
    it.previous = NEW if batch.kind[e] == NODE else ~fresh if fresh >= 0 else row
    g.rows[row].fresh = entry
    if batch.target[e]:
        to, at = out.targets, counts.targets
        to.entry[at], to.event[at], to.row[at] = entry, e, row
        counts.targets += 1
    relations = g.owner.shape[1]
    for r in range(relations):
        own = g.owner[row, r]
        if own >= 0 and g.lists[own].count > 0:
            push(g, out, READ, own, entry * relations + r, 1.0 / g.lists[own].weight)
    arrival_channels(g, rules, out, entry, row, batch.kind[e] == NODE)
    label_channels(g, rules, out, entry, row)


@inlined
def _leave_all(g: State, rules: Rules, out: Result, row: int) -> None:
    link = g.rows[row].links if g.rows[row].state == LIVE else -1
    while link >= 0:
        leave(g, rules, out, link)
        link = g.links[link].row_next


@inlined
def _enter_all(g: State, rules: Rules, out: Result, row: int, arrives: bool) -> None:
    link = g.rows[row].links
    while link >= 0:
        enter(g, rules, out, link, arrives)
        link = g.links[link].row_next


# ---- edges ----


@inlined
def _connect(g: State, rules: Rules, out: Result, relation: int, src: int, dst: int, ts: float) -> bool:
    """Make `src` a neighbour of `dst`, and the reverse if undirected; False if nothing is new."""
    if src == dst:
        return False
    _ensure_present(g, src)
    _ensure_present(g, dst)
    new = _add_neighbour(g, rules, out, relation, dst, src, ts)
    if not rules.directed[relation]:
        new = _add_neighbour(g, rules, out, relation, src, dst, ts) or new
    return bool(new)


@inlined
def _add_neighbour(g: State, rules: Rules, out: Result, relation: int, row: int, neighbour: int, ts: float) -> bool:
    own = g.owner[row, relation]
    if own < 0:
        own = take_list(g)
        g.lists[own].relation = relation
        g.lists[own].owner = row
        g.owner[row, relation] = own
    elif find_link(g, own, neighbour) >= 0:
        return False
    link, most = add_link(g, rules, own, neighbour), rules.max_neighbours[relation]
    g.edge_links[link].ts = ts
    if most > 0 and g.lists[own].links > most:  # the oldest goes after the newest came: a list never empties on the way
        remove_link(g, rules, out, g.lists[own].first)
    if g.rows[neighbour].state == LIVE:
        enter(g, rules, out, link, True)
    return True


@inlined
def _disconnect(g: State, rules: Rules, out: Result, relation: int, src: int, dst: int) -> bool:
    own = g.owner[dst, relation]
    link = find_link(g, own, src) if own >= 0 else -1
    if link >= 0:
        remove_link(g, rules, out, link)
    return link >= 0


# ---- the expiry queue: present rows in order of arrival ----


@inlined
def _enqueue(g: State, row: int) -> None:
    meta = g.meta[0]
    g.rows[row].newer, g.rows[row].older = -1, meta.newest
    if meta.newest >= 0:
        g.rows[meta.newest].newer = row
    else:
        meta.oldest = row
    meta.newest = row
    meta.present += 1


@inlined
def _dequeue(g: State, row: int) -> None:
    meta, older, newer = g.meta[0], g.rows[row].older, g.rows[row].newer
    if older >= 0:
        g.rows[older].newer = newer
    else:
        meta.oldest = newer
    if newer >= 0:
        g.rows[newer].older = older
    else:
        meta.newest = older
    meta.present -= 1
