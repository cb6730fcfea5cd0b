"""Replay: the order and the content stay; the pace is that of event time, divided by the speed."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeClock, ListLog

from pipeline.errors import ConfigError
from pipeline.log import JSON, PACKED, Message, Record
from pipeline.recorded import RecordedWriter, read_messages
from pipeline.sqlite_log import SqliteLog
from producers.replay import LONGEST_SLEEP_SECONDS, replay


def ts_of(record: Record) -> float | None:
    return float(record.value) if re.fullmatch(rb"-?[\d.]+|nan|inf", record.value) else None


def recorded(*values: str) -> list[Record]:
    return [Record(position, value.encode(), None, JSON, math.nan) for position, value in enumerate(values)]


def arrivals(*values: str, speed: float, chunk: int = 1000) -> list[float]:
    """Replay messages with these event times, from time 1000 on, and return when the log got each."""
    clock = FakeClock(1000.0)
    log = ListLog(clock)
    replay(recorded(*values), log, speed=speed, ts_of=ts_of, chunk=chunk, clock=clock, sleep=clock.sleep)
    assert [record.value.decode() for record in log.topics["events"]] == list(values)
    return [record.appended_at for record in log.topics["events"]]


def test_at_speed_1_messages_come_as_their_event_times_did():
    assert arrivals("50", "50", "53", "57.5", speed=1.0) == [1000.0, 1000.0, 1003.0, 1007.5]


def test_at_speed_60_a_minute_takes_a_second():
    assert arrivals("0", "60", "180", speed=60.0) == pytest.approx([1000.0, 1001.0, 1003.0])


def test_without_a_speed_all_come_at_once_and_event_times_are_not_asked_for():
    def never(record: Record) -> float | None:
        raise AssertionError

    clock = FakeClock()
    log = ListLog(clock)
    report = replay(recorded("0", "1e9", "?"), log, ts_of=never, clock=clock, sleep=clock.sleep)
    assert (report.events, report.end, clock.slept) == (3, 3, [])


def test_a_message_without_a_readable_time_goes_with_the_one_before_it():
    assert arrivals("?", "0", "?", "2", "nan", "inf", "3", speed=1.0) == [
        1000.0,
        1000.0,
        1000.0,
        1002.0,
        1002.0,
        1002.0,
        1003.0,
    ]


def test_a_message_that_comes_after_a_later_one_goes_at_once():
    assert arrivals("0", "10", "4", "12", speed=1.0) == [1000.0, 1010.0, 1010.0, 1012.0]


def test_a_pause_is_slept_in_pieces():
    clock = FakeClock()
    replay(recorded("0", "1.2"), ListLog(clock), speed=1.0, ts_of=ts_of, clock=clock, sleep=clock.sleep)
    assert clock.slept == pytest.approx([LONGEST_SLEEP_SECONDS, LONGEST_SLEEP_SECONDS, 0.2])


def test_what_is_due_is_appended_before_the_pause_begins():
    clock = FakeClock()
    log = ListLog(clock)

    def sleep(seconds: float) -> None:
        assert log.end("events") == 2
        clock.sleep(seconds)

    replay(recorded("0", "0", "1"), log, speed=1.0, ts_of=ts_of, clock=clock, sleep=sleep)


def test_messages_are_appended_in_chunks_and_each_is_reported():
    steps: list[int] = []
    report = replay(recorded(*"1234567"), ListLog(), ts_of=ts_of, chunk=3, progress=steps.append)
    assert steps == [3, 3, 1]
    assert report.events == 7


def test_what_stops_a_replay_leaves_the_first_messages_without_a_gap():
    def breaking() -> Iterator[Record]:
        yield from recorded(*"12345")
        raise KeyboardInterrupt

    log = ListLog()
    with pytest.raises(KeyboardInterrupt):
        replay(breaking(), log, ts_of=ts_of, chunk=2)
    assert [record.value for record in log.topics["events"]] == [b"1", b"2", b"3", b"4"]


def test_the_report_counts_events_and_seconds():
    clock = FakeClock()
    log = ListLog(clock)
    log.append("events", [Message(b"0")])
    report = replay(recorded("0", "4", "8"), log, speed=2.0, ts_of=ts_of, clock=clock, sleep=clock.sleep)
    assert (report.events, report.seconds, report.end, report.events_per_second) == (3, 4.0, 4, 0.75)


def test_a_replay_of_nothing_is_no_error():
    clock = FakeClock()
    report = replay([], ListLog(clock), ts_of=ts_of, clock=clock, sleep=clock.sleep)
    assert (report.events, report.end, report.events_per_second) == (0, 0, 0.0)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_speed_that_is_none_is_refused(speed: float):
    with pytest.raises(ConfigError, match=rf"^replay speed {speed}: expected a number above 0"):
        replay([], ListLog(), speed=speed, ts_of=ts_of)


def test_a_recorded_file_becomes_the_same_log_again(tmp_path: Path):
    messages = [Message(b'{"id": 1}', "a"), Message(b"\x00\n", None, PACKED), Message(b"{", "\u00e9"), Message(b"2")]
    with RecordedWriter(tmp_path / "events.jsonl.zst") as writer:
        for position, message in enumerate(messages * 1000):
            writer.write_record(Record(position, *message, appended_at=1.5))

    log = SqliteLog(tmp_path / "log.db")
    replay(read_messages(tmp_path / "events.jsonl.zst"), log, ts_of=ts_of)
    records = log.read_batch("events", 0, 10_000, 0).records
    log.close()
    assert [(record.value, record.key, record.content_type) for record in records] == messages * 1000
