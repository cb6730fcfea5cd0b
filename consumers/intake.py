"""What a shard scores next: events read from the log, gathered into micro-batches, and decoded.

    log --read--> records, waiting --take--> Taken, those of one micro-batch --decode--> MicroBatch

Nothing here is state of the shard, and reading moves nobody in the log: what was taken and is not committed is taken
again after a crash.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.batcher import MicroBatcher
from pipeline.config import Score
from pipeline.decoder import Decoder
from pipeline.events import BadEvent, EventBatch
from pipeline.log import Log, Move, Record, clip
from pipeline.stats import ServiceStats

POLL_SECONDS = 0.1  # the longest that a stop goes unnoticed
# Between two looks for company: a log asked at every event that comes costs more than the company brings.
GATHER_SECONDS = 0.002


@dataclass(slots=True, frozen=True)
class Taken:
    """Records that are scored and committed together."""

    records: Sequence[Record]
    move: Move  # of the group, with the commit
    # Of each read that it was gathered by: the first position, and monotonic seconds.
    read_from: list[int]
    read_at: list[float]


@dataclass(slots=True, frozen=True)
class MicroBatch(Taken):
    """The events of records that were taken."""

    events: EventBatch
    bad: list[BadEvent]
    decode_seconds: float


@dataclass
class Intake:
    """The micro-batches of one shard, in order. At most `max_batch` records wait; all that waits is taken at once."""

    log: Log
    topic: str
    decoder: Decoder
    limits: Score
    stats: ServiceStats
    monotonic: Callable[[], float]

    read_to: int = field(default=0, init=False)  # the next position to read
    backlog: bool = field(default=False, init=False)  # did the last read leave as much as it gave?
    _taken_to: int = field(default=0, init=False)  # what lies between waits
    _read_from: list[int] = field(default_factory=list, init=False)
    _read_at: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Where commits are cheap, what comes while a micro-batch is scored and committed is the next one: as large as
        # the load makes it, and nobody waits for company that may never come.
        wait = self.limits.max_wait_seconds if self.log.costly_commits else 0.0
        self._batcher: MicroBatcher[Record] = MicroBatcher(self.limits.max_batch, wait)

    def begin(self, position: int) -> None:
        """Go on from there."""
        self.read_to = self._taken_to = position

    @property
    def waits(self) -> bool:
        """Has anything been read that was not taken?"""
        return self._batcher.due_at() < math.inf

    def take(self, until: int | None, wait: bool = True) -> Taken | None:
        """Read what there is before `until`; return those of the micro-batch that is due, if one is.

        wait  for a record, while none is due
        """
        now = self.monotonic()
        room = self._batcher.room() if until is None else min(self._batcher.room(), until - self.read_to)
        read = self.log.read_batch(self.topic, self.read_to, room, self._wait_for_company(now) if wait else 0.0)
        read = read if until is None else clip(read, until)
        now = self.monotonic()
        if read.records:
            self._read_from.append(self.read_to)
            self._read_at.append(now)
        self.backlog = read.end - read.position >= max(1, len(read.records))
        self.read_to, self.stats.log_end = read.position, read.end
        self._batcher.add_all(read.records, now)
        return self._taken(self._batcher.take_if_due(now))

    def take_rest(self) -> Taken | None:
        """Return whatever waits, due or not."""
        return self._taken(self._batcher.take_all())

    def _wait_for_company(self, now: float) -> float:
        """Return how long the log may wait for a record, in seconds; where one waits already, sleep meanwhile."""
        due_at = self._batcher.due_at()
        left = max(0.0, min(due_at - now, POLL_SECONDS))
        if due_at == math.inf or self.read_to < (self.stats.log_end or 0):
            return left
        time.sleep(min(left, GATHER_SECONDS))
        return 0.0

    def _taken(self, records: Sequence[Record]) -> Taken | None:
        if not records:
            return None
        taken = Taken(records, Move(self._taken_to, self.read_to), self._read_from, self._read_at)
        self._taken_to, self._read_from, self._read_at = self.read_to, [], []
        return taken

    def decode(self, taken: Taken) -> MicroBatch:
        """Return the events of what was taken. Another thread may read and take meanwhile."""
        began = self.monotonic()
        events, bad = self.decoder.decode(taken.records)
        seconds = self.monotonic() - began
        return MicroBatch(taken.records, taken.move, taken.read_from, taken.read_at, events, bad, seconds)
