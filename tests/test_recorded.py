"""Recorded files: what is written is read back byte for byte, and what is damaged is named by file and line."""

import gzip
import json
import math
import re
from pathlib import Path
from threading import Event

import pytest
import zstandard
from fakes import one_megabyte_disk
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.recorded
from pipeline.cli import main
from pipeline.config import Config, Topics
from pipeline.errors import DataError, LogError
from pipeline.log import JSON, PACKED, Message, Move, Record
from pipeline.log_url import open_shard_log
from pipeline.recorded import RecordedFile, RecordedWriter, read_messages
from pipeline.sqlite_log import SqliteLog

SUFFIXES = [".jsonl", ".jsonl.gz", ".jsonl.zst"]
LINES = [b'{"type":"node","id":"r%d"}' % number for number in range(5000)]


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"events{request.param}"


@pytest.fixture(params=SUFFIXES[1:])
def compressed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"events{request.param}"
    with RecordedWriter(path) as writer:
        for line in LINES:
            writer.write_line(line)
    return path


def write(path: Path, lines: list[bytes]) -> None:
    with RecordedWriter(path) as writer:
        for line in lines:
            writer.write_line(line)


# Reading


def test_a_plain_line_is_the_message_and_its_number_the_position(path: Path):
    write(path, LINES)

    records = list(read_messages(path))
    assert [record.value for record in records] == LINES
    assert [record.position for record in records] == list(range(len(LINES)))
    assert {(record.key, record.content_type) for record in records} == {(None, JSON)}
    assert all(math.isnan(record.appended_at) for record in records)


def test_files_of_other_programs_are_read(tmp_path: Path):
    content = b"\n".join(LINES)
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content))

    for suffix in SUFFIXES:
        assert [record.value for record in read_messages(tmp_path / f"a{suffix}")] == LINES


def test_our_files_are_read_by_other_programs(compressed: Path):
    if compressed.suffix == ".gz":
        content = gzip.decompress(compressed.read_bytes())
    else:
        content = zstandard.ZstdDecompressor().decompressobj().decompress(compressed.read_bytes())
    assert content == b"".join(line + b"\n" for line in LINES)


def test_frames_one_after_another_are_one_file(tmp_path: Path):
    first, second = b'{"id":"a"}\n{"id"', b':"b"}\n{"id":"c"}'  # the second frame begins within a line
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(first) + zstandard.compress(second))

    for suffix in SUFFIXES[1:]:
        found = [record.value for record in read_messages(tmp_path / f"a{suffix}")]
        assert found == [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}']


def test_blank_lines_are_nothing(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"id":"a"}\r\n \r\n\n{"id":"b"}\n\n')

    assert [(record.position, record.value) for record in read_messages(path)] == [
        (0, b'{"id":"a"}\r'),
        (1, b'{"id":"b"}'),
    ]


def test_an_empty_file_has_no_messages(path: Path):
    write(path, [])
    assert list(read_messages(path)) == []


def test_a_line_much_longer_than_a_read_is_one_message(path: Path):
    long = b'"' + b"x" * 3_000_000 + b'"'
    write(path, [b"1", long, b"2"])
    assert [record.value for record in read_messages(path)] == [b"1", long, b"2"]


# Envelopes


def test_an_envelope_has_the_documented_form(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with RecordedWriter(path) as writer:
        writer.write_record(Record(7, b'{"id":  "r17"}', None, JSON, 1.5))
        writer.write_record(Record(8, b"\xde\xad\xbe\xef", "k", PACKED, math.nan))

    assert path.read_text() == (
        '{"graphsieve_record":1,"position":7,"appended_at":1.5,"key":null,"content_type":"application/json",'
        '"value":{"id":  "r17"}}\n'
        '{"graphsieve_record":1,"position":8,"appended_at":null,"key":"k",'
        '"content_type":"application/x-graphsieve-packed","base64":"3q2+7w=="}\n'
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(st.none() | st.booleans() | st.floats() | TEXT, lambda inner: st.lists(inner), max_leaves=5)
VALUES = (
    st.binary()
    | JSON_VALUES.map(lambda value: json.dumps(value).encode())
    | JSON_VALUES.map(lambda value: json.dumps(value, indent=1, ensure_ascii=False).encode())
    | st.sampled_from([b" 1", b"1\r", b"1\n2", b"1,2", b'"\\ud800"', b'{"a":1}}', b"[" * 400 + b"]" * 400, b"[" * 9999])
)


@settings(deadline=None)  # each example waits for the disk
@given(st.builds(Record, st.integers(0, 2**62), VALUES, st.none() | TEXT, TEXT, st.floats(0, 1e12)))
def test_a_recorded_message_is_read_back_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, record: Record):
    path = tmp_path_factory.getbasetemp() / "recorded.jsonl"
    with RecordedWriter(path) as writer:
        writer.write_record(record)
    assert list(read_messages(path)) == [record]
    json.loads(path.read_bytes())  # whatever the message is, the line is JSON for any reader


def test_deeply_nested_json_is_read_back_also_from_deep_in_the_stack(tmp_path: Path):
    path = tmp_path / "deep.jsonl"
    record = Record(0, b"[" * 900 + b"]" * 900, None, JSON, 0.0)
    with RecordedWriter(path) as writer:
        writer.write_record(record)

    def read_from(depth: int) -> list[Record]:
        return read_from(depth - 1) if depth else list(read_messages(path))

    assert read_from(200) == [record]


def test_a_plain_line_and_an_envelope_may_share_a_file(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with RecordedWriter(path) as writer:
        writer.write_line(b'{"id":"a"}')
        writer.write_record(Record(1, b'{"id":"b"}', "b", JSON, 2.0))

    assert [(record.position, record.value) for record in read_messages(path)] == [
        (0, b'{"id":"a"}'),
        (1, b'{"id":"b"}'),
    ]


# Damage


def test_a_missing_file_is_named(tmp_path: Path):
    expected = f"no recorded file at {tmp_path}/a.jsonl: `graphsieve import` and `graphsieve record` make one"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        list(read_messages(tmp_path / "a.jsonl"))


def test_a_folder_is_not_a_recorded_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"^cannot read .* \(Is a directory\): expected a readable recorded file$"):
        list(read_messages(tmp_path))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_named_with_its_line_after_what_is_sound(compressed: Path, kept: float):
    content = compressed.read_bytes()
    compressed.write_bytes(content[: int(kept * len(content))])

    sound = []
    with pytest.raises(DataError) as caught:
        for record in read_messages(compressed):
            sound.append(record.value)
    assert sound == LINES[: len(sound)]
    assert str(caught.value) == (
        f"{compressed}, line {len(sound) + 1}: damaged (it ends too early); copy or make the file again"
    )


def test_a_flipped_bit_is_found(compressed: Path):
    content = bytearray(compressed.read_bytes())
    content[len(content) // 2] ^= 4
    compressed.write_bytes(content)

    with pytest.raises(
        DataError, match=r"^.*/events\.jsonl\.\w+, line \d+: damaged \(.+\); copy or make the file again$"
    ):
        list(read_messages(compressed))


def test_a_file_that_is_not_compressed_as_its_name_says_is_named(compressed: Path):
    compressed.write_bytes(b"\n".join(LINES))
    with pytest.raises(DataError, match=r"^.*/events\.jsonl\.\w+, line 1: damaged \(.+\)"):
        list(read_messages(compressed))


@pytest.mark.parametrize(
    "line",
    [
        b'{"graphsieve_record":2,"position":0,"appended_at":1,"key":null,"content_type":"","value":1}',
        b'{"graphsieve_record":1,"position":0,"appended_at":1,"key":null,"content_type":"","val',
        b'{"graphsieve_record":1,"position":0,"appended_at":1,"key":null,"content_type":"","base64":"?"}',
        b'{"graphsieve_record":1,"position":0,"appended_at":1,"key":"\xff","content_type":"","value":1}',
        b'{"graphsieve_record":1,"position":0}',
    ],
)
def test_a_broken_envelope_is_named_by_its_line(tmp_path: Path, line: bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id":"a"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"^.*/a\.jsonl, line 3: not a recorded message \(.+\); record it again$"):
        list(read_messages(path))


# Writing


def test_a_file_appears_when_it_is_finished_and_not_before(path: Path):
    path.write_bytes(b"older")
    with RecordedWriter(path) as writer:
        for line in LINES:
            writer.write_line(line)
        assert path.read_bytes() == b"older"
    assert len(list(read_messages(path))) == len(LINES)
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_older_file_stays_and_nothing_else(path: Path):
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), RecordedWriter(path) as writer:
        writer.write_line(b"1")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older"
    assert list(path.parent.iterdir()) == [path]


def test_equal_messages_make_equal_files(path: Path):
    write(path, LINES)
    first = path.read_bytes()
    write(path, LINES)
    assert path.read_bytes() == first


def test_a_message_of_several_lines_is_not_written_without_an_envelope(path: Path):
    with (
        pytest.raises(ValueError, match="a message of several lines needs an envelope"),
        RecordedWriter(path) as writer,
    ):
        writer.write_line(b"{\n}")
    assert not path.exists()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path):
    expected = (
        f"cannot write {tmp_path}/nowhere/a.jsonl (No such file or directory): expected a folder with room to write in"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        RecordedWriter(tmp_path / "nowhere" / "a.jsonl")


def test_a_full_disk_is_one_clear_line_and_leaves_no_part_of_the_file():
    with one_megabyte_disk() as disk:
        with pytest.raises(DataError, match=r"cannot write .*/a\.jsonl \(No space left on device\)"):
            write(disk / "a.jsonl", LINES * 20)
        assert list(disk.iterdir()) == []


# As a log (what it shares with every log is in test_log_contract.py)


def test_a_recorded_file_refuses_to_commit_and_says_what_to_do(path: Path):
    log = RecordedFile(path)
    expected = (
        f"{path} is a recorded file and cannot keep the position of group 'score': "
        f"`graphsieve replay {path} --to sqlite:FILE` copies it to a log that can"
    )
    with pytest.raises(LogError, match=f"^{re.escape(expected)}$"):
        log.commit("score", {"events": Move(0, 1)}, {})
    assert log.committed("score", "events").position == 0


def test_a_recorded_file_has_one_topic(path: Path):
    log = RecordedFile(path, "scores")
    log.append("scores", [Message(b"1")])
    with pytest.raises(LogError, match="is a recorded file of the topic 'scores', it has no topic 'events'"):
        log.end("events")


def test_a_part_of_a_topic_is_a_log_that_starts_at_0(path: Path):
    with RecordedWriter(path) as writer:
        for position in range(500, 510):
            writer.write_record(Record(position, b"1", None, JSON, 0.0))

    log = RecordedFile(path)
    assert log.end("events") == 10
    assert [record.position for record in log.read_batch("events", 4, 3, 0).records] == [4, 5, 6]
    log.close()


def test_append_adds_to_a_file_from_elsewhere_even_if_its_last_line_has_no_end(path: Path):
    write(path, [])
    path.write_bytes(
        {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(b'{"id":"a"}\n{"id":"b"}')
    )

    assert RecordedFile(path).append("events", [Message(b'{"id":"c"}')]) == 3
    assert [record.value for record in read_messages(path)] == [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}']


def test_an_append_to_a_full_disk_leaves_the_file_as_it_was():
    with one_megabyte_disk() as disk:
        log = RecordedFile(disk / "a.jsonl")
        log.append("events", [Message(b'"a"')])
        with pytest.raises(DataError, match=r"cannot write .*/a\.jsonl \(No space left on device\)"):
            log.append("events", [Message(b'"' + b"x" * 1000 + b'"')] * 2000)

        assert log.end("events") == 1
        assert [record.value for record in read_messages(disk / "a.jsonl")] == [b'"a"']
        assert log.append("events", [Message(b'"b"')]) == 2


def test_reading_on_streams_and_the_end_is_counted_once(path: Path, monkeypatch: pytest.MonkeyPatch):
    write(path, LINES)
    opened = []

    def counting(path: Path):
        opened.append(path)
        return read_messages(path)

    monkeypatch.setattr(pipeline.recorded, "read_messages", counting)
    log = RecordedFile(path)
    position = 0
    while records := log.read_batch("events", position, 100, 0).records:
        position += len(records)
    for _ in range(10):
        assert log.read_batch("events", position, 100, 0).records == []

    assert position == len(LINES)
    assert len(opened) <= 3  # to stream through it, to find nothing after, to count
    log.close()


# ---- `graphsieve record` ----


def test_scores_are_lines_that_people_read_and_packed_ones_envelopes(tmp_path: Path):
    log = SqliteLog(tmp_path / "log.db")
    log.append("scores", [Message(b'{"id":"a"}', "a", JSON, (("model", b"m"),)), Message(b"\n\x00", None, PACKED)])
    log.close()
    record = ["record", "--log", f"sqlite:{tmp_path}/log.db", "--topic", "scores", "--out", f"{tmp_path}/s.jsonl"]
    assert main(record) == 0
    assert (tmp_path / "s.jsonl").read_bytes().startswith(b'{"id":"a"}\n{"graphsieve_record":1,"position":1,')
    assert [record.value for record in read_messages(tmp_path / "s.jsonl")] == [b'{"id":"a"}', b"\n\x00"]


def test_a_part_of_a_topic_is_recorded_from_a_position_to_another(tmp_path: Path):
    log = SqliteLog(tmp_path / "log.db")
    log.append("events", [Message(b"%d" % number) for number in range(10)])
    log.close()
    record = ["record", "--log", f"sqlite:{tmp_path}/log.db", "--topic", "events", "--out", f"{tmp_path}/e.jsonl"]
    assert main([*record, "--from", "3", "--to", "5"]) == 0
    assert [record.position for record in read_messages(tmp_path / "e.jsonl")] == [3, 4]
    assert main([*record, "--from", "8", "--to", "99"]) == 0
    assert [record.position for record in read_messages(tmp_path / "e.jsonl")] == [8, 9]


def test_merged_topics_are_recorded_in_the_order_in_which_they_were_merged(tmp_path: Path):
    url, config = f"sqlite:{tmp_path}/log.db", Config(topics=Topics(events="reviews,verdicts"))
    SqliteLog(tmp_path / "log.db").close()
    log = open_shard_log(url, config, print, 0, Event())
    for topic, value in [("reviews", b"1"), ("verdicts", b"2"), ("reviews", b"3")]:
        log.append(topic, [Message(value)])
    position = 0
    while position < 3:
        position = log.read_batch("reviews,verdicts", position, 10, 1.0).position
    log.commit(config.score.group, {"reviews,verdicts": Move(0, 3)}, {})
    log.close()
    assert main(["record", "--log", url, "--topic", "reviews,verdicts", "--out", f"{tmp_path}/m.jsonl"]) == 0
    found = sorted((record.topic, record.offset, record.value) for record in read_messages(tmp_path / "m.jsonl"))
    assert found == [("reviews", 0, b"1"), ("reviews", 1, b"3"), ("verdicts", 0, b"2")]
    assert main(["record", "--log", url, "--topic", "verdicts", "--out", f"{tmp_path}/v.jsonl"]) == 0
    assert [record.value for record in read_messages(tmp_path / "v.jsonl")] == [b"2"]
