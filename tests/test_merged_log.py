"""Several topics read as one: nothing lost, nothing twice, and one order for all who ever read it."""

import math
import random
import tempfile
import threading
from bisect import bisect_left
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import Crash, FakeClock, ListLog
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka_topics import make_topics, own_name
from worlds import START, random_model, world

from consumers.score import ScoreConsumer
from pipeline.audit import audit
from pipeline.config import Config, Score, Topics
from pipeline.errors import ConfigError, FencedError, LogError
from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import JSON, Log, Message, Move, Progress, Read, Record, Sending, read_to_end
from pipeline.merge_feeds import WAIT_FOR_OTHERS_SECONDS
from pipeline.merged_log import MergedLog
from pipeline.snapshot_store import open_store
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import ServiceStats

TOPICS = ["reviews", "verdicts", "payments"]
MERGED = "reviews,verdicts,payments"


class GappedLog(ListLog):
    """Positions as Kafka's: each append leaves some without a record behind it, and the oldest records can go."""

    def __init__(self, gap: int = 1, clock: FakeClock | None = None) -> None:
        super().__init__(clock)
        self.gap = gap
        self.ends: dict[str, int] = {}
        self.begins: dict[str, int] = {}
        self.starts: dict[tuple[str, str], int] = {}

    def append(self, topic, messages):
        first = self.end(topic)
        self.topics.setdefault(topic, []).extend(
            Record(position, m.value, m.key, m.content_type, self.clock(), m.headers)
            for position, m in enumerate(messages, first)
        )
        self.ends[topic] = first + len(messages) + self.gap
        return self.ends[topic]

    def forget(self, topic: str, before: int) -> None:
        self.begins[topic] = before
        self.topics[topic] = [record for record in self.topics[topic] if record.position >= before]

    def read_batch(self, topic, position, max_records, timeout_seconds):
        if position < self.begins.get(topic, 0):
            raise LogError(f"{topic} begins after {position}")
        self.wait({topic: position}, timeout_seconds)
        records = self.topics.get(topic, [])
        first = bisect_left(records, position, key=lambda record: record.position)
        given = records[first : first + max_records]
        rest = records[first + max_records :]
        reached = rest[0].position if rest else max(position, self.end(topic))
        return Read(given, reached, max(reached, self.end(topic)))

    def commit(self, group, moves, outputs):
        begins = {(group, topic): move.start for topic, move in moves.items() if (group, topic) not in self.positions}
        super().commit(group, moves, outputs)
        self.starts |= begins

    def committed(self, group, topic):
        begin = self.begins.get(topic, 0)
        key = (group, topic)
        return Progress(self.starts.get(key, begin), self.positions.get(key, begin))

    def end(self, topic):
        return self.ends.get(topic, 0)


def opened(base: Log, *, live: bool = True, topics: list[str] = TOPICS, group: str = "g", **options) -> MergedLog:
    return MergedLog(base, topics, "journal", group, live, **options)


def append(base: ListLog, topic: str, *times: float) -> None:
    """Append a record at each time; it says which topic's how manieth it is."""
    for when in times:
        base.clock.now = when
        count = len(base.topics.get(topic, []))
        base.append(topic, [Message(f"{topic[0]}{count}".encode())])


def values(records: list[Record]) -> str:
    return " ".join(record.value.decode() for record in records)


def everything(log: MergedLog, position: int = 0) -> list[Record]:
    return [record for records in read_to_end(log, log.topic, position) for record in records]


def commit_all(log: MergedLog, max_records: int = 1000) -> list[Record]:
    """Read and commit, `max_records` at a time, all that there is."""
    records, position = [], log.committed("g", log.topic).position
    while position < log.end(log.topic):
        read = log.read_batch(log.topic, position, max_records, 0.0)
        log.commit("g", {log.topic: Move(position, read.position)}, {})
        records += read.records
        position = read.position
    return records


# ---- one order, whatever happens ----

TIMES = st.one_of(st.floats(0, 10), st.just(math.nan))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(TOPICS), st.integers(1, 4), TIMES),
        st.tuples(st.just("read"), st.integers(1, 7)),
        st.tuples(st.just("read again"), st.floats(0, 1)),
        st.tuples(st.just("commit"), st.sampled_from([1.0, 1.0, 0.5])),
        st.tuples(st.just("crash")),
    ),
    max_size=60,
)


class Consumer:
    """Reads, commits and crashes as it is told; `history` is what it has committed."""

    def __init__(self, base: ListLog | SqliteLog, clock: FakeClock) -> None:
        self.base, self.clock = base, clock
        self.history: list[Record] = []
        self.crash()

    def crash(self) -> None:
        self.log = opened(self.base)
        self.position = self.read_to = self.log.committed("g", MERGED).position
        self.pending: list[Record] = []

    def append(self, topic: str, count: int, when: float) -> None:
        self.clock.now = when
        self.base.append(topic, [Message(b"%d" % i, topic) for i in range(count)])

    def read(self, max_records: int) -> None:
        read = self.log.read_batch(MERGED, self.read_to, max_records, 0.0)
        assert len(read.records) <= max_records
        assert self.read_to <= read.position <= read.end
        self.pending += read.records
        self.read_to = read.position

    def read_again(self, share: float) -> None:
        """From anywhere, also from what was committed long ago: it is all still the same."""
        start = round(share * self.read_to)
        again, position = [], start
        while position < self.read_to:
            read = self.log.read_batch(MERGED, position, self.read_to - position, 0.0)
            assert read.position > position
            again += [record for record in read.records if record.position < self.read_to]
            position = read.position
        assert again == [record for record in [*self.history, *self.pending] if record.position >= start]
        self.read(1)  # and it goes on where it was, as far as it had come
        assert self.read_to >= position

    def commit(self, share: float) -> None:
        stop = self.position + math.ceil(share * (self.read_to - self.position))
        self.log.commit("g", {MERGED: Move(self.position, stop)}, {"scores": [Message(b"")]})
        self.history += [record for record in self.pending if record.position < stop]
        self.pending = [record for record in self.pending if record.position >= stop]
        self.position = stop


def check_history(base: ListLog | SqliteLog, clock: FakeClock, operations: list[tuple]) -> None:
    consumer = Consumer(base, clock)
    does = {
        "append": consumer.append, "read": consumer.read, "read again": consumer.read_again,
        "commit": consumer.commit, "crash": consumer.crash,
    }  # fmt: skip
    for name, *arguments in operations:
        does[name](*arguments)
    while consumer.read_to < consumer.log.end(MERGED):
        consumer.read(5)
    consumer.commit(1.0)

    history = consumer.history
    positions = [record.position for record in history]
    assert positions == sorted(set(positions))
    for topic in TOPICS:
        came = [Message(r.value, r.key) for r in history if r.topic == topic]
        offsets = [r.offset for r in history if r.topic == topic]
        records = [record for records in read_to_end(base, topic) for record in records]
        assert (came, offsets) == ([Message(r.value, r.key) for r in records], [r.position for r in records])
    reader = opened(base, live=False)
    assert everything(reader) == history
    for start in positions[:: max(1, len(positions) // 5)]:
        assert everything(opened(base, live=False), start) == history[positions.index(start) :]


@settings(max_examples=150)
@given(OPERATIONS)
def test_all_who_read_the_journal_read_what_the_consumer_committed(operations):
    base = ListLog()
    check_history(base, base.clock, operations)


@settings(max_examples=150)
@given(OPERATIONS, st.integers(1, 3))
def test_the_order_is_one_also_where_positions_have_gaps(operations, gap):
    base = GappedLog(gap)
    check_history(base, base.clock, operations)


@settings(max_examples=15)
@given(OPERATIONS)
def test_the_order_is_one_on_the_embedded_log(operations):
    operations = [op for op in operations if not (op[0] == "append" and math.isnan(op[3]))]
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as folder, closing(SqliteLog(Path(folder) / "log.db", clock=clock)) as base:
        check_history(base, clock, operations)


def test_two_consumers_of_a_group_never_merge_the_same_twice():
    base = ListLog()
    append(base, "reviews", 1, 3, 5)
    append(base, "verdicts", 2, 4)
    first, second = opened(base), opened(base)
    first.read_batch(MERGED, 0, 2, 0.0)
    second.read_batch(MERGED, 0, 3, 0.0)
    first.commit("g", {MERGED: Move(0, 2)}, {"scores": [Message(b"1")]})

    with pytest.raises(FencedError, match=r"^group 'g' is at position 1 of 'reviews', this consumer expected 0"):
        second.commit("g", {MERGED: Move(0, 3)}, {"scores": [Message(b"2")]})
    assert base.end("scores") == 1
    assert second.committed("g", MERGED) == Progress(0, 2)
    assert values(second.read_batch(MERGED, 2, 10, 0.0).records) == "r1 v1 r2"
    with pytest.raises(FencedError, match=r"^group 'g' is at position 2 of 'reviews,verdicts,payments'"):
        second.commit("g", {MERGED: Move(0, 3)}, {})


def test_what_was_merged_stays_merged_while_somebody_asks_where_the_group_stands():
    base = ListLog()
    append(base, "reviews", 5, 6)
    log = opened(base)
    assert values(log.read_batch(MERGED, 0, 10, 0.0).records) == "r0 r1"
    append(base, "verdicts", 1)
    assert log.committed("g", MERGED) == Progress(0, 0)
    assert values(log.read_batch(MERGED, 0, 10, 0.0).records) == "r0 r1"
    assert values(log.read_batch(MERGED, 2, 10, 0.0).records) == "v0"


# ---- which order ----


def test_a_backlog_is_merged_by_time():
    base = ListLog()
    append(base, "reviews", 1, 3, 5, 9)
    append(base, "verdicts", 2, 6, 7)
    append(base, "payments", 6, 8)
    assert values(commit_all(opened(base), 4)) == "r0 v0 r1 r2 v1 p0 v2 p1 r3"


def test_records_of_one_topic_keep_their_order_whatever_their_times_say():
    base = ListLog()
    append(base, "reviews", 5, 1, 6)
    append(base, "verdicts", 2, 5.5)
    assert values(commit_all(opened(base))) == "v0 r0 r1 v1 r2"


def test_a_record_without_a_time_comes_right_after_the_one_before():
    base = ListLog()
    append(base, "reviews", 1, 4, math.nan, 9)
    append(base, "verdicts", math.nan, 3, 5)
    assert values(commit_all(opened(base))) == "v0 r0 v1 r1 r2 v2 r3"


def test_a_merged_record_tells_where_it_comes_from():
    base = GappedLog()
    base.append("verdicts", [Message(b"{}", "k", "text/plain", (("trace", b"1"),))])
    (record,) = commit_all(opened(base))
    assert record == Record(0, b"{}", "k", "text/plain", 0.0, (("trace", b"1"),), "verdicts", 0)


def test_merged_positions_leave_out_what_the_topics_leave_out():
    base = GappedLog(gap=2)
    append(base, "reviews", 1, 3)
    append(base, "verdicts", 2)
    log = opened(base)
    assert log.end(MERGED) == 9
    assert [(r.position, r.topic, r.offset) for r in commit_all(log)] == [
        (0, "reviews", 0), (1, "verdicts", 0), (6, "reviews", 3),
    ]  # fmt: skip
    assert log.committed("g", MERGED).position == 9


class HeldLog(ListLog):
    """A log of which a topic has more than it gives, as while a broker is slow or a transaction is open."""

    held = "verdicts"
    unfinished = 0  # how many of the held topic's records belong to no finished transaction

    def read_batch(self, topic, position, max_records, timeout_seconds):
        if topic != self.held:
            return super().read_batch(topic, position, max_records, timeout_seconds)
        self.clock.sleep(timeout_seconds)
        return Read([], position, super().end(topic))

    def wait(self, positions, timeout_seconds):
        super().wait({t: p for t, p in positions.items() if t != self.held}, timeout_seconds)

    def end(self, topic):
        return super().end(topic) - (self.unfinished if topic == self.held else 0)


def test_a_topic_that_has_records_is_waited_for_but_not_for_ever():
    base = HeldLog()
    append(base, "verdicts", 1, 4)
    append(base, "reviews", 2, 3, 5)
    log = opened(base, monotonic=base.clock)
    began = base.clock()
    while not (read := log.read_batch(MERGED, 0, 10, 0.1)).records:
        assert base.clock() - began <= WAIT_FOR_OTHERS_SECONDS
    assert base.clock() - began >= WAIT_FOR_OTHERS_SECONDS
    assert values(read.records) == "r0 r1 r2"
    assert read.end == 5

    base.held = ""
    assert values(log.read_batch(MERGED, 3, 10, 0.1).records) == "v0 v1"


def test_what_comes_while_it_is_waited_for_takes_its_place():
    base = HeldLog()
    append(base, "verdicts", 1, 4)
    append(base, "reviews", 2, 3, 5)
    log = opened(base, monotonic=base.clock)
    assert log.read_batch(MERGED, 0, 10, 0.1).records == []
    base.held = ""
    assert values(log.read_batch(MERGED, 0, 10, 0.1).records) == "v0 r0 r1 v1 r2"


def test_records_that_no_reader_may_see_yet_are_not_waited_for():
    base = HeldLog()
    base.unfinished = 2
    append(base, "verdicts", 1, 4)
    append(base, "reviews", 2, 3)
    began = base.clock()
    assert values(opened(base, monotonic=base.clock).read_batch(MERGED, 0, 10, 0.1).records) == "r0 r1"
    assert base.clock() == began


def test_a_long_backlog_interleaves_beyond_what_is_read_at_once():
    base = ListLog()
    append(base, "reviews", *(when for when in range(20_000) if when % 4))
    append(base, "verdicts", *range(0, 20_000, 4))
    times = [record.appended_at for record in commit_all(opened(base), 700)]
    assert times == list(range(20_000))


# ---- cost ----


class CountingLog(ListLog):
    """Counts what it is asked."""

    asked = 0

    def read_batch(self, topic, position, max_records, timeout_seconds):
        self.asked += 1
        return super().read_batch(topic, position, max_records, timeout_seconds)


def long_journal() -> CountingLog:
    base = CountingLog()
    base.append("reviews", [Message(b"r")] * 6000)
    base.append("verdicts", [Message(b"v")] * 6000)
    commit_all(opened(base), 3)
    assert base.end("journal") >= 4000
    return base


def test_any_position_of_a_long_journal_is_found_in_few_reads():
    base = long_journal()
    for position in (0, 1, 5999, 6000, 7531, 11_999):
        base.asked = 0
        (record,) = opened(base, live=False).read_batch(MERGED, position, 1, 0.0).records
        assert record.position == position
        assert base.asked < 20


def test_a_long_journal_is_followed_in_few_reads():
    base = long_journal()
    base.asked = 0
    assert len(everything(opened(base, live=False))) == 12_000
    assert base.asked < 50


# ---- what is there for whom ----


def test_what_is_not_committed_is_there_for_the_consumer_only():
    base = ListLog()
    append(base, "reviews", 1, 2)
    append(base, "verdicts", 3)
    live, reader = opened(base), opened(base, live=False)
    live.read_batch(MERGED, 0, 2, 0.0)

    assert (live.end(MERGED), reader.end(MERGED)) == (3, 0)
    assert reader.read_batch(MERGED, 0, 10, 0.0) == Read([], 0, 0)
    live.commit("g", {MERGED: Move(0, 2)}, {})
    assert (live.end(MERGED), reader.end(MERGED)) == (3, 2)
    assert values(reader.read_batch(MERGED, 0, 10, 0.0).records) == "r0 r1"
    assert reader.committed("g", MERGED) == live.committed("g", MERGED) == Progress(0, 2)


def test_a_reader_that_waits_at_the_end_reads_what_is_committed_meanwhile():
    base = ListLog()
    append(base, "reviews", 1)
    live, reader = opened(base), opened(base, live=False)
    commit_all(live)
    assert len(everything(reader)) == 1
    append(base, "verdicts", 2)
    commit_all(live)
    assert values(reader.read_batch(MERGED, 1, 10, 1.0).records) == "v0"
    assert base.clock.slept == [0.0] * len(base.clock.slept)


@pytest.mark.parametrize("live", [True, False])
def test_waiting_ends_when_there_is_a_record(live):
    base = ListLog()
    append(base, "reviews", 1)
    commit_all(opened(base))
    log, clock = opened(base, live=live), base.clock
    log.wait({MERGED: 0}, 5.0)
    assert clock() == 1
    log.wait({MERGED: 9}, 0.0)  # beyond the end
    log.wait({MERGED: 1, "scores": 0}, 5.0)
    assert clock() == 6
    base.append("scores", [Message(b"s")])
    log.wait({MERGED: 1, "scores": 0}, 5.0)
    assert clock() == 6
    append(base, "verdicts", 7)
    log.wait({MERGED: 1}, 5.0)
    assert clock() == (7 if live else 12)
    log.read_batch(MERGED, 1, 0, 0.0)
    log.wait({MERGED: 1}, 5.0)
    assert clock() == (7 if live else 17)


def test_a_merge_begins_where_the_oldest_records_are_gone_and_says_so_in_the_journal():
    base = GappedLog()
    append(base, "reviews", 1, 3, 5)
    append(base, "verdicts", 2, 4)
    base.forget("reviews", 2)
    records = commit_all(opened(base), 2)
    assert [(r.position, r.topic, r.offset) for r in records] == [
        (0, "verdicts", 0), (1, "reviews", 2), (3, "verdicts", 2), (6, "reviews", 4),
    ]  # fmt: skip
    base.positions.clear()
    assert everything(opened(base, live=False)) == records


def test_without_the_journals_first_entries_the_later_ones_still_hold():
    base = GappedLog()
    append(base, "reviews", 1, 3, 5, 7)
    append(base, "verdicts", 2, 4, 6)
    records = commit_all(opened(base), 1)
    base.forget("journal", 5)
    reader = opened(base, live=False)
    assert everything(reader, records[4].position) == records[4:]
    with pytest.raises(LogError, match=r"^journal 'journal' has no entry for position 1 of .*retention\.ms"):
        reader.read_batch(MERGED, 1, 10, 0.0)
    append(base, "verdicts", 8)
    assert values(commit_all(opened(base))) == "v3"


# ---- the other topics ----


def test_other_topics_are_the_bases_own():
    base = ListLog()
    log = opened(base)
    assert log.append("events", [Message(b"a"), Message(b"b")]) == 2
    assert log.read_batch("events", 1, 10, 0.0) == base.read_batch("events", 1, 10, 0.0)
    log.wait({"events": 0}, 5.0)
    assert base.clock() == 0
    log.commit("other", {"events": Move(0, 2)}, {"out": [Message(b"c")]})
    assert (log.committed("other", "events"), log.end("events"), log.end("out")) == (Progress(0, 2), 2, 1)
    with pytest.raises(FencedError):
        log.commit("other", {"events": Move(0, 2)}, {})


def test_other_topics_move_in_the_same_commit():
    base = ListLog()
    append(base, "reviews", 1)
    log = opened(base)
    read = log.read_batch(MERGED, 0, 10, 0.0)
    log.commit("g", {MERGED: Move(0, read.position), "labels": Move(0, 3)}, {"scores": [Message(b"s")]})
    assert base.positions == {("g", "reviews"): 1, ("g", "verdicts"): 0, ("g", "payments"): 0, ("g", "labels"): 3}
    assert (base.commits, base.end("scores"), base.end("journal")) == (1, 1, 1)


def test_a_commit_that_merges_nothing_writes_no_entry():
    base = ListLog()
    log = opened(base)
    log.commit("g", {MERGED: Move(0, 0)}, {"scores": [Message(b"s")]})
    assert (base.end("scores"), base.end("journal")) == (1, 0)


def test_flushing_closing_and_the_state_of_sending_are_the_bases_own():
    class Base(ListLog):
        told = ()

        def flush(self):
            self.told += ("flush",)

        def close(self):
            self.told += ("close",)

        def sending(self):
            return Sending(3, 1)

    log = opened(base := Base())
    log.flush()
    log.close()
    assert (base.told, log.sending()) == (("flush", "close"), Sending(3, 1))


# ---- what its user can mend ----


@pytest.mark.parametrize("topics", [["a", "journal"], ["a", "a"], ["a", ""]])
def test_names_that_could_be_taken_for_another_are_refused(topics):
    with pytest.raises(ConfigError, match=r"^topics\.events = '.*', topics\.journal = 'journal': expected names"):
        opened(ListLog(), topics=topics)


def merged_once() -> ListLog:
    base = ListLog()
    append(base, "reviews", 1, 3)
    append(base, "verdicts", 2)
    commit_all(opened(base))
    return base


@pytest.mark.parametrize("live", [True, False])
def test_a_journal_of_others_is_refused(live):
    base = merged_once()
    with pytest.raises(LogError, match=r"^journal 'journal' is of group 'g', this is group 'h': go on with --group g"):
        opened(base, live=live, group="h", monotonic=base.clock).committed("h", MERGED)
    with pytest.raises(LogError, match=r"^journal 'journal' merges 'reviews,verdicts,payments', topics\.events is 'r"):
        opened(base, live=live, topics=["reviews", "verdicts"], monotonic=base.clock).end("reviews,verdicts")
    base.append("journal", [Message(b"{}")])
    with pytest.raises(LogError, match=r"^journal 'journal' holds something else at position 1: name a topic of its"):
        opened(base, live=live, monotonic=base.clock).read_batch(MERGED, 0, 1, 0.0)


def test_a_second_group_needs_a_journal_of_its_own():
    log = opened(merged_once())
    said = r"is merged for group 'g', not for 'h': a second group needs a topics\.journal of its own"
    with pytest.raises(LogError, match=said):
        log.committed("h", MERGED)
    with pytest.raises(LogError, match=said):
        log.commit("h", {MERGED: Move(0, 3)}, {})


def test_positions_that_are_not_the_journals_are_refused():
    base = merged_once()
    base.positions["g", "verdicts"] = 0
    said = r"^group 'g' is at position 0 of 'verdicts', its journal 'journal' says 1: its positions were set by hand"
    with pytest.raises(LogError, match=said):
        opened(base, monotonic=base.clock).committed("g", MERGED)

    base = ListLog()
    base.positions["g", "reviews"] = 7
    with pytest.raises(LogError, match=r"^group 'g' is at position 7 of 'reviews', its journal 'journal' says 0"):
        opened(base, monotonic=base.clock).committed("g", MERGED)


def test_a_journal_that_shows_a_commit_a_little_late_is_waited_for():
    base = merged_once()
    late = base.topics.pop("journal")

    def sleep(seconds):
        base.clock.now += seconds
        base.topics["journal"] = late

    base.clock.sleep = sleep
    assert opened(base, monotonic=base.clock).committed("g", MERGED) == Progress(0, 3)


def test_removed_events_are_noticed():
    base = merged_once()
    base.topics["reviews"].pop()
    with pytest.raises(LogError, match=r"^topic 'reviews' ends at 1, but 2 of it were merged: events were removed;"):
        opened(base).committed("g", MERGED)
    with pytest.raises(LogError, match=r"^topic 'reviews,verdicts,payments' gave nothing at position 2 for 10 s"):
        everything(opened(base, live=False))


def test_a_hole_in_the_journal_is_noticed():
    base = GappedLog()
    append(base, "reviews", 1, 2, 3)
    commit_all(opened(base), 1)
    del base.topics["journal"][1]
    with pytest.raises(LogError, match=r"^journal 'journal' has no entry for position 1 of .*, it was removed: "):
        everything(opened(base, live=False))


def test_nobody_appends_to_a_merged_topic():
    with pytest.raises(LogError, match=r"is merged from several: append to one of reviews, verdicts, payments$"):
        opened(ListLog()).append(MERGED, [Message(b"a")])


@pytest.mark.parametrize("live", [True, False])
def test_a_group_cannot_move_past_what_was_merged(live):
    base = ListLog()
    append(base, "reviews", 1, 2)
    log = opened(base, live=live)
    log.read_batch(MERGED, 0, 1, 0.0)
    with pytest.raises(LogError, match=r"^group 'g' cannot move to position 2 of .* from 0 to [01]; read up to there"):
        log.commit("g", {MERGED: Move(0, 2)}, {})
    assert base.commits == 0


# ---- the whole: scores ----

MODEL = random_model(world())
REVIEWS_AND_VERDICTS = Topics(events="reviews,verdicts")


def review(i: int, ts: float) -> dict:
    return {
        "id": f"n{i}",
        "ts": ts,
        "stars": i % 3 + 1,
        "user": f"u{i % 7}",
        "product": f"p{i % 5}",
        "embedding": [i % 2, 1],
    }


def two_streams(base: ListLog, count: int = 300) -> None:
    """Reviews, and verdicts on the earlier ones, which change what is known of the later ones."""
    for i in range(count):
        base.clock.now = START + 60.0 * i
        base.append("reviews", [Message(msgspec.json.encode(review(i, base.clock.now)))])
        if i % 3 == 2:
            verdict = {"type": "label", "id": f"n{i // 2}", "label": i % 2, "ts": base.clock.now + 1}
            base.clock.now += 1
            base.append("verdicts", [Message(msgspec.json.encode(verdict))])


def one_topic(records: list[Record]) -> ListLog:
    log = ListLog()
    for record in records:
        log.clock.now = record.appended_at
        log.append("events", [Message(record.value)])
    return log


def serve(log: Log, topics: Topics, state: Path) -> None:
    """Score to the log's present end in small batches, with a snapshot after nearly each."""
    config = Config(score=Score(group="g", max_batch=16, max_wait="0ms", snapshot_every="0s"), topics=topics)
    with closing(open_store(str(state), "", 2)) as store:
        consumer = ScoreConsumer(log, store, MODEL, config, ServiceStats(), say=lambda line: None, clock=lambda: 0.0)
        with closing(consumer):
            never = threading.Event()
            consumer.recover(never)
            consumer.run(never, log.end(topics.events))
            consumer.finish()


def published(log: Log) -> list[dict]:
    return [msgspec.json.decode(record.value) for records in read_to_end(log, "scores") for record in records]


def test_scores_through_crashes_are_those_of_one_topic_in_the_same_order(tmp_path):
    base, chance = ListLog(), random.Random(0)
    two_streams(base)
    for crash in range(12):
        (base.crash_before_commit if crash % 2 else base.crash_after_commit)(base.commits + chance.randint(1, 3))
        with pytest.raises(Crash):
            serve(opened(base, topics=["reviews", "verdicts"]), REVIEWS_AND_VERDICTS, tmp_path / "crashing")
        base.crash_after_commit(0)
    serve(opened(base, topics=["reviews", "verdicts"]), REVIEWS_AND_VERDICTS, tmp_path / "crashing")

    reader = opened(base, topics=["reviews", "verdicts"], live=False)
    one = one_topic(everything(reader))
    serve(one, Topics(), tmp_path / "calm")
    found, expected = published(base), published(one)
    assert len(found) == 300
    assert [(s["id"], s["position"]) for s in found] == [(s["id"], s["position"]) for s in expected]
    np.testing.assert_allclose([s["score"] for s in found], [s["score"] for s in expected], atol=1e-5)

    audited = audit(MODEL, reader, "g", reader.topic, "scores", sample=1000)
    assert audited.compared == 300
    assert audited.max_abs_difference < 1e-5


def test_another_order_would_give_other_scores(tmp_path):
    """What the test above rests on."""
    base = ListLog()
    two_streams(base)
    one = one_topic([*base.topics["reviews"], *base.topics["verdicts"]])
    serve(one, Topics(), tmp_path / "one")
    serve(opened(base, topics=["reviews", "verdicts"]), REVIEWS_AND_VERDICTS, tmp_path / "merged")
    scores = [{s["id"]: s["score"] for s in published(log)} for log in (one, base)]
    assert max(abs(scores[0][name] - scores[1][name]) for name in scores[0]) > 1e-3


# ---- Kafka ----


def test_topics_of_kafka_are_merged_once_for_all(broker):
    *topics, journal, scores = make_topics(broker.address, "reviews", "verdicts", "journal", "scores")
    group = own_name("merging")

    def kafka(live: bool) -> MergedLog:
        return MergedLog(KafkaLog(Cluster(broker.address), 0), topics, journal, group, live)

    history: list[Record] = []
    for _ in range(3):
        with closing(kafka(live=True)) as log:
            for i in range(20):
                log.append(topics[i % 3 // 2], [Message(b"%d" % i, JSON)] * 5)
            start, until = log.committed(group, log.topic).position, log.end(log.topic)
            assert start == (history[-1].position + 1 if history else 0)
            position = start
            while position < until:
                read = log.read_batch(log.topic, position, 7, 5.0)
                outputs = {scores: [Message(record.value) for record in read.records]}
                log.commit(group, {log.topic: Move(position, read.position)}, outputs)
                history += read.records
                position = read.position
            log.append(topics[0], [Message(b"not committed")])
            assert log.read_batch(log.topic, position, 7, 5.0).records != []

    with closing(kafka(live=False)) as reader:
        assert everything(reader) == history
        assert everything(reader, history[100].position) == history[100:]
        ends = dict.fromkeys(topics, 0) | {record.topic: record.offset + 1 for record in history}
        assert [ends[topic] for topic in topics] == [reader.end(topics[0]) - 1, reader.end(topics[1])]
        for topic in topics:
            assert [r.offset for r in history if r.topic == topic] == list(range(ends[topic]))
