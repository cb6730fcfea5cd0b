"""What the graph remembers, as arrays: the fields of its rows, lists and links.

Everything is an index into these; -1 is none. `graph` says what the whole means and its invariants; `graph_kernel` and
`graph_lists` are the compiled code over them. All arrays are passed together, as one `State`.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.texts_kernel import Column

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
    edge_links: Array  # (K,) EDGE_LINK: what links have besides where there are edges, else never written to
    owner: Array  # (N, R) the list that a row reads
    levels: Array  # (N, D) the row's deviating own channels
    level_sums: Array  # (L, D) weighted, over the members
    arrivals: Array  # (L, A) decayed arrival counts as of `counted_at`
    judged: Array  # (L,) JUDGED: apart from `lists`, as all of labels: where none come only a list that empties writes
    labelled: Array  # (L, H) decayed counts of labelled members as of judged.at
    spam: Array  # (L, H) ... of the spam among them
    meta: Array  # (1,) META
    free_rows: Array  # stack of those that were in use; its height is meta.free_rows
    free_lists: Array  # likewise
    idle_rows: Array  # rows that may be free at the end of the batch; then, those that are
    idle_lists: Array


ROW_ARRAYS = ("rows", "owner", "levels")  # these tell of rows, those of links and of lists
LINK_ARRAYS = ("links", "edge_links")
LIST_ARRAYS = ("lists", "level_sums", "arrivals", "judged", "labelled", "spam")


class Rules(NamedTuple):
    """What the schema says, as numbers."""

    has_edges: bool
    half_lives: Array  # (R,) seconds; inf: none
    directed: Array  # (R,) bool
    max_neighbours: Array  # (R,) 0: no bound
    group_of: Array  # (R,) index among the group relations, -1 for an edge relation
    arrival_rates: Array  # (A or more,) halvings a second, and zeros behind them, see `fade`
    label_rates: Array  # (H or more,)
    prior: float
    deviating: Array  # (D,) which own channels
    strength: float
    ttl: float


class Batch(NamedTuple):
    """The events, as in `EventBatch`."""

    kind: Array  # (n,)
    ts: Array  # (n,) nan for retract
    target: Array  # (n,) to be scored
    label: Array  # (n,)
    features: Array  # (n, F)
    edge_event: Array  # (m,) ascending
    edge_relation: Array  # (m,)
    id: Column  # (n,)
    keys: Column  # (groups, n)
    edge_other: Column  # (m,)


class Targets(NamedTuple):
    """Entries that are to be scored."""

    entry: Array  # (n,) int64
    event: Array  # (n,) int64
    row: Array  # (n,) int32


class Result(NamedTuple):
    """What the loop fills in: room for n events and m edges, of which a micro-batch takes what it needs."""

    tags: Array  # (n or m,) int64: of names, while they are looked up
    row: Array  # (n,) what the event's id stands for
    group_lists: Array  # (groups, n) list of each group key, -1 none
    edge_start: Array  # (n + 1,) the edges of event e are edge_start[e] .. edge_start[e + 1]
    edge_row: Array  # (m,) the row at the other end
    outcome: Array  # (n,)
    counts: Array  # (1,) COUNTS
    log: Array  # OPERATION
    entries: Array  # (n,) ENTRY
    channels: Array  # (n, G) the channels that the graph gives entry b
    targets: Targets  # (n,) each
    kept: Array  # (n,) KEPT
    left: Array  # (2, A and H or more) of 1 after some seconds at each rate, while an event is applied


# Without gaps: what a field that crosses a cache line costs is less than what the gaps would.
ROW = np.dtype(
    [
        ("ts", "f8"),  # event time of its node event
        ("label_ts", "f8"),  # watermark when its label came
        ("links", "i4"),  # newest of its links
        ("older", "i4"),  # neighbours in the expiry queue
        ("newer", "i4"),
        ("fresh", "i4"),  # its newest entry of this micro-batch; -1: the cache holds its values
        ("state", "i1"),  # ABSENT, PLACEHOLDER, LIVE
        ("label", "i1"),  # 1 spam, 0 not, -1 unknown
        ("idle", "i1"),  # noted as perhaps free
    ]
)
LIST = np.dtype(
    [
        ("weight", "f8"),  # sum of the members' weights
        ("landmark", "f8"),  # event time at which a weight is 1 (half-life)
        ("counted_at", "f8"),  # watermark of the last arrival, the time of `arrivals`; -inf: none yet
        ("peak", "f4"),  # the largest weight since it was last summed anew
        ("relation", "i2"),
        ("owner", "i4"),  # row of an edge relation's list, -1 for a group's
        ("first", "i4"),  # oldest and newest link
        ("last", "i4"),
        ("links", "i4"),
        ("count", "i4"),  # links that have entered: the members
        ("idle", "i1"),
    ]
)
JUDGED = np.dtype([("at", "f8"), ("count", "i4"), ("spam", "i4")])  # watermark of the last label; labelled members
LINK = np.dtype(
    [
        ("list", "i4"),
        ("row", "i4"),  # -1: the link is free
        ("prev", "i4"),  # in the list
        ("next", "i4"),
        ("row_next", "i4"),  # among the row's links
    ]
)
EDGE_LINK = np.dtype(
    [
        ("ts", "f8"),  # of the edge that made the link; a group's has the time of its row
        ("row_prev", "i4"),  # without edges a row has a few links, and is walked
    ]
)
META = np.dtype(
    [
        ("watermark", "f8"),
        ("expired", "i8"),  # nodes that ttl has removed so far
        ("oldest", "i4"),  # ends of the expiry queue
        ("newest", "i4"),
        ("present", "i4"),  # its length
        ("free_link", "i4"),  # head of the chain of free links
        ("rows_used", "i4"),  # so many were ever in use; those behind are zeros
        ("lists_used", "i4"),
        ("links_used", "i4"),
        ("free_rows", "i4"),
        ("free_lists", "i4"),
        ("idle_rows", "i4"),
        ("idle_lists", "i4"),
    ],
    align=True,
)
COUNTS = np.dtype(  # how much of a result's arrays is filled in
    [
        ("entries", "i8"),
        ("targets", "i8"),
        ("kept", "i8"),
        ("operations", "i8"),
        ("wanted", "i8"),  # the log's length that the next step asks for
    ]
)
