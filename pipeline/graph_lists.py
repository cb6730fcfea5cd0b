"""Lists of the graph: links, members and counters of lists, and the operations that follow from them.

A *link* says that a row stands in a list. While its row is live the link has *entered*: the row is a member, its values
are in the sums, it counts. Every change of a member is written to the operation log, with its weight.
"""

import numpy as np

from pipeline.compiled import inlined
from pipeline.graph_state import FAR, LIVE, NEVER, PRECISION, Batch, Result, Rules, State
from pipeline.instructions import fade
from pipeline.logarithm import log1p
from pipeline.operations import ADD, SCALE


@inlined
def find_link(g: State, own: int, row: int) -> int:
    """The link of `row` in list `own`, or -1: walks the list and the row's links side by side, the shorter decides."""
    by_list, by_row = g.lists[own].first, g.rows[row].links
    while by_list >= 0 and by_row >= 0:
        if g.links[by_list].row == row:
            return int(by_list)
        if g.links[by_row].list == own:
            return int(by_row)
        by_list, by_row = g.links[by_list].next, g.links[by_row].row_next
    return -1


@inlined
def take_list(g: State) -> int:
    """Return a list without links: one that was forgotten, or the first that was never in use."""
    meta = g.meta[0]
    if meta.free_lists > 0:
        meta.free_lists -= 1
        return int(g.free_lists[meta.free_lists])
    own = meta.lists_used
    meta.lists_used += 1
    it = g.lists[own]
    it.counted_at = -np.inf
    it.owner, it.first, it.last = -1, -1, -1
    return int(own)


# ---- links: who stands in which list ----


@inlined
def add_link(g: State, rules: Rules, own: int, row: int) -> int:
    """Put `row` last in list `own`; it counts for nothing until it enters."""
    meta = g.meta[0]
    link = meta.free_link
    if link >= 0:
        meta.free_link = g.links[link].next
    else:
        link = meta.links_used
        meta.links_used += 1
    it = g.links[link]
    it.list, it.row = own, row
    it.next, it.prev = -1, g.lists[own].last
    if it.prev >= 0:
        g.links[it.prev].next = link
    else:
        g.lists[own].first = link
    g.lists[own].last = link
    g.lists[own].links += 1
    it.row_next = g.rows[row].links
    if rules.has_edges:
        g.edge_links[link].row_prev = -1
        if it.row_next >= 0:
            g.edge_links[it.row_next].row_prev = link
    g.rows[row].links = link
    return int(link)


@inlined
def remove_link(g: State, rules: Rules, out: Result, link: int) -> None:
    """Take a link out of its list and free it; a list without links is forgotten with its counters."""
    if has_entered(g, link):
        leave(g, rules, out, link)
    own = g.links[link].list
    _splice(g, rules, link)
    g.lists[own].links -= 1
    if g.lists[own].links == 0:
        _forget_list(g, own)


@inlined
def _splice(g: State, rules: Rules, link: int) -> None:
    it = g.links[link]
    if it.prev >= 0:
        g.links[it.prev].next = it.next
    else:
        g.lists[it.list].first = it.next
    if it.next >= 0:
        g.links[it.next].prev = it.prev
    else:
        g.lists[it.list].last = it.prev
    before = _row_prev(g, rules, link)
    if before >= 0:
        g.links[before].row_next = it.row_next
    else:
        g.rows[it.row].links = it.row_next
    if rules.has_edges and it.row_next >= 0:
        g.edge_links[it.row_next].row_prev = before
    it.row, it.next = -1, g.meta[0].free_link
    g.meta[0].free_link = link


@inlined
def _row_prev(g: State, rules: Rules, link: int) -> int:
    """The link before this one among its row's, or -1."""
    if rules.has_edges:
        return int(g.edge_links[link].row_prev)
    before, at = -1, g.rows[g.links[link].row].links
    while at != link:
        before, at = at, g.links[at].row_next
    return int(before)


@inlined
def drop_list(g: State, rules: Rules, out: Result, own: int) -> None:
    """Empty a list at once: its owner is forgotten."""
    while g.lists[own].first >= 0:
        _splice(g, rules, g.lists[own].first)
    g.lists[own].links = 0
    _empty(g, out, own)
    _forget_list(g, own)


@inlined
def _forget_list(g: State, own: int) -> None:
    it = g.lists[own]
    it.counted_at = -np.inf
    g.arrivals[own] = 0.0
    if it.owner >= 0:
        g.owner[it.owner, it.relation] = -1
        it.owner = -1
    note_idle_list(g, own)


@inlined
def note_idle_list(g: State, own: int) -> None:
    if not g.lists[own].idle:
        g.lists[own].idle = 1
        g.idle_lists[g.meta[0].idle_lists] = own
        g.meta[0].idle_lists += 1


@inlined
def note_idle_row(g: State, row: int) -> None:
    if not g.rows[row].idle:
        g.rows[row].idle = 1
        g.idle_rows[g.meta[0].idle_rows] = row
        g.meta[0].idle_rows += 1


# ---- members: whose values a list's sums hold ----


@inlined
def has_entered(g: State, link: int) -> bool:
    return bool(g.rows[g.links[link].row].state == LIVE)


@inlined
def _age(g: State, rules: Rules, link: int) -> float:
    """The event time that a half-life weighs: the edge's, or the node's."""
    it = g.links[link]
    return float(g.edge_links[link].ts if rules.group_of[g.lists[it.list].relation] < 0 else g.rows[it.row].ts)


@inlined
def enter(g: State, rules: Rules, out: Result, link: int, arrives: bool) -> None:
    own, row = g.links[link].list, g.links[link].row
    it = g.lists[own]
    weight = 1.0
    half_life = rules.half_lives[it.relation]
    if half_life < np.inf:
        ts = _age(g, rules, link)
        if it.count == 0:
            it.landmark = ts
        elif (ts - it.landmark) / half_life > FAR:
            _move_landmark(g, out, own, ts, half_life)
        weight = np.exp2((ts - it.landmark) / half_life)
    it.count += 1
    _weigh(g, out, own, row, weight)
    it.peak = max(it.peak, it.weight)
    _count_member_label(g, rules, out, own, row, 1.0)
    if arrives and rules.group_of[it.relation] < 0:  # into a group it was counted when it read, see `arrival_channels`
        _count_arrival(g, rules, out, own)


@inlined
def leave(g: State, rules: Rules, out: Result, link: int) -> None:
    own, row = g.links[link].list, g.links[link].row
    it = g.lists[own]
    it.count -= 1
    _count_member_label(g, rules, out, own, row, -1.0)
    if it.count == 0:
        _empty(g, out, own)
        return
    _weigh(g, out, own, row, -_weight(g, rules, link))
    if it.weight < PRECISION * it.peak:
        _sum_anew(g, rules, out, own, link)


@inlined
def _weight(g: State, rules: Rules, link: int) -> float:
    it = g.lists[g.links[link].list]
    half_life = rules.half_lives[it.relation]
    return np.exp2((_age(g, rules, link) - it.landmark) / half_life) if half_life < np.inf else 1.0


@inlined
def _weigh(g: State, out: Result, own: int, row: int, weight: float) -> None:
    fresh = g.rows[row].fresh
    push(g, out, ADD, own, ~fresh if fresh >= 0 else row, weight)
    g.lists[own].weight += weight
    for d in range(g.levels.shape[1]):
        g.level_sums[own, d] += weight * g.levels[row, d]


@inlined
def _empty(g: State, out: Result, own: int) -> None:
    """No member is left: the sums start again at exactly 0."""
    it = g.lists[own]
    it.count, g.judged[own].count, g.judged[own].spam = 0, 0, 0
    it.weight, it.peak = 0.0, 0.0
    g.level_sums[own] = 0.0
    g.labelled[own] = 0.0
    g.spam[own] = 0.0
    push(g, out, SCALE, own, 0, 0.0)


@inlined
def _move_landmark(g: State, out: Result, own: int, ts: float, half_life: float) -> None:
    """Weights grow with time, the mean doesn't care: scale them back before they grow too large."""
    it = g.lists[own]
    factor = np.exp2((it.landmark - ts) / half_life)
    it.landmark = ts
    it.weight *= factor
    it.peak *= factor
    for d in range(g.levels.shape[1]):
        g.level_sums[own, d] *= factor
    # A factor of 0 is an underflow, not an empty list: the smallest weight is harmless and says so.
    push(g, out, SCALE, own, 0, max(factor, 1e-300))


@inlined
def _sum_anew(g: State, rules: Rules, out: Result, own: int, leaving: int) -> None:
    """The heaviest members have left and took the sums' digits along: add up those that stay."""
    it = g.lists[own]
    newest, link = -np.inf, it.first
    while link >= 0:
        if link != leaving and has_entered(g, link):
            newest = max(newest, _age(g, rules, link))
        link = g.links[link].next
    it.landmark, it.weight = newest, 0.0
    g.level_sums[own] = 0.0
    push(g, out, SCALE, own, 0, 0.0)
    link = it.first
    while link >= 0:
        if link != leaving and has_entered(g, link):
            _weigh(g, out, own, g.links[link].row, _weight(g, rules, link))
        link = g.links[link].next
    it.peak = it.weight


# ---- counters ----


@inlined
def _count_arrival(g: State, rules: Rules, out: Result, own: int) -> None:
    now, it = g.meta[0].watermark, g.lists[own]
    fade(rules.arrival_rates, now - it.counted_at, out.left, 0)
    for a in range(g.arrivals.shape[1]):
        g.arrivals[own, a] = 1.0 + g.arrivals[own, a] * out.left[0, a]
    it.counted_at = now


@inlined
def count_label(g: State, rules: Rules, out: Result, row: int, sign: float) -> None:
    """Count the label of the row, or no longer, in all lists that it is a member of."""
    if g.rows[row].label < 0 or g.rows[row].state != LIVE:
        return
    _fade_label(g, rules, out, row)
    link = g.rows[row].links
    while link >= 0:
        _count_faded_label(g, rules, out, g.links[link].list, row, sign)
        link = g.links[link].row_next


@inlined
def _count_member_label(g: State, rules: Rules, out: Result, own: int, row: int, sign: float) -> None:
    if g.rows[row].label >= 0:
        _fade_label(g, rules, out, row)
        _count_faded_label(g, rules, out, own, row, sign)


@inlined
def _fade_label(g: State, rules: Rules, out: Result, row: int) -> None:
    fade(rules.label_rates, g.meta[0].watermark - g.rows[row].label_ts, out.left, 1)


@inlined
def _count_faded_label(g: State, rules: Rules, out: Result, own: int, row: int, sign: float) -> None:
    now, it, label = g.meta[0].watermark, g.judged[own], g.rows[row].label
    it.count += int(sign)
    it.spam += int(sign) * label
    fade(rules.label_rates, now - it.at, out.left, 0)
    for h in range(g.labelled.shape[1]):
        fading, weight = out.left[0, h], sign * out.left[1, h]
        g.labelled[own, h] = max(0.0, g.labelled[own, h] * fading + weight)
        g.spam[own, h] = max(0.0, g.spam[own, h] * fading + weight * label)
    it.at = now


@inlined
def arrival_channels(g: State, rules: Rules, out: Result, entry: int, row: int, arrives: bool) -> None:
    """The list's count, the seconds since its last arrival, and its decayed counts; logarithms are taken later.

    arrives  the row is about to enter its groups: it is counted at once, while what is left of the counts is at hand
    """
    now, c = g.meta[0].watermark, 0
    for r in range(g.owner.shape[1]):
        own = g.owner[row, r]
        known = own >= 0 and g.lists[own].counted_at > -np.inf
        counts = arrives and own >= 0 and rules.group_of[r] >= 0
        out.channels[entry, c] = g.lists[own].count if own >= 0 else 0.0
        out.channels[entry, c + 1] = now - g.lists[own].counted_at if known else NEVER
        c += 2
        if known:
            fade(rules.arrival_rates, now - g.lists[own].counted_at, out.left, 0)
        for a in range(g.arrivals.shape[1]):
            value = g.arrivals[own, a] * out.left[0, a] if known else 0.0
            out.channels[entry, c] = value
            if counts:
                g.arrivals[own, a] = 1.0 + value
            c += 1
        if counts:
            g.lists[own].counted_at = now


@inlined
def label_channels(g: State, rules: Rules, out: Result, entry: int, row: int) -> None:
    """The smoothed spam share among a list's labelled members, their count, the share with half-lives, and the
    deviation of the row's own channels from the list's mean (0 from an empty list)."""
    now, relations = g.meta[0].watermark, g.owner.shape[1]
    c = relations * (2 + g.arrivals.shape[1])
    pseudo = rules.strength * rules.prior
    for r in range(relations):
        own = g.owner[row, r]
        labelled = float(g.judged[own].count) if own >= 0 else 0.0
        spam = float(g.judged[own].spam) if own >= 0 else 0.0
        out.channels[entry, c] = (spam + pseudo) / (labelled + rules.strength)
        out.channels[entry, c + 1] = labelled
        c += 2
        if labelled > 0:
            fade(rules.label_rates, now - g.judged[own].at, out.left, 0)
        for h in range(g.labelled.shape[1]):
            value = rules.prior
            if labelled > 0:
                fading = out.left[0, h]
                value = (g.spam[own, h] * fading + pseudo) / (g.labelled[own, h] * fading + rules.strength)
            out.channels[entry, c] = value
            c += 1
    for r in range(relations):
        own = g.owner[row, r]
        for d in range(g.levels.shape[1]):
            filled = own >= 0 and g.lists[own].count > 0
            out.channels[entry, c] = g.levels[row, d] - g.level_sums[own, d] / g.lists[own].weight if filled else 0.0
            c += 1


@inlined
def take_logarithms(g: State, rules: Rules, out: Result) -> None:
    """Take log1p of counts and seconds, of all entries at once: of one at a time it is a tenth of stage A."""
    relations, each = g.owner.shape[1], 2 + g.labelled.shape[1]
    arrivals = relations * (2 + g.arrivals.shape[1])
    for entry in range(out.counts[0].entries):
        channels = out.channels[entry]
        for c in range(arrivals):
            channels[c] = log1p(channels[c])
        for r in range(relations):
            labelled = arrivals + r * each + 1
            channels[labelled] = log1p(channels[labelled])


# ---- the operation log ----


@inlined
def push(g: State, out: Result, kind: int, own: int, source: int, weight: float) -> None:
    it = out.log[out.counts[0].operations]
    it.kind, it.list, it.source, it.weight = kind, own, source, weight
    out.counts[0].operations += 1


@inlined
def fits(g: State, out: Result, operations: int) -> bool:
    out.counts[0].wanted = out.counts[0].operations + operations
    return bool(out.counts[0].wanted <= len(out.log))


@inlined
def worst_case(g: State, rules: Rules, batch: Batch, out: Result, e: int) -> int:
    """No event can need more operations than this."""
    relations = g.owner.shape[1]
    cost = 4 * relations + row_cost(g, rules, out.row[e])
    for i in range(out.edge_start[e], out.edge_start[e + 1]):
        relation = batch.edge_relation[i]
        for row in (out.row[e], out.edge_row[i]):
            own = g.owner[row, relation]
            cost += 6 + (g.lists[own].count if own >= 0 and _may_sum_anew(g, rules, own, 0.0) else 0)
    return int(cost)


@inlined
def row_cost(g: State, rules: Rules, row: int) -> int:
    """Operations for a row to leave all its lists and enter them again."""
    cost, link = 2 * g.owner.shape[1], g.rows[row].links
    while link >= 0:
        own = g.links[link].list
        cost += 5 + (g.lists[own].count if _may_sum_anew(g, rules, own, _weight(g, rules, link)) else 0)
        link = g.links[link].row_next
    return int(cost)


@inlined
def _may_sum_anew(g: State, rules: Rules, own: int, weight: float) -> bool:
    it = g.lists[own]
    fading = rules.half_lives[it.relation] < np.inf and weight == 0.0  # of a link not known yet
    return fading or it.weight - weight < 2.0 * PRECISION * it.peak
