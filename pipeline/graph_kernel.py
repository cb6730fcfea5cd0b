"""The compiled loop of stage A: events, one by one, into operations, counters and channels.

Rows, lists and links are indices into the structured arrays that `graph.Graph` owns and documents; -1 is none.
Every function takes the whole `State`. The loop returns before an event for which the operation log might be too
short, and is called again with a longer one: a step first reckons its worst case, then acts, so it never stops midway.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.operations import ADD, READ, SCALE

NODE, EDGE, SCORE, LABEL, RETRACT = 0, 1, 2, 3, 4  # as in `events`
ABSENT, PLACEHOLDER, LIVE = 0, 1, 2  # states of a row
APPLIED, DUPLICATE, UNKNOWN, EXPIRED = 0, 1, 2, 3  # outcomes of an event

NEVER = 315_360_000.0  # seconds "since the last member" of a list that had none: ten years
PRECISION = 1e-6  # a list is summed anew when less than this share of its largest weight is left
FAR = 64.0  # half-lives that weights may grow before their reference time moves on

Array = npt.NDArray[Any]


class State(NamedTuple):
    """Everything the graph remembers; see `graph` for the fields."""

    rows: Array
    lists: Array
    links: Array
    owner: Array  # (N, R) the list that a row reads
    levels: Array  # (N, D) the row's deviating own channels
    level_sums: Array  # (L, D) weighted, over the members
    arrivals: Array  # (L, A) decayed arrival counts as of `counted_at`
    labelled: Array  # (L, H) decayed counts of labelled members as of `labelled_at`
    spam: Array  # (L, H) ... of the spam among them
    meta: Array  # (1,) META
    free_lists: Array  # stack; its height is meta.free_lists
    idle_rows: Array  # rows that may be free at the end of the batch
    idle_lists: Array


class Rules(NamedTuple):
    """What the schema says, as numbers."""

    half_lives: Array  # (R,) seconds; inf: none
    directed: Array  # (R,) bool
    max_neighbours: Array  # (R,) 0: no bound
    group_of: Array  # (R,) index among the group relations, -1 for an edge relation
    arrival_half_lives: Array  # (A,)
    label_half_lives: Array  # (H,)
    prior: float
    strength: float
    ttl: float


class Batch(NamedTuple):
    """The events as numbers: names are rows and lists already."""

    kind: Array  # (n,)
    row: Array  # (n,)
    ts: Array  # (n,)
    label: Array  # (n,)
    group_lists: Array  # (groups, n) list of each group key, -1 none
    levels: Array  # (n, D)
    edge_start: Array  # (n + 1,) the edges of event e are edge_start[e] .. edge_start[e + 1]
    edge_relation: Array  # (m,)
    edge_row: Array  # (m,) the row at the other end


class Result(NamedTuple):
    """What the loop fills in."""

    outcome: Array  # (n,)
    log: Array  # OPERATION; its length so far is meta.operations
    entry_event: Array  # (n,) which event made entry b
    previous: Array  # (n,) where the row's values were before: a row of the store, or ~entry
    channels: Array  # (n, G) the channels that the graph gives entry b; nan: as at arrival


@njit(cache=True, nogil=True)
def run(g: State, rules: Rules, batch: Batch, out: Result, start: int) -> int:
    """Apply events from `start` on; return how many are done (fewer than all: lengthen the log, call again)."""
    meta = g.meta[0]
    for e in range(start, len(batch.kind)):
        kind = batch.kind[e]
        if kind != RETRACT:
            meta.watermark = max(meta.watermark, batch.ts[e])
        if not _expire(g, rules, out) or not _fits(g, out, _worst_case(g, rules, batch, e)):
            return e
        if kind == NODE:
            out.outcome[e] = _node(g, rules, batch, out, e)
        elif kind == EDGE:
            out.outcome[e] = _edge(g, rules, batch, out, e)
        elif kind == SCORE:
            out.outcome[e] = _score(g, rules, batch, out, e)
        elif kind == LABEL:
            out.outcome[e] = _label(g, rules, batch, e)
        else:
            out.outcome[e] = _retract(g, rules, batch, out, e)
    return len(batch.kind)


# ---- the five events ----


@njit(cache=True, nogil=True)
def _node(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row, ts, meta = batch.row[e], batch.ts[e], g.meta[0]
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
    for i in range(batch.edge_start[e], batch.edge_start[e + 1]):
        _connect(g, rules, out, batch.edge_relation[i], row, batch.edge_row[i], ts)
    g.rows[row].state = LIVE
    g.levels[row] = batch.levels[e]
    entry = _read(g, rules, out, e, row)
    _arrival_channels(g, rules, out, entry, row)
    _enter_all(g, rules, out, row, True)
    return APPLIED


@njit(cache=True, nogil=True)
def _score(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row = batch.row[e]
    if g.rows[row].state != LIVE:
        return UNKNOWN
    _leave_all(g, rules, out, row)
    entry = _read(g, rules, out, e, row)
    out.channels[entry, : len(rules.half_lives) * (2 + len(rules.arrival_half_lives))] = np.nan
    _enter_all(g, rules, out, row, False)
    return APPLIED


@njit(cache=True, nogil=True)
def _edge(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    i, row, ts = batch.edge_start[e], batch.row[e], batch.ts[e]
    if ts < g.meta[0].watermark - rules.ttl:
        return EXPIRED
    return APPLIED if _connect(g, rules, out, batch.edge_relation[i], row, batch.edge_row[i], ts) else DUPLICATE


@njit(cache=True, nogil=True)
def _label(g: State, rules: Rules, batch: Batch, e: int) -> int:
    row, label = batch.row[e], batch.label[e]
    if g.rows[row].label == label:
        return DUPLICATE
    _ensure_present(g, row)
    _count_label(g, rules, row, -1.0)
    g.rows[row].label = label
    g.rows[row].label_ts = g.meta[0].watermark
    _count_label(g, rules, row, 1.0)
    return APPLIED


@njit(cache=True, nogil=True)
def _retract(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    row, first = batch.row[e], batch.edge_start[e]
    if batch.edge_start[e + 1] > first:
        relation, other = batch.edge_relation[first], batch.edge_row[first]
        known = _disconnect(g, rules, out, relation, row, other)
        if not rules.directed[relation]:
            known = _disconnect(g, rules, out, relation, other, row) or known
        return APPLIED if known else UNKNOWN
    if g.rows[row].state == ABSENT:
        return UNKNOWN
    _forget(g, rules, out, row)
    return APPLIED


# ---- a row comes, reads and goes ----


@njit(cache=True, nogil=True)
def _expire(g: State, rules: Rules, out: Result) -> bool:
    """Forget the rows that came first while they are older than ttl; False if the log is too short to go on."""
    meta = g.meta[0]
    oldest_kept = meta.watermark - rules.ttl
    while meta.oldest >= 0 and g.rows[meta.oldest].ts < oldest_kept:
        if not _fits(g, out, _row_cost(g, rules, meta.oldest)):
            return False
        _forget(g, rules, out, meta.oldest)
        meta.expired += 1
    return True


@njit(cache=True, nogil=True)
def _forget(g: State, rules: Rules, out: Result, row: int) -> None:
    """Take the row out of every list, drop its own lists, and everything known of it."""
    while g.rows[row].links >= 0:
        _unlink(g, rules, out, g.rows[row].links)
    for r in range(g.owner.shape[1]):
        own = g.owner[row, r]
        if own >= 0 and rules.group_of[r] < 0:
            _drop_list(g, out, own)
        g.owner[row, r] = -1
    _dequeue(g, row)
    g.rows[row].state = ABSENT
    g.rows[row].label = -1
    g.rows[row].fresh = -1
    _note_idle_row(g, row)


@njit(cache=True, nogil=True)
def _ensure_present(g: State, row: int) -> None:
    """A row named by an edge or a label before its own event is a placeholder: nobody's neighbour yet."""
    if g.rows[row].state == ABSENT:
        g.rows[row].state = PLACEHOLDER
        g.rows[row].ts = g.meta[0].watermark
        _enqueue(g, row)


@njit(cache=True, nogil=True)
def _join_groups(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> None:
    row, ts = batch.row[e], batch.ts[e]
    for r in range(g.owner.shape[1]):
        group = rules.group_of[r]
        if group < 0:
            continue
        old, new = g.owner[row, r], batch.group_lists[group, e]
        if old >= 0:
            link = _find(g, old, row)
            if old == new:
                g.links[link].ts = ts
                continue
            _unlink(g, rules, out, link)
        g.owner[row, r] = new
        if new >= 0:
            _link(g, new, row, ts)


@njit(cache=True, nogil=True)
def _read(g: State, rules: Rules, out: Result, e: int, row: int) -> int:
    """Read the row's lists, label and deviation channels; return its entry of this micro-batch."""
    entry = g.meta[0].entries
    g.meta[0].entries += 1
    out.entry_event[entry] = e
    out.previous[entry] = ~g.rows[row].fresh if g.rows[row].fresh >= 0 else row
    g.rows[row].fresh = entry
    relations = g.owner.shape[1]
    for r in range(relations):
        own = g.owner[row, r]
        if own >= 0 and g.lists[own].count > 0:
            _push(g, out, READ, own, entry * relations + r, 1.0 / g.lists[own].weight)
    _label_channels(g, rules, out, entry, row)
    return entry


@njit(cache=True, nogil=True)
def _leave_all(g: State, rules: Rules, out: Result, row: int) -> None:
    link = g.rows[row].links
    while link >= 0:
        if g.links[link].entered:
            _leave(g, rules, out, link)
        link = g.links[link].row_next


@njit(cache=True, nogil=True)
def _enter_all(g: State, rules: Rules, out: Result, row: int, arrives: bool) -> None:
    link = g.rows[row].links
    while link >= 0:
        _enter(g, rules, out, link, arrives)
        link = g.links[link].row_next


# ---- edges ----


@njit(cache=True, nogil=True)
def _connect(g: State, rules: Rules, out: Result, relation: int, src: int, dst: int, ts: float) -> bool:
    """Make `src` a neighbour of `dst`, and the reverse if undirected; False if nothing is new."""
    if src == dst:
        return False
    _ensure_present(g, src)
    _ensure_present(g, dst)
    new = _add_neighbour(g, rules, out, relation, dst, src, ts)
    if not rules.directed[relation]:
        new = _add_neighbour(g, rules, out, relation, src, dst, ts) or new
    return new


@njit(cache=True, nogil=True)
def _add_neighbour(g: State, rules: Rules, out: Result, relation: int, row: int, neighbour: int, ts: float) -> bool:
    own = g.owner[row, relation]
    if own < 0:
        g.meta[0].free_lists -= 1
        own = g.free_lists[g.meta[0].free_lists]
        g.lists[own].relation = relation
        g.lists[own].owner = row
        g.owner[row, relation] = own
    elif _find(g, own, neighbour) >= 0:
        return False
    link, most = _link(g, own, neighbour, ts), rules.max_neighbours[relation]
    if most > 0 and g.lists[own].links > most:  # the oldest goes after the newest came: a list never empties on the way
        _unlink(g, rules, out, g.lists[own].first)
    if g.rows[neighbour].state == LIVE:
        _enter(g, rules, out, link, True)
    return True


@njit(cache=True, nogil=True)
def _disconnect(g: State, rules: Rules, out: Result, relation: int, src: int, dst: int) -> bool:
    own = g.owner[dst, relation]
    link = _find(g, own, src) if own >= 0 else -1
    if link >= 0:
        _unlink(g, rules, out, link)
    return link >= 0


@njit(cache=True, nogil=True)
def _find(g: State, own: int, row: int) -> int:
    """The link of `row` in list `own`, or -1: walks the list and the row's links side by side, the shorter decides."""
    by_list, by_row = g.lists[own].first, g.rows[row].links
    while by_list >= 0 and by_row >= 0:
        if g.links[by_list].row == row:
            return by_list
        if g.links[by_row].list == own:
            return by_row
        by_list, by_row = g.links[by_list].next, g.links[by_row].row_next
    return -1


# ---- links: who stands in which list ----


@njit(cache=True, nogil=True)
def _link(g: State, own: int, row: int, ts: float) -> int:
    """Put `row` last in list `own`; it counts for nothing until it enters."""
    meta = g.meta[0]
    link = meta.free_link
    if link >= 0:
        meta.free_link = g.links[link].next
    else:
        link = meta.links_used
        meta.links_used += 1
    it = g.links[link]
    it.list, it.row, it.ts, it.entered = own, row, ts, 0
    it.next, it.prev = -1, g.lists[own].last
    if it.prev >= 0:
        g.links[it.prev].next = link
    else:
        g.lists[own].first = link
    g.lists[own].last = link
    g.lists[own].links += 1
    it.row_prev, it.row_next = -1, g.rows[row].links
    if it.row_next >= 0:
        g.links[it.row_next].row_prev = link
    g.rows[row].links = link
    return link


@njit(cache=True, nogil=True)
def _unlink(g: State, rules: Rules, out: Result, link: int) -> None:
    """Take a link out of its list and free it; a list without links is forgotten with its counters."""
    if g.links[link].entered:
        _leave(g, rules, out, link)
    own = g.links[link].list
    _splice(g, link)
    g.lists[own].links -= 1
    if g.lists[own].links == 0:
        _forget_list(g, own)


@njit(cache=True, nogil=True)
def _splice(g: State, link: int) -> None:
    it = g.links[link]
    if it.prev >= 0:
        g.links[it.prev].next = it.next
    else:
        g.lists[it.list].first = it.next
    if it.next >= 0:
        g.links[it.next].prev = it.prev
    else:
        g.lists[it.list].last = it.prev
    if it.row_prev >= 0:
        g.links[it.row_prev].row_next = it.row_next
    else:
        g.rows[it.row].links = it.row_next
    if it.row_next >= 0:
        g.links[it.row_next].row_prev = it.row_prev
    it.next = g.meta[0].free_link
    g.meta[0].free_link = link


@njit(cache=True, nogil=True)
def _drop_list(g: State, out: Result, own: int) -> None:
    """Empty a list at once: its owner is forgotten."""
    while g.lists[own].first >= 0:
        _splice(g, g.lists[own].first)
    g.lists[own].links = 0
    _empty(g, out, own)
    _forget_list(g, own)


@njit(cache=True, nogil=True)
def _forget_list(g: State, own: int) -> None:
    it = g.lists[own]
    it.counted_at, it.labelled_at = -np.inf, -np.inf
    g.arrivals[own] = 0.0
    if it.owner >= 0:
        g.owner[it.owner, it.relation] = -1
        it.owner = -1
    _note_idle_list(g, own)


@njit(cache=True, nogil=True)
def _note_idle_list(g: State, own: int) -> None:
    if not g.lists[own].idle:
        g.lists[own].idle = 1
        g.idle_lists[g.meta[0].idle_lists] = own
        g.meta[0].idle_lists += 1


@njit(cache=True, nogil=True)
def _note_idle_row(g: State, row: int) -> None:
    if not g.rows[row].idle:
        g.rows[row].idle = 1
        g.idle_rows[g.meta[0].idle_rows] = row
        g.meta[0].idle_rows += 1


# ---- members: whose values a list's sums hold ----


@njit(cache=True, nogil=True)
def _enter(g: State, rules: Rules, out: Result, link: int, arrives: bool) -> None:
    own, row = g.links[link].list, g.links[link].row
    it = g.lists[own]
    weight = 1.0
    half_life = rules.half_lives[it.relation]
    if half_life < np.inf:
        if it.count == 0:
            it.landmark = g.links[link].ts
        elif (g.links[link].ts - it.landmark) / half_life > FAR:
            _move_landmark(g, out, own, g.links[link].ts, half_life)
        weight = 2.0 ** ((g.links[link].ts - it.landmark) / half_life)
    g.links[link].entered = 1
    it.count += 1
    _weigh(g, out, own, row, weight)
    it.peak = max(it.peak, it.weight)
    _count_member_label(g, rules, own, row, 1.0)
    if arrives:
        _count_arrival(g, rules, own)


@njit(cache=True, nogil=True)
def _leave(g: State, rules: Rules, out: Result, link: int) -> None:
    own, row = g.links[link].list, g.links[link].row
    it = g.lists[own]
    g.links[link].entered = 0
    it.count -= 1
    _count_member_label(g, rules, own, row, -1.0)
    if it.count == 0:
        _empty(g, out, own)
        return
    _weigh(g, out, own, row, -_weight(g, rules, link))
    if it.weight < PRECISION * it.peak:
        _sum_anew(g, rules, out, own)


@njit(cache=True, nogil=True)
def _weight(g: State, rules: Rules, link: int) -> float:
    it = g.lists[g.links[link].list]
    half_life = rules.half_lives[it.relation]
    return 2.0 ** ((g.links[link].ts - it.landmark) / half_life) if half_life < np.inf else 1.0


@njit(cache=True, nogil=True)
def _weigh(g: State, out: Result, own: int, row: int, weight: float) -> None:
    fresh = g.rows[row].fresh
    _push(g, out, ADD, own, ~fresh if fresh >= 0 else row, weight)
    g.lists[own].weight += weight
    for d in range(g.levels.shape[1]):
        g.level_sums[own, d] += weight * g.levels[row, d]


@njit(cache=True, nogil=True)
def _empty(g: State, out: Result, own: int) -> None:
    """No member is left: the sums start again at exactly 0."""
    it = g.lists[own]
    it.count, it.labelled_count, it.spam_count = 0, 0, 0
    it.weight, it.peak = 0.0, 0.0
    g.level_sums[own] = 0.0
    g.labelled[own] = 0.0
    g.spam[own] = 0.0
    _push(g, out, SCALE, own, 0, 0.0)


@njit(cache=True, nogil=True)
def _move_landmark(g: State, out: Result, own: int, ts: float, half_life: float) -> None:
    """Weights grow with time, the mean doesn't care: scale them back before they grow too large."""
    it = g.lists[own]
    factor = 2.0 ** ((it.landmark - ts) / half_life)
    it.landmark = ts
    it.weight *= factor
    it.peak *= factor
    g.level_sums[own] *= factor
    # A factor of 0 is an underflow, not an empty list: the smallest weight is harmless and says so.
    _push(g, out, SCALE, own, 0, max(factor, 1e-300))


@njit(cache=True, nogil=True)
def _sum_anew(g: State, rules: Rules, out: Result, own: int) -> None:
    """The heaviest members have left and took the sums' digits along: add up those that stay."""
    it = g.lists[own]
    newest, link = -np.inf, it.first
    while link >= 0:
        if g.links[link].entered:
            newest = max(newest, g.links[link].ts)
        link = g.links[link].next
    it.landmark, it.weight = newest, 0.0
    g.level_sums[own] = 0.0
    _push(g, out, SCALE, own, 0, 0.0)
    link = it.first
    while link >= 0:
        if g.links[link].entered:
            _weigh(g, out, own, g.links[link].row, _weight(g, rules, link))
        link = g.links[link].next
    it.peak = it.weight


# ---- counters ----


@njit(cache=True, nogil=True)
def _count_arrival(g: State, rules: Rules, own: int) -> None:
    now, it = g.meta[0].watermark, g.lists[own]
    for a in range(len(rules.arrival_half_lives)):
        g.arrivals[own, a] = 1.0 + g.arrivals[own, a] * 2.0 ** ((it.counted_at - now) / rules.arrival_half_lives[a])
    it.counted_at = now


@njit(cache=True, nogil=True)
def _count_label(g: State, rules: Rules, row: int, sign: float) -> None:
    link = g.rows[row].links
    while link >= 0:
        if g.links[link].entered:
            _count_member_label(g, rules, g.links[link].list, row, sign)
        link = g.links[link].row_next


@njit(cache=True, nogil=True)
def _count_member_label(g: State, rules: Rules, own: int, row: int, sign: float) -> None:
    label = g.rows[row].label
    if label < 0:
        return
    now, it = g.meta[0].watermark, g.lists[own]
    it.labelled_count += int(sign)
    it.spam_count += int(sign) * label
    for h in range(len(rules.label_half_lives)):
        fading = 2.0 ** ((it.labelled_at - now) / rules.label_half_lives[h])
        weight = sign * 2.0 ** ((g.rows[row].label_ts - now) / rules.label_half_lives[h])
        g.labelled[own, h] = max(0.0, g.labelled[own, h] * fading + weight)
        g.spam[own, h] = max(0.0, g.spam[own, h] * fading + weight * label)
    it.labelled_at = now


@njit(cache=True, nogil=True)
def _arrival_channels(g: State, rules: Rules, out: Result, entry: int, row: int) -> None:
    """log1p of the list's count, of the seconds since its last arrival, and of its decayed arrival counts."""
    now, c = g.meta[0].watermark, 0
    for r in range(g.owner.shape[1]):
        own = g.owner[row, r]
        known = own >= 0 and g.lists[own].counted_at > -np.inf
        out.channels[entry, c] = np.log1p(float(g.lists[own].count)) if own >= 0 else 0.0
        out.channels[entry, c + 1] = np.log1p(now - g.lists[own].counted_at if known else NEVER)
        c += 2
        for a in range(len(rules.arrival_half_lives)):
            value = 0.0
            if known:
                fading = 2.0 ** ((g.lists[own].counted_at - now) / rules.arrival_half_lives[a])
                value = np.log1p(g.arrivals[own, a] * fading)
            out.channels[entry, c] = value
            c += 1


@njit(cache=True, nogil=True)
def _label_channels(g: State, rules: Rules, out: Result, entry: int, row: int) -> None:
    """The smoothed spam share among a list's labelled members, log1p of their count, the share with half-lives, and
    the deviation of the row's own channels from the list's mean (0 from an empty list)."""
    now, relations = g.meta[0].watermark, g.owner.shape[1]
    c = relations * (2 + len(rules.arrival_half_lives))
    pseudo = rules.strength * rules.prior
    for r in range(relations):
        own = g.owner[row, r]
        labelled = float(g.lists[own].labelled_count) if own >= 0 else 0.0
        spam = float(g.lists[own].spam_count) if own >= 0 else 0.0
        out.channels[entry, c] = (spam + pseudo) / (labelled + rules.strength)
        out.channels[entry, c + 1] = np.log1p(labelled)
        c += 2
        for h in range(len(rules.label_half_lives)):
            value = rules.prior
            if labelled > 0:
                fading = 2.0 ** ((g.lists[own].labelled_at - now) / rules.label_half_lives[h])
                value = (g.spam[own, h] * fading + pseudo) / (g.labelled[own, h] * fading + rules.strength)
            out.channels[entry, c] = value
            c += 1
    for r in range(relations):
        own = g.owner[row, r]
        for d in range(g.levels.shape[1]):
            filled = own >= 0 and g.lists[own].count > 0
            out.channels[entry, c] = g.levels[row, d] - g.level_sums[own, d] / g.lists[own].weight if filled else 0.0
            c += 1


# ---- the expiry queue: present rows in order of arrival ----


@njit(cache=True, nogil=True)
def _enqueue(g: State, row: int) -> None:
    meta = g.meta[0]
    g.rows[row].newer, g.rows[row].older = -1, meta.newest
    if meta.newest >= 0:
        g.rows[meta.newest].newer = row
    else:
        meta.oldest = row
    meta.newest = row
    meta.present += 1


@njit(cache=True, nogil=True)
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


# ---- the operation log ----


@njit(cache=True, nogil=True)
def _push(g: State, out: Result, kind: int, own: int, source: int, weight: float) -> None:
    it = out.log[g.meta[0].operations]
    it.kind, it.list, it.source, it.weight = kind, own, source, weight
    g.meta[0].operations += 1


@njit(cache=True, nogil=True)
def _fits(g: State, out: Result, operations: int) -> bool:
    g.meta[0].wanted = g.meta[0].operations + operations
    return g.meta[0].wanted <= len(out.log)


@njit(cache=True, nogil=True)
def _worst_case(g: State, rules: Rules, batch: Batch, e: int) -> int:
    """No event can need more operations than this."""
    relations = g.owner.shape[1]
    cost = 4 * relations + _row_cost(g, rules, batch.row[e])
    for i in range(batch.edge_start[e], batch.edge_start[e + 1]):
        relation = batch.edge_relation[i]
        for row in (batch.row[e], batch.edge_row[i]):
            own = g.owner[row, relation]
            cost += 6 + (g.lists[own].count if own >= 0 and _may_sum_anew(g, rules, own, 0.0) else 0)
    return cost


@njit(cache=True, nogil=True)
def _row_cost(g: State, rules: Rules, row: int) -> int:
    """Operations for a row to leave all its lists and enter them again."""
    cost, link = 2 * g.owner.shape[1], g.rows[row].links
    while link >= 0:
        own = g.links[link].list
        cost += 5 + (g.lists[own].count if _may_sum_anew(g, rules, own, _weight(g, rules, link)) else 0)
        link = g.links[link].row_next
    return cost


@njit(cache=True, nogil=True)
def _may_sum_anew(g: State, rules: Rules, own: int, weight: float) -> bool:
    it = g.lists[own]
    fading = rules.half_lives[it.relation] < np.inf and weight == 0.0  # of a link not known yet
    return fading or it.weight - weight < 2.0 * PRECISION * it.peak
