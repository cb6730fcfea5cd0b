"""MergedLog: several topics of a log as one, in an order that is itself part of the log.

    reviews            r0 r1 r2 r3 ...               the topics, as their producers write them
    verdicts           v0 v1 ...
    reviews,verdicts   r0 r1 v0 r2 r3 v1 ...         what is read, in the order in which the scorer merged it
    journal            [r0 r1 v0] [r2 r3] ...        that order: an entry in the transaction of each commit

Up to the journal's end all read the same order from it: a scorer that recovers, the audit, whoever comes later. What
lies behind has no order yet. The consumer of the group (`live`) gives it one, by the times at which records were
appended as far as they are known, and commits it; to all others it is not there yet.

A merged position is the sum of the topics' own, each counted from where the merge began; so it leaves out what they do.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf

from pipeline.errors import ConfigError, LogError
from pipeline.log import Log, Message, Move, Progress, Read, Record, Sending, Underway, check_moves
from pipeline.merge_feeds import Feed, merge
from pipeline.merge_journal import BEGIN_ANEW, Entry, Journal, Step, encode_entry

AGREE_SECONDS = 5.0  # for journal and positions to tell of the same commit
LOOK_SECONDS = 0.1


class MergedLog(Log):
    """`topics` of `base` as one topic, named "A,B"; other topics are the base's own.

    What was read live and is not committed can be read again and is the same, until another consumer commits. Commits
    must be transactions: else a crash could leave scores of an order that no journal tells.

    Cost: some 2 µs a record besides the base's own.
    """

    def __init__(
        self,
        base: Log,
        topics: Sequence[str],
        journal: str,
        group: str,
        live: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        names = [*topics, journal]
        if len(set(names)) < len(names) or "" in names:
            raise ConfigError(
                f"topics.events = {','.join(topics)!r}, topics.journal = {journal!r}: expected names with commas "
                "between, and none of them twice"
            )
        self.topic = ",".join(topics)
        self._base, self._group, self._live, self._monotonic = base, group, live, monotonic
        self._topics, self._journal_topic = list(topics), journal
        self._journal = Journal(base, journal, group, topics)
        self._feeds = [Feed(base, topic) for topic in topics]
        self._tail: Entry | None = None  # what is merged and not committed: from the journal's end on
        self._position = -1  # where the feeds stand, together
        self.costly_commits = base.costly_commits
        self._steps: deque[Step] = deque()  # the way on from there, to the end of an entry

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        if topic == self.topic:
            raise LogError(f"topic {topic!r} is merged from several: append to one of {', '.join(self._topics)}")
        return self._base.append(topic, messages)

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        if topic != self.topic:
            return self._base.read_batch(topic, position, max_records, timeout_seconds)
        tail = self._known_tail()
        if not self._live and position >= tail.end:
            self.wait({topic: position}, timeout_seconds)
            tail = self._look()
        if position > tail.end or (position == tail.end and not self._live):
            return Read([], position, position)
        if position != self._position:
            self._enter(position)
        if position == tail.end:
            self._extend(tail, max_records, timeout_seconds)
        records = self._follow(tail.end, max_records, timeout_seconds)
        # The lag: a merged position is a sum, so it lacks to the end what its parts lack.
        lag = sum(feed.end - feed.position for feed in self._feeds) if self._live else tail.end - self._position
        return Read(records, self._position, self._position + lag)

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        base_positions = {topic: position for topic, position in positions.items() if topic != self.topic}
        if self.topic in positions:
            news = self._news_after(positions[self.topic])
            if not news:
                return
            base_positions |= news
        self._base.wait(base_positions, timeout_seconds)

    def commit(
        self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]
    ) -> Underway | None:
        """Commit to the base, with the order of the records that are moved past."""
        if self.topic not in moves:
            return self._base.commit(group, moves, outputs)
        self._check_group(group)
        move, tail = moves[self.topic], self._known_tail()
        check_moves(group, {self.topic: move}, {self.topic: tail.position})
        if not tail.position <= move.position <= tail.end:
            raise LogError(
                f"group {group!r} cannot move to position {move.position} of {self.topic!r}: expected one that its "
                f"consumer has merged, from {tail.position} to {tail.end}; read up to there first"
            )
        merged, rest = tail.cut(move.position)
        base_moves = {topic: other for topic, other in moves.items() if topic != self.topic}
        # The topics that did not move too: the base then fences whoever would merge them elsewhere.
        base_moves |= dict(zip(self._topics, map(Move, merged.offsets, rest.offsets), strict=True))
        entry = {self._journal_topic: [Message(encode_entry(merged))]} if merged.steps else {}
        underway = self._base.commit(group, base_moves, {**outputs, **entry})
        self._tail = rest
        return underway

    def take_over(self, group: str, topics: Sequence[str], outputs: Sequence[str] = ()) -> None:
        if list(topics) == [self.topic]:
            topics, outputs = self._topics, [*outputs, self._journal_topic]
        self._base.take_over(group, topics, outputs)

    def committed(self, group: str, topic: str) -> Progress:
        """Return the journal's end; LogError if a live log's group stands elsewhere in the topics."""
        if topic != self.topic:
            return self._base.committed(group, topic)
        self._check_group(group)
        return Progress(0, self._look().position)

    def flush(self) -> None:
        self._base.flush()

    def begin(self, topic: str) -> int:
        return 0 if topic == self.topic else self._base.begin(topic)

    def end(self, topic: str) -> int:
        """Return where the merge will be when it has all that the topics hold now; the journal's end if not live."""
        if topic != self.topic:
            return self._base.end(topic)
        if not self._live:
            return self._look().position
        tail = self._known_tail()
        beyond = (self._base.end(name) - offset for name, offset in zip(self._topics, tail.offsets, strict=True))
        return tail.position + sum(beyond)

    def written(self, topic: str) -> int:
        return self.end(topic) if topic == self.topic else self._base.written(topic)

    def sending(self) -> Sending:
        return self._base.sending()

    def close(self) -> None:
        self._base.close()

    # -- where the journal ends --

    def _known_tail(self) -> Entry:
        return self._look() if self._tail is None else self._tail

    def _look(self) -> Entry:
        """See where the journal ends now; what was merged from there on stays, unless others have committed."""
        tail = self._agreed_tail() if self._live else self._journal_end()
        if self._tail is None or tail.position != self._tail.position:
            self._tail, self._position = tail, -1
            self._steps.clear()
        return self._tail

    def _journal_end(self) -> Entry:
        last = self._journal.last()
        if last is not None:
            return last.after()
        begins = [self._base.committed(self._group, topic).start for topic in self._topics]
        return Entry(self._group, self._topics, 0, begins, [])

    def _agreed_tail(self) -> Entry:
        """Return the journal's end, once the group stands there: one may be seen a little earlier than the other."""
        deadline = self._monotonic() + AGREE_SECONDS
        while True:
            offsets = [self._base.committed(self._group, topic).position for topic in self._topics]
            tail = self._journal_end()
            if offsets == tail.offsets:
                break
            if self._monotonic() >= deadline:
                raise self._disagreement(offsets, tail.offsets)
            self._base.wait({self._journal_topic: self._base.end(self._journal_topic)}, LOOK_SECONDS)
        for topic, offset in zip(self._topics, offsets, strict=True):
            if (end := self._base.end(topic)) < offset:
                raise LogError(
                    f"topic {topic!r} ends at {end}, but {offset} of it were merged: events were removed; {BEGIN_ANEW}"
                )
        return tail

    def _disagreement(self, offsets: list[int], expected: list[int]) -> LogError:
        where = [
            f"{offset} of {topic!r}, its journal {self._journal_topic!r} says {other}"
            for topic, offset, other in zip(self._topics, offsets, expected, strict=True)
            if offset != other
        ]
        return LogError(
            f"group {self._group!r} is at position {'; '.join(where)}: its positions were set by hand, it read a topic "
            f"by itself before, or the journal is gone; {BEGIN_ANEW}"
        )

    def _check_group(self, group: str) -> None:
        if group != self._group:
            raise LogError(
                f"topic {self.topic!r} is merged for group {self._group!r}, not for {group!r}: a second group needs a "
                "topics.journal of its own"
            )

    # -- the way through what is merged --

    def _enter(self, position: int) -> None:
        """Stand at `position`, with the way to the end of the entry that holds it."""
        tail = self._known_tail()
        entry = tail if position >= tail.position else self._journal.holding(position)
        rest = entry.cut(position)[1]
        for feed, offset in zip(self._feeds, rest.offsets, strict=True):
            feed.seek(offset)
        self._position, self._steps = position, deque(rest.steps)

    def _follow(self, end: int, max_records: int, timeout_seconds: float) -> list[Record]:
        """Return the records on the way to `end`: at most `max_records`, and no more than wait in the feeds."""
        records: list[Record] = []
        while len(records) < max_records and self._position < end:
            if not self._steps:
                self._enter(self._position)
            feed = self._feeds[self._steps[0][0]]
            if feed.read_to == feed.position and (records or not feed.fill(timeout_seconds)):
                break
            records += self._step(max_records - len(records))
        return records

    def _step(self, room: int) -> list[Record]:
        """Go the next step as far as its feed has been read, and return its records, at most `room`."""
        i, length = self._steps.popleft()
        feed = self._feeds[i]
        topic, begin, shift = feed.topic, feed.position, self._position - feed.position
        taken = feed.take(begin + length, room)
        self._position = shift + feed.position
        if feed.position < begin + length:
            self._steps.appendleft((i, begin + length - feed.position))
        return [
            Record(shift + at, value, key, content_type, appended_at, headers, topic, at)
            for at, value, key, content_type, appended_at, headers, _, _ in taken
        ]

    # -- what is merged next --

    def _extend(self, tail: Entry, max_records: int, timeout_seconds: float) -> None:
        """Merge what the topics give, waiting for it if need be."""
        self._fill()
        patience = self._patience()
        if patience > 0:
            self._base.wait(self._used_up(), min(patience, timeout_seconds))
            self._fill()
            patience = self._patience()
        steps = merge(self._feeds, 0 if patience > 0 else max_records)
        tail.steps += steps
        self._steps.extend(steps)

    def _fill(self) -> None:
        for feed in self._feeds:
            if not feed.waiting:
                feed.fill(0.0)

    def _patience(self) -> float:
        """Return for how long to wait for topics that have given all they did: for ever if that are all."""
        if not any(feed.waiting for feed in self._feeds):
            return inf
        now = self._monotonic()
        return max((feed.patience(now) for feed in self._feeds if not feed.waiting), default=0.0)

    def _used_up(self) -> dict[str, int]:
        return {feed.topic: feed.read_to for feed in self._feeds if not feed.waiting}

    def _news_after(self, position: int) -> dict[str, int]:
        """Return where in the base something must come for a record to be there; nothing if there is one."""
        journal = {self._journal_topic: self._base.end(self._journal_topic)}  # first: what comes then is waited for
        tail = self._known_tail() if self._live else self._look()
        if position < tail.end:
            return {}
        if not self._live:
            return journal
        if self._position != tail.end:
            self._enter(tail.end)
        return {} if any(feed.waiting for feed in self._feeds) else self._used_up()
