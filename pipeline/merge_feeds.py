"""The topics of a merged log as they come, and which record is next.

    position   of the next to be handed out, be it a record or a position without one
    read_to    behind all that was read from the log
    end        of the topic, as far as reads have told

Whoever reads ahead can put the topics in order without asking the log for each record: a cold start finds a year of
reviews in one topic and of verdicts in the other, and they must interleave as they happened.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, groupby, repeat
from math import inf
from operator import itemgetter

from pipeline.log import READ_RECORDS, Log, Record
from pipeline.merge_journal import Step

WAIT_FOR_OTHERS_SECONDS = 1.0  # for a topic that has records and does not give them, before the others go on

_position = itemgetter(Record._fields.index("position"))


class Feed:
    """One topic, read ahead in bulk."""

    def __init__(self, log: Log, topic: str) -> None:
        self.topic = topic
        self.position = self.read_to = self.end = -1
        self._log = log
        self._records: list[Record] = []
        self._times: list[float] = []  # of the records: none is before that of an earlier record
        self._latest = -inf  # the last of them
        self._next = 0  # the first record that is not handed out
        # The log was asked for the topic's end at this position, where it gave nothing; its answer; monotonic seconds.
        self._asked_at, self._holds_to, self._asked = -1, -1, 0.0

    @property
    def waiting(self) -> int:
        """How many records were read and not handed out."""
        return len(self._records) - self._next

    def seek(self, position: int) -> None:
        """Make this the next position; what was read ahead stays where it is the same."""
        if position == self.position:
            return
        self._records, self._times, self._latest, self._next = [], [], -inf, 0
        self.position = self.read_to = position
        self.end = max(position, self._log.end(self.topic))

    def fill(self, timeout_seconds: float) -> bool:
        """Read more when no record waits; tell whether there was any, or a position without one."""
        read = self._log.read_batch(self.topic, self.read_to, READ_RECORDS, timeout_seconds)
        # max keeps its first argument where the second is nan: a record without a time follows the one before at once.
        times = list(accumulate((record.appended_at for record in read.records), max, initial=self._latest))
        self._records, self._times, self._latest, self._next = read.records, times[1:], times[-1], 0
        moved, self.read_to = read.position > self.read_to, read.position
        self.end = max(self.end, read.end)
        return moved

    def take(self, stop: int, room: int) -> list[Record]:
        """Hand out the records before `stop` that wait, at most `room`, and go on behind them."""
        records, start = self._records, self._next
        last = min(start + room, len(records))
        self._next = bisect_left(records, stop, start, last, key=_position)
        taken = records[start : self._next]
        if self._next == len(records):
            self.position = min(stop, self.read_to)
        elif self._next < last:
            self.position = stop
        elif taken:
            self.position = taken[-1].position + 1
        return taken

    def behind(self, count: int) -> int:
        """Return the position behind the next `count` records that wait, and behind what follows without one."""
        if count == self.waiting:
            return self.read_to
        return self._records[self._next + count - 1].position + 1 if count else self.position

    def times(self, room: int) -> list[float]:
        return self._times[self._next : self._next + room]

    def patience(self, now: float) -> float:
        """Return for how many seconds the others should wait for this topic, of which no record waits here."""
        if self.end <= self.read_to:
            return 0.0
        if self._asked_at != self.read_to:  # what a read tells may count records of an unfinished transaction
            self._asked_at, self._asked, self._holds_to = self.read_to, now, self._log.end(self.topic)
        return max(0.0, self._asked + WAIT_FOR_OTHERS_SECONDS - now) if self.read_to < self._holds_to else 0.0


def merge(feeds: Sequence[Feed], room: int) -> list[Step]:
    """Return the next steps through what waits, by time and then by topic, with at most `room` records.

    Ends where a topic is used up that has more to give: what comes there may be older than what waits elsewhere.
    """
    timed: list[tuple[float, int]] = []
    for i, feed in enumerate(feeds):
        timed += zip(feed.times(room), repeat(i))
    timed.sort()
    chosen = [i for _, i in timed[:room]]
    for i, feed in enumerate(feeds):
        if 0 < feed.waiting == chosen.count(i) and feed.read_to < feed.end:
            del chosen[len(chosen) - chosen[::-1].index(i) :]
    return _steps(feeds, chosen)


def _steps(feeds: Sequence[Feed], chosen: Sequence[int]) -> list[Step]:
    """Return the way through the chosen records, and through what follows a topic's last ones without a record."""
    runs = [(i, sum(1 for _ in run)) for i, run in groupby(chosen)]
    steps, at, counts = [], [feed.position for feed in feeds], [0] * len(feeds)
    for i, count in [*runs, *((i, 0) for i in range(len(feeds)))]:
        counts[i] += count
        stop = feeds[i].behind(counts[i])
        if stop > at[i]:
            steps.append((i, stop - at[i]))
            at[i] = stop
    return steps
