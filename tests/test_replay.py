"""Replay: the order and the content stay; the pace is that of event time, divided by the speed."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeClock, ListLog
from worlds import START, records, world

from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.log import JSON, PACKED, TOMBSTONE, Message, Record
from pipeline.recorded import RecordedWriter, read_messages
from pipeline.schema import parse_schema
from pipeline.sqlite_log import SqliteLog
from producers.pace import CATCH_UP_SECONDS, time_reader
from producers.replay import LONGEST_SLEEP_SECONDS, packed, replay


def ts_of(record: Record) -> float | None:
    return float(record.value) if re.fullmatch(rb"-?[\d.]+|nan|inf", record.value) else None


def recorded(*values: str) -> list[Record]:
    return [Record(position, value.encode(), None, JSON, math.nan) for position, value in enumerate(values)]


def arrivals(
    *values: str, speed: float = math.inf, rate: float = math.inf, burst: int = 0, chunk: int = 1000
) -> list[float]:
    """Replay messages with these event times, from time 1000 on, and return when the log got each."""
    clock = FakeClock(1000.0)
    log = ListLog(clock)
    pace = {"speed": speed, "rate": rate, "burst": burst}
    replay(recorded(*values), log, **pace, ts_of=ts_of, chunk=chunk, clock=clock, sleep=clock.sleep)
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
    assert (report.events, log.end("events"), clock.slept) == (3, 3, [])


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
    assert (report.events, report.seconds, report.events_per_second) == (3, 4.0, 0.75)


def test_a_replay_of_nothing_is_no_error():
    clock = FakeClock()
    report = replay([], ListLog(clock), ts_of=ts_of, clock=clock, sleep=clock.sleep)
    assert (report.events, report.seconds, report.events_per_second) == (0, 0.0, 0.0)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_speed_that_is_none_is_refused(speed: float):
    with pytest.raises(ConfigError, match=rf"^replay speed {speed}: expected a number above 0"):
        replay([], ListLog(), speed=speed, ts_of=ts_of)


# ---- at most so many a second ----


def test_at_a_rate_of_4_a_message_comes_each_quarter_of_a_second():
    assert arrivals(*"12345", rate=4.0) == [1000.0, 1000.25, 1000.5, 1000.75, 1001.0]


def test_a_rate_holds_where_event_times_would_be_faster_and_slows_nothing_else():
    assert arrivals("0", "0", "0", "5", "5", speed=1.0, rate=2.0) == [1000.0, 1000.5, 1001.0, 1005.0, 1005.5]


class StallingLog(ListLog):
    """Takes a minute for the first message."""

    def append(self, topic, messages):
        if not self.topics:
            self.clock.sleep(60.0)
        return super().append(topic, messages)


def test_after_a_stall_no_more_than_a_second_is_made_up_for():
    clock = FakeClock(1000.0)
    log = StallingLog(clock)
    replay(recorded(*"123456789"), log, rate=4.0, ts_of=ts_of, clock=clock, sleep=clock.sleep)
    # At 1060 come the two that were due before the stall was seen, a second's worth, and the one that is due then.
    times = [record.appended_at for record in log.topics["events"]]
    assert times == [1060.0] * (2 + 4 * int(CATCH_UP_SECONDS) + 1) + [1060.25, 1060.5]


def test_a_burst_goes_first_and_at_once_then_the_rate_holds():
    assert arrivals(*"123456", rate=2.0, burst=4) == [1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.5]


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float):
    with pytest.raises(ConfigError, match=rf"^replay rate {rate}: expected a number of messages a second above 0"):
        replay([], ListLog(), rate=rate, ts_of=ts_of)


# ---- event times ----


@pytest.mark.parametrize(("value", "ts"), [(b'{"ts":1.5,"id":1}', 1.5), (b'{"id":1}', None), (b'{"ts":"x"}', None),
                                           (b"{", None), (b"", None)])  # fmt: skip
def test_our_own_messages_hold_their_time_in_ts(value: bytes, ts: float | None):
    assert time_reader(None)(Record(0, value, None, JSON, math.nan)) == ts


def test_an_applications_messages_hold_their_time_where_the_schema_says():
    schema = parse_schema(
        {
            "name": "payments",
            "events": {"fields": {"ts": "payment.at"}},
            "time": {"unit": "iso8601"},
            "features": {"amount": {"kind": "numeric"}},
            "relations": {"sender": {"group_by": ["from"]}},
        },
        "payments",
    )
    payment = b'{"id":1,"payment":{"at":"2001-09-09T01:46:40Z"},"amount":1,"from":"alice"}'
    assert time_reader(schema)(Record(0, payment, None, JSON, math.nan)) == 1e9
    assert time_reader(schema)(Record(0, b"?", None, JSON, math.nan)) is None


# ---- packs ----


def node(id: str, product: str) -> dict:
    return {"id": id, "ts": START, "stars": 1, "user": "u", "product": product, "embedding": [0, 0]}


def test_packs_keep_groups_apart_and_the_order_within_each():
    products = "ppqpqqppq"
    source = [
        record._replace(key=product, headers=(("one", b"1"),))
        for record, product in zip(records([node(str(i), p) for i, p in enumerate(products)]), products, strict=True)
    ]
    packs = list(packed(source, world(), 2, lambda record: ord(record.key)))
    found = [(pack.key, pack.content_type, pack.headers, Decoder(world()).decode([pack])[0].id) for pack in packs]
    assert found == [
        ("p", PACKED, (), ["0", "1"]),
        ("q", PACKED, (), ["2", "4"]),
        ("p", PACKED, (), ["3", "6"]),
        ("q", PACKED, (), ["5", "8"]),
        ("p", PACKED, (), ["7"]),
    ]


def test_a_run_with_a_bad_event_goes_as_it_is():
    good = records([node("a", "p"), node("b", "p"), node("c", "p"), node("d", "p")])
    source = [good[0], good[1]._replace(value=b"{"), good[2], good[3]]
    packs = list(packed(source, world(), 2))
    assert packs[:2] == source[:2]
    assert [pack.content_type for pack in packs] == [JSON, JSON, PACKED]


def test_a_recorded_file_becomes_the_same_log_again(tmp_path: Path):
    messages = [
        Message(b'{"id": 1}', "a"),
        Message(b"\x00\n", None, PACKED, (("odd", b"\xff\x00"), ("odd", b""))),
        Message(b"{", "\u00e9"),
        Message(b"", "\udcff", TOMBSTONE),
    ]
    with RecordedWriter(tmp_path / "events.jsonl.zst") as writer:
        for position, (value, key, content_type, headers) in enumerate(messages * 1000):
            writer.write_record(Record(position, value, key, content_type, 1.5, headers))

    log = SqliteLog(tmp_path / "log.db")
    replay(read_messages(tmp_path / "events.jsonl.zst"), log, ts_of=ts_of)
    records = log.read_batch("events", 0, 10_000, 0).records
    log.close()
    assert [(record.value, record.key, record.content_type, record.headers) for record in records] == messages * 1000
