"""What a consumer counts about itself: plain numbers, written by its loop, read by `metrics` at scrape.

No lock: one thread at a time writes the stats of a shard, every field is one number or one object, and the keys of
every dict are there from the start (a dict that grows while the scrape walks it raises). So the label values are
bounded too: a word outside the known ones counts as "other".
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.histogram import LatencyHistogram, ScoreHistogram, SizeHistogram
from pipeline.live.recent import Recent
from pipeline.log import Sending

Outcome = Literal["applied", "duplicate", "unknown", "expired", "bad"]
ShardState = Literal["restoring", "live", "released", "lost", "failed"]
Stage = Literal["decode", "A", "B", "C", "D", "commit"]

OTHER = "other"
EVENT_TYPES = ("node", "edge", "score", "label", "retract", OTHER)
# The first four are what the graph may say of an event, in the order of its codes (`graph_state`).
OUTCOMES: tuple[Outcome, ...] = ("applied", "duplicate", "unknown", "expired", "bad")
SHARD_STATES: tuple[ShardState, ...] = ("restoring", "live", "released", "lost", "failed")
WINDOWS = ("short", "long")  # of labelled scores, by the knobs quality.short_window and quality.window
NO_FIGURES = {"labelled": 0.0} | dict.fromkeys(("spam_share", "auroc", "ap", "precision", "recall"), math.nan)
AT_WORK: tuple[ShardState, ...] = ("restoring", "live")
STAGES: tuple[Stage, ...] = ("decode", "A", "B", "C", "D", "commit")


class Sizes(NamedTuple):
    """How large a shard's state is."""

    rows: int = 0
    row_capacity: int = 0
    lists: int = 0
    list_capacity: int = 0
    rows_bytes: int = 0
    lists_bytes: int = 0
    hidden_bytes: int = 0
    ids_bytes: int = 0

    @property
    def bytes(self) -> int:
        return self.rows_bytes + self.lists_bytes + self.hidden_bytes + self.ids_bytes


@dataclass
class ServiceStats:
    """One shard, from its start here to its end. Times are seconds, instants seconds since the epoch, nan where nothing
    happened yet."""

    reasons: tuple[str, ...] = ()  # of dead letters

    # Counts: they only grow, and go on when the shard comes back.
    events: dict[tuple[str, Outcome], int] = field(init=False)  # by type and outcome
    dead_letters: dict[str, int] = field(init=False)  # by reason
    scores: int = 0
    spam: int = 0  # the scores at or above their threshold
    score_value: ScoreHistogram = field(default_factory=ScoreHistogram)
    micro_batch_events: SizeHistogram = field(default_factory=SizeHistogram)
    score_latency: LatencyHistogram = field(default_factory=LatencyHistogram)  # event read -> score committed
    stage_seconds: dict[Stage, LatencyHistogram] = field(init=False)  # per micro-batch
    live_seconds: float = 0.0  # spent serving
    snapshots: int = 0
    snapshot_failures: int = 0
    replaced_before: int = 0  # producers, by earlier logs of the shard

    # What the shard is now; tells nothing once it has ended.
    state: ShardState = "restoring"
    last_event_ts: float = math.nan
    position: int = 0  # in the events topic
    log_end: int | None = None  # unknown before the first read
    restore_progress: float = 0.0  # share of the replay from the snapshot to the committed position; 1 = scoring
    # Asked at the scrape: when the broker stalls, the loop waits in a commit and could write nothing here.
    sending: Callable[[], Sending] = lambda: Sending(0, 0)

    sizes: Callable[[], Sizes] = Sizes  # likewise: reckoned at every micro-batch, a thirtieth of a quiet stream

    recent: Recent | None = None  # where a page shows it

    snapshot_seconds: float = math.nan  # how long the last one took
    snapshot_written_at: float = math.nan  # of the newest, also one that an earlier process wrote
    snapshot_bytes: int = 0

    def __post_init__(self) -> None:
        self.events = {(type_, outcome): 0 for type_ in EVENT_TYPES for outcome in OUTCOMES}
        self.dead_letters = dict.fromkeys((*self.reasons, OTHER), 0)
        self.stage_seconds = {stage: LatencyHistogram() for stage in STAGES}

    @property
    def at_work(self) -> bool:
        return self.state in AT_WORK

    @property
    def in_flight(self) -> int:
        """Messages sent to the log and not acknowledged."""
        return self.sending().in_flight

    @property
    def producers_replaced(self) -> int:
        """Because the broker stalled, or fenced them."""
        return self.replaced_before + self.sending().producers_replaced

    def count_events(self, event_type: str, outcome: Outcome, count: int = 1) -> None:
        self.events[event_type if event_type in EVENT_TYPES else OTHER, outcome] += count

    def count_dead_letters(self, reason: str, count: int = 1) -> None:
        self.dead_letters[reason if reason in self.dead_letters else OTHER] += count

    def let_go(self) -> None:
        """Keep what the log said last of its producers, and nothing of the state; call it before the log is closed."""
        last = self.sending()
        self.sending = lambda: Sending(0, last.producers_replaced)
        self.sizes = Sizes
        self.recent = None

    def add_counts(self, other: "ServiceStats") -> None:
        """Count all that `other`, of the same reasons, has counted."""
        for key, count in other.events.items():
            self.events[key] += count
        for reason, count in other.dead_letters.items():
            self.dead_letters[reason] += count
        self.scores += other.scores
        self.spam += other.spam
        self.score_value.add(other.score_value)
        self.micro_batch_events.add(other.micro_batch_events)
        self.score_latency.add(other.score_latency)
        for stage, histogram in other.stage_seconds.items():
            self.stage_seconds[stage].add(histogram)
        self.live_seconds += other.live_seconds
        self.snapshots += other.snapshots
        self.snapshot_failures += other.snapshot_failures
        self.replaced_before += other.producers_replaced


@dataclass
class GroupStats:
    """A process: its shards, those that it has let go of too, for their counts must not fall."""

    model_version: str = ""
    schema_name: str = ""
    reasons: tuple[str, ...] = ()  # of dead letters
    threshold: float = math.nan  # from which on a score is spam
    shards: dict[int, ServiceStats] = field(default_factory=dict)  # by partition; replaced by a new one, never changed
    rebalances: int = 0  # changes of what this process serves
    _beginning: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self, partition: int) -> ServiceStats:
        """Return new stats for a shard that begins here; its counts go on where they stopped.

        An earlier thread of the shard that still hangs keeps its old ones, which nobody reads any more.
        """
        new = ServiceStats(self.reasons)
        with self._beginning:  # one thread starts shards that are new here, another those that have failed
            if partition in self.shards:
                new.add_counts(self.shards[partition])
            self.shards = {**self.shards, partition: new}
        return new

    def counts(self) -> ServiceStats:
        """Return what all shards together have counted, and nothing of what they are."""
        total = ServiceStats(self.reasons)
        for shard in self.shards.values():
            total.add_counts(shard)
        return total


@dataclass
class QualityStats:
    """What labels said about scores. A share that cannot be told yet is nan."""

    joined: int = 0  # scores that met their label, ever
    pending: int = 0  # scores that wait for one
    dropped: int = 0  # scores that stopped waiting, because too many did
    unreadable: int = 0  # messages of the scores topic that are no score

    # Replaced as a whole, once a second.
    windows: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: dict.fromkeys(WINDOWS, NO_FIGURES))
    threshold: float = math.nan  # of the newest labelled score
    expected_auroc: float | None = None  # by the checkpoint, if there is one that tells
    expected_average_precision: float | None = None
    drift: Mapping[str, float] = field(default_factory=dict)  # PSI by channel; none without a reference
    score_drift: float | None = None
