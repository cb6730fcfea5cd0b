"""The event log: topics of messages, and how far each group of consumers has come in them.

    topic "events"   position  0      1      2      3            append puts messages at the end, in order,
                              [..]   [..]   [..]   [..]   end=4  never changed afterwards
    group "score"                           ^ position=2         position = the next one to read

A position that no record has is possible in some logs (Kafka keeps the marks of transactions there): whoever reads goes
on at the position that the read gave, not at the last record's plus one. A log may forget its oldest messages; then a
topic begins after 0.

`Log` is the contract; one test module holds every log to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from pipeline.errors import FencedError, LogError

JSON = "application/json"
PACKED = "application/x-graphsieve-packed"
TOMBSTONE = "application/x-graphsieve-tombstone"  # a message without a value: what its key names is gone

READ_RECORDS = 4096  # at once, by those who read a topic to its end
READ_TIMEOUT_SECONDS = 10.0  # for records that the log says are there

Headers = tuple[tuple[str, bytes], ...]


class Message(NamedTuple):
    """What a producer appends."""

    value: bytes
    key: str | None = None  # bytes that are no UTF-8 stand as surrogates (PEP 383), and come back as they were
    content_type: str = JSON
    headers: Headers = ()  # besides the content type


class Record(NamedTuple):
    """What a reader gets."""

    position: int
    value: bytes
    key: str | None
    content_type: str
    appended_at: float  # seconds since the epoch; nan where the log does not know
    headers: Headers = ()
    # Where a log is merged from several topics (`merged_log`): which one this is from, and its position there.
    topic: str = ""
    offset: int = -1


class Columns(NamedTuple):
    """Records, column by column."""

    position: tuple[int, ...]
    value: tuple[bytes, ...]
    key: tuple[str | None, ...]
    content_type: tuple[str, ...]
    appended_at: tuple[float, ...]
    headers: tuple[Headers, ...]
    topic: tuple[str, ...]
    offset: tuple[int, ...]


class Records(list[Record]):
    """Records that are looked at by column too: one by one that takes twice as long."""

    @cached_property
    def columns(self) -> Columns:
        return Columns(*zip(*self, strict=True)) if self else Columns(*[()] * len(Columns._fields))


class Read(NamedTuple):
    """What one read gave."""

    records: list[Record]
    position: int  # the next to read
    end: int  # of the topic, as far as this read knows; at least `position`


class Progress(NamedTuple):
    """A group in a topic: where it began, and the next position it will read."""

    start: int
    position: int


class Move(NamedTuple):
    """A group's step in one topic."""

    start: int
    position: int


class Underway:
    """A commit that its log finishes beside the caller."""

    committed_at: float | None = None  # time.perf_counter() when it was durable


class Sending(NamedTuple):
    """What a log's commits are doing."""

    in_flight: int  # messages sent and not acknowledged
    producers_replaced: int  # because the broker stalled, or fenced them
    # time.perf_counter() when a broker was last asked for what it has not answered yet; None where nothing is awaited
    waiting_since: float | None = None


class Log(Protocol):
    """Topics of messages and the positions of the groups that read them. One object serves one thread at a time."""

    costly_commits: bool = False  # whether one costs so much that events had better wait for company

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        """Append all messages or none, durably, and return the topic's end."""

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        """Wait for a record at or after `position`, then return it and what follows, at most `max_records`.

        LogError if the topic begins after `position`: nothing is skipped.
        """

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        """Return as soon as one of the topics has a record at or after its position, or on timeout."""

    def commit(
        self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]
    ) -> Underway | None:
        """Append all outputs and move the group in all topics of `moves`, in one transaction.

        Returns None once that is durable, or earlier what tells when: then the next call, of `commit` or `flush`,
        raises what this one failed of.
        If the group is not where a move starts, another consumer has moved it: FencedError, and nothing is written.
        """

    def take_over(self, group: str, topics: Sequence[str], outputs: Sequence[str] = ()) -> None:
        """Prepare for commits that move the group in `topics` and append to `outputs`.

        What another consumer of the group has begun to commit is ended, where that does not end with its process.
        LogError where one of the topics has to be made first.
        """
        return

    def committed(self, group: str, topic: str) -> Progress:
        """Return the group's progress in `topic`; where it would begin, if it never committed."""

    def flush(self) -> None:
        """Wait until all that was committed is durable."""

    def begin(self, topic: str) -> int:
        """Return the first position that the topic still has."""
        return 0

    def end(self, topic: str) -> int:
        """Return the position that the next message will get."""

    def written(self, topic: str) -> int:
        """Return the position after all messages, those of a commit that is under way among them: `end`, or beyond.

        What a commit does may be seen part by part, and `committed` tell of it before `end` does: not where both ends,
        asked for after it, are the same.
        """
        return self.end(topic)

    def sending(self) -> Sending:
        """Return what commits are doing; nothing to tell where they are done when they return."""
        return Sending(0, 0)

    def close(self) -> None:
        """Let go of the file or the connection; may be called twice, may never be called."""


def read_to_end(log: Log, topic: str, position: int | None = None, end: int | None = None) -> Iterator[list[Record]]:
    """Yield what the topic holds from `position`, or its beginning, up to `end`, or its present end."""
    position = log.begin(topic) if position is None else position
    end = log.end(topic) if end is None else end
    while position < end:
        records, position, _ = read_before(log, topic, position, end)
        yield records


def read_before(log: Log, topic: str, position: int, end: int) -> Read:
    """Return the next records before `end`; LogError if the log comes no further towards it."""
    if position >= end:
        return Read([], position, end)
    read = log.read_batch(topic, position, min(READ_RECORDS, end - position), READ_TIMEOUT_SECONDS)
    if read.position == position:
        failure = LogError(
            f"topic {topic!r} gave nothing at position {position} for {READ_TIMEOUT_SECONDS:.0f} s, expected records "
            f"up to {end}: see whether the log is in good health, then start again"
        )
        failure.retriable = True  # a broker that is away comes back
        raise failure
    return clip(read, end)


def clip(read: Read, end: int) -> Read:
    """Return what `read` gave before `end`: a log that skips what no reader sees may have gone on beyond."""
    if read.position <= end:
        return read
    return Read([record for record in read.records if record.position < end], end, read.end)


def check_history(log: Log, group: str, topic: str) -> None:
    """Refuse a log that no longer has all events from where the group began: every later score rests on them."""
    begin, start = log.begin(topic), log.committed(group, topic).start
    if begin > start:
        raise LogError(
            f"topic {topic!r} begins at {begin}, but group {group!r} began at {start}: what its first scores rest on "
            "is gone; take a recording that was made in time, or keep the topic longer"
        )


def check_moves(group: str, moves: Mapping[str, Move], committed: Mapping[str, int]) -> None:
    """Refuse a commit of a group that another consumer has moved meanwhile."""
    for topic, move in moves.items():
        if committed[topic] != move.start:
            raise FencedError(
                f"group {group!r} is at position {committed[topic]} of {topic!r}, this consumer expected {move.start}: "
                "another consumer of the group is at work; stop one of them, or give it a group of its own"
            )
