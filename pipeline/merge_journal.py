"""The journal of a merged log: the order in which its topics were merged, an entry for each commit.

    position   where the entry begins in the merged log; it ends where the next one begins
    offsets    where it begins in each of the topics
    steps      (0, 12) (1, 3) (0, 1): the next 12 positions of the first topic, 3 of the second, 1 of the first

A merged position is the sum of the topics' own, each counted from where the merge began. So an entry says all by itself
where every record belongs, whatever positions a topic leaves without a record.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from pipeline.errors import LogError
from pipeline.log import Log, Read, Record, clip

READ_ENTRIES = 256  # at once, when they are followed one after the other
# A log may wait as long as it is told to where nothing is left but positions without a record: look often instead.
LOOK_SECONDS, LOOKS = 0.1, 100

BEGIN_ANEW = "begin anew with another --group, a topics.journal of its own and an empty --state"

Step = tuple[int, int]  # index of the topic, how many of its positions


class Entry(msgspec.Struct):
    """What one commit merged."""

    group: str
    topics: list[str]
    position: int
    offsets: list[int]
    steps: list[Step]

    @property
    def end(self) -> int:
        return self.position + sum(length for _, length in self.steps)

    def cut(self, position: int) -> tuple["Entry", "Entry"]:
        """Return what lies before `position`, in as few steps as can say it, and what lies from there on."""
        before: list[Step] = []
        behind, offsets, room = deque(self.steps), self.offsets.copy(), position - self.position
        while room > 0:
            topic, length = behind.popleft()
            if length > room:
                behind.appendleft((topic, length - room))
            taken = min(length, room)
            earlier = before.pop()[1] if before and before[-1][0] == topic else 0
            before.append((topic, earlier + taken))
            offsets[topic] += taken
            room -= taken
        return (
            Entry(self.group, self.topics, self.position, self.offsets, before),
            Entry(self.group, self.topics, position, offsets, list(behind)),
        )

    def after(self) -> "Entry":
        """Return the entry that comes next, with no steps yet."""
        return self.cut(self.end)[1]


encode_entry = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class Journal:
    """Reads the journal of one group and its topics; LogError if it is another's."""

    def __init__(self, log: Log, topic: str, group: str, topics: Sequence[str]) -> None:
        self._log, self._topic, self._group, self._topics = log, topic, group, list(topics)
        self._ahead: list[Entry] = []  # one after the other, as they were read last
        self._next = 0  # the journal topic's position behind them

    def last(self) -> Entry | None:
        """Return the newest entry; None if there is none."""
        begin, start = self._begin(), self._log.end(self._topic)
        back = 2  # Kafka: the entry, and the mark of its transaction
        while start > begin:
            start, stop, back = max(begin, start - back), start, 4 * back
            if record := self._last_between(start, stop):
                return self._entry(record)
        return None

    def holding(self, position: int) -> Entry:
        """Return the entry that holds `position`; quick for whoever goes from one to the next."""
        ahead = self._ahead
        if not ahead or not ahead[0].position <= position <= ahead[-1].end:
            self._ahead, self._next = [], self._find(position)
        if not self._ahead or position == self._ahead[-1].end:
            self._read_ahead(position)
        return self._ahead[bisect_right(self._ahead, position, key=lambda entry: entry.position) - 1]

    def _begin(self) -> int:
        """Return the journal topic's first position: where a group would begin in it, for none ever moves there."""
        return self._log.committed(self._group, self._topic).start

    def _last_between(self, start: int, stop: int) -> Record | None:
        last = None
        while start < stop:
            read = self._read(start, stop, READ_ENTRIES)
            last = read.records[-1] if read.records else last
            start = read.position
        return last

    def _find(self, position: int) -> int:
        """Return where in the journal topic the entry that holds `position` is: a few dozen reads, however many."""
        low, high = self._begin(), self._log.end(self._topic)
        # What comes first from `low` on begins at or before `position`, what comes first from `high` on behind it.
        first = self._read(low, high, 1).records
        if not first or self._entry(first[0]).position > position:
            raise self._lacks(position)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._read(middle, high, 1).records
            if found and self._entry(found[0]).position <= position:
                low = found[0].position
            else:
                high = middle
        return low

    def _read_ahead(self, position: int) -> None:
        """Read what follows in the journal topic, of which the first entry holds `position`."""
        read = self._read(self._next, self._log.end(self._topic), READ_ENTRIES)
        entries = [self._entry(record) for record in read.records]
        for earlier, later in pairwise([*self._ahead[-1:], *entries]):
            expected = earlier.after()
            if (later.position, later.offsets) != (expected.position, expected.offsets):
                raise self._lacks(expected.position)
        if not entries:
            raise self._lacks(position)
        self._ahead, self._next = entries, read.position

    def _read(self, start: int, stop: int, max_records: int) -> Read:
        """Return the first records between two positions of the journal topic, and how far that is."""
        for _ in range(LOOKS):
            read = clip(self._log.read_batch(self._topic, start, max_records, LOOK_SECONDS), stop)
            if read.records or read.position >= stop:
                return read
            start = read.position
        raise LogError(
            f"journal {self._topic!r} gave nothing at position {start} for {LOOKS * LOOK_SECONDS:.0f} s, expected "
            f"entries up to {stop}: see whether the log is in good health, then start again"
        )

    def _entry(self, record: Record) -> Entry:
        try:
            entry = _decode(record.value)
        except msgspec.MsgspecError:
            raise LogError(
                f"journal {self._topic!r} holds something else at position {record.position}: name a topic of its own "
                "in topics.journal"
            ) from None
        if entry.group != self._group:
            raise LogError(
                f"journal {self._topic!r} is of group {entry.group!r}, this is group {self._group!r}: go on with "
                f"--group {entry.group}, or name another topic in topics.journal"
            )
        if entry.topics != self._topics:
            raise LogError(
                f"journal {self._topic!r} merges {','.join(entry.topics)!r}, topics.events is "
                f"{','.join(self._topics)!r}: go on with those, or {BEGIN_ANEW}"
            )
        return entry

    def _lacks(self, position: int) -> LogError:
        return LogError(
            f"journal {self._topic!r} has no entry for position {position} of {','.join(self._topics)!r}, it was "
            f"removed: restore a newer snapshot, or {BEGIN_ANEW}, and keep it as long as its topics (retention.ms)"
        )
