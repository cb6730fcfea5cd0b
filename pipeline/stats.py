"""What a consumer counts about itself: plain numbers, written by its loop, read by `metrics` at scrape.

No lock: one thread writes, every field is one number or one object, and the keys of every dict are there from the start
(a dict that grows while the scrape walks it raises). So the label values are bounded too: a word outside the known ones
counts as "other".
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.histogram import LatencyHistogram, SizeHistogram

Outcome = Literal["applied", "duplicate", "unknown", "expired", "bad"]
Stage = Literal["decode", "A", "B", "C", "D", "commit"]

OTHER = "other"
EVENT_TYPES = ("node", "edge", "score", "label", "retract", OTHER)
# The first four are what the graph may say of an event, in the order of its codes (`graph_state`).
OUTCOMES: tuple[Outcome, ...] = ("applied", "duplicate", "unknown", "expired", "bad")
STAGES: tuple[Stage, ...] = ("decode", "A", "B", "C", "D", "commit")


@dataclass
class ServiceStats:
    """One scoring consumer. Times are seconds, instants seconds since the epoch, nan where nothing happened yet."""

    reasons: tuple[str, ...] = ()  # of dead letters
    model_version: str = ""
    schema_name: str = ""

    events: dict[tuple[str, Outcome], int] = field(init=False)  # by type and outcome
    dead_letters: dict[str, int] = field(init=False)  # by reason
    scores: int = 0
    spam: int = 0  # the scores at or above their threshold
    last_event_ts: float = math.nan

    micro_batch_events: SizeHistogram = field(default_factory=SizeHistogram)
    score_latency: LatencyHistogram = field(default_factory=LatencyHistogram)  # event read -> score committed
    stage_seconds: dict[Stage, LatencyHistogram] = field(init=False)  # per micro-batch

    position: int = 0  # in the events topic
    log_end: int = 0
    restore_progress: float = 0.0  # share of the replay from the snapshot to the committed position; 1 = scoring

    rows: int = 0
    row_capacity: int = 0
    lists: int = 0
    list_capacity: int = 0
    rows_bytes: int = 0
    lists_bytes: int = 0
    hidden_bytes: int = 0
    ids_bytes: int = 0

    snapshots: int = 0
    snapshot_failures: int = 0
    snapshot_seconds: float = math.nan  # how long the last one took
    snapshot_written_at: float = math.nan  # of the newest, also one that an earlier process wrote
    snapshot_bytes: int = 0

    def __post_init__(self) -> None:
        self.events = {(type_, outcome): 0 for type_ in EVENT_TYPES for outcome in OUTCOMES}
        self.dead_letters = dict.fromkeys((*self.reasons, OTHER), 0)
        self.stage_seconds = {stage: LatencyHistogram() for stage in STAGES}

    def count_events(self, event_type: str, outcome: Outcome, count: int = 1) -> None:
        self.events[event_type if event_type in EVENT_TYPES else OTHER, outcome] += count

    def count_dead_letters(self, reason: str, count: int = 1) -> None:
        self.dead_letters[reason if reason in self.dead_letters else OTHER] += count


@dataclass
class QualityStats:
    """What labels said about scores. A share that cannot be told yet is nan."""

    joined: int = 0  # scores that met their label, ever
    pending: int = 0  # scores that wait for one
    dropped: int = 0  # scores that stopped waiting, because too many did
    unreadable: int = 0  # messages of the scores topic that are no score

    window: int = 0  # how many joined scores the figures below are over
    auroc: float = math.nan
    average_precision: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    threshold: float = math.nan
    spam_share: float = math.nan
