"""Every log keeps the contract of `pipeline.log.Log`; and what the SQLite log promises besides."""

import contextlib
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from fakes import Crash, ListLog, one_megabyte_disk
from kafka_topics import ApartLog

import pipeline.sqlite_blocks
import pipeline.sqlite_log
from pipeline.config import Kafka
from pipeline.errors import LogError
from pipeline.log import JSON, PACKED, TOMBSTONE, Log, Message, Move
from pipeline.log_url import open_log
from pipeline.recorded import RecordedFile
from pipeline.sqlite_blocks import blocks_of, records_of, rows_of
from pipeline.sqlite_log import SqliteLog

MakeLog = Callable[[Path], Log]

COMMITTING: dict[str, MakeLog] = {
    "list": lambda folder: ListLog(),
    "sqlite": lambda folder: SqliteLog(folder / "log.db"),
}
# A recorded file keeps no positions: that it refuses to commit is tested where it is.
READABLE: dict[str, MakeLog] = {
    **COMMITTING,
    "jsonl": lambda folder: RecordedFile(folder / "log.jsonl"),
    "gzip": lambda folder: RecordedFile(folder / "log.jsonl.gz"),
    "zstandard": lambda folder: RecordedFile(folder / "log.jsonl.zst"),
}


KAFKA = ("kafka", "kafka-at-least-once", "confluent", "confluent-at-least-once")


@pytest.fixture(params=[*READABLE, "kafka", "confluent"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log = READABLE[request.param](tmp_path) if request.param in READABLE else kafka_log(request)
    yield log
    log.close()


@pytest.fixture(params=[*COMMITTING, *KAFKA])
def committing_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log = COMMITTING[request.param](tmp_path) if request.param in COMMITTING else kafka_log(request)
    yield log
    log.close()


def kafka_log(request: pytest.FixtureRequest) -> Log:
    broker = request.getfixturevalue("broker")
    delivery = "at-least-once" if request.param.endswith("at-least-once") else "exactly-once"
    client = "confluent" if request.param.startswith("confluent") else "kafka-python"
    return ApartLog(broker.address, Kafka(delivery=delivery, client=client))


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def messages(*values: str) -> list[Message]:
    return [Message(f'"{value}"'.encode()) for value in values]


def values(log: Log, topic: str, position: int = 0, max_records: int = 1_000_000) -> list[str]:
    return [record.value.decode().strip('"') for record in log.read_batch(topic, position, max_records, 0).records]


# Append and read: every log


def test_a_new_log_is_empty(log: Log):
    assert log.end("events") == 0
    assert log.committed("score", "events").position == 0
    assert log.read_batch("events", 0, 10, 0).records == []


def test_append_returns_the_position_after_the_last_message(log: Log):
    assert log.append("events", messages("a", "b")) == 2
    assert log.append("events", []) == 2
    assert log.append("events", messages("c")) == 3
    assert log.end("events") == 3


def test_messages_are_read_in_their_order_from_any_position(log: Log):
    log.append("events", messages("a", "b"))
    log.append("events", messages("c", "d"))

    assert values(log, "events", 0) == ["a", "b", "c", "d"]
    assert values(log, "events", 3) == ["d"]
    assert values(log, "events", 1) == ["b", "c", "d"]
    assert values(log, "events", 4) == []


def test_a_batch_ends_at_max_records_and_the_next_goes_on_there(log: Log):
    log.append("events", messages(*"abcde"))

    assert values(log, "events", 0, 2) == ["a", "b"]
    assert values(log, "events", 2, 2) == ["c", "d"]
    assert values(log, "events", 4, 2) == ["e"]


def test_positions_start_at_0_and_have_no_gaps(log: Log):
    for _ in range(5):
        log.append("events", messages("a", "b", "c"))

    assert [record.position for record in log.read_batch("events", 0, 100, 0).records] == list(range(15))


@pytest.mark.parametrize(
    "message",
    [
        Message(b'{"id": "r17",  "stars":5}', key="r17"),
        Message(b"\x00\xff\n packed", key=None, content_type=PACKED),
        Message(b"", key="", content_type=""),
        Message(b' {"id": 1}\n', key="Stra\u00dfe \x00 \u2028 \U0001f600", content_type='text/plain; a="b"'),
        Message(b'{"id": tru', key="truncated"),
        Message(b'"\xff"', key="invalid UTF-8"),
        Message(b"{}", key=b"\xff\x00 key".decode(errors="surrogateescape")),
        Message(b"{}", headers=(("trace", b"\x00\xff"), ("trace", b""), ("content-type", b"application/json"))),
        Message(b"", key="gone", content_type=TOMBSTONE),
        Message(b"[" * 100_000, key="deep"),
    ],
)
def test_a_message_comes_back_byte_for_byte(log: Log, message: Message):
    log.append("events", [message])

    (record,) = log.read_batch("events", 0, 10, 0).records
    assert Message(record.value, record.key, record.content_type, record.headers) == message


def test_a_record_tells_when_the_log_got_it(tmp_path: Path):
    for log in (
        SqliteLog(tmp_path / "a.db", clock=lambda: 12.5),
        RecordedFile(tmp_path / "a.jsonl", clock=lambda: 12.5),
    ):
        log.append("events", messages("a"))
        assert log.read_batch("events", 0, 1, 0).records[0].appended_at == 12.5
        log.close()


def test_what_is_appended_while_reading_is_read_next(log: Log):
    log.append("events", messages("a", "b"))
    assert values(log, "events", 0, 10) == ["a", "b"]
    assert values(log, "events", 2, 10) == []

    log.append("events", messages("c"))
    assert values(log, "events", 2, 10) == ["c"]


def test_close_may_be_called_twice(log: Log):
    log.append("events", messages("a"))
    log.close()
    log.close()


# Commit: the logs that keep positions


def test_topics_are_separate(committing_log: Log):
    committing_log.append("events", messages("a"))
    committing_log.append("dead-letters", messages("x", "y"))

    assert committing_log.end("events") == 1
    assert committing_log.end("dead-letters") == 2
    assert values(committing_log, "dead-letters") == ["x", "y"]


def test_commit_appends_the_outputs_and_moves_the_position(committing_log: Log):
    committing_log.append("events", messages("a", "b", "c"))
    committing_log.commit("score", {"events": Move(0, 2)}, {"scores": messages("A"), "dead-letters": messages("B")})
    committing_log.commit("score", {"events": Move(2, 3)}, {"scores": messages("C"), "dead-letters": []})
    committing_log.flush()

    assert committing_log.committed("score", "events").position == 3
    assert values(committing_log, "scores") == ["A", "C"]
    assert values(committing_log, "dead-letters") == ["B"]


def test_groups_and_topics_have_positions_of_their_own(committing_log: Log):
    committing_log.commit("score", {"events": Move(0, 5)}, {})
    committing_log.commit("quality", {"events": Move(0, 2)}, {})
    committing_log.commit("score", {"scores": Move(0, 1)}, {})
    committing_log.flush()

    assert committing_log.committed("score", "events").position == 5
    assert committing_log.committed("quality", "events").position == 2
    assert committing_log.committed("score", "scores").position == 1
    assert committing_log.committed("quality", "scores").position == 0


def test_a_second_consumer_of_the_group_is_fenced_and_nothing_of_it_is_written(committing_log: Log):
    committing_log.commit("score", {"events": Move(0, 3)}, {"scores": messages("A")})

    with pytest.raises(LogError, match=r"^group 'score.*' is at position 3 of 'events.*another consumer of the group"):
        committing_log.commit("score", {"events": Move(0, 2)}, {"scores": messages("B"), "dead-letters": messages("C")})
    committing_log.flush()

    assert committing_log.committed("score", "events").position == 3
    assert values(committing_log, "scores") == ["A"]
    assert committing_log.end("dead-letters") == 0
    committing_log.commit("score", {"events": Move(3, 4)}, {"scores": messages("D")})


# The log in memory: crashes on demand


def test_a_crash_before_a_commit_leaves_nothing_of_it():
    log = ListLog()
    log.crash_before_commit(2)
    log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A")})
    with pytest.raises(Crash):
        log.commit("score", {"events": Move(1, 2)}, {"scores": messages("B")})

    assert (log.committed("score", "events").position, values(log, "scores")) == (1, ["A"])
    log.commit("score", {"events": Move(1, 2)}, {"scores": messages("B")})
    assert (log.committed("score", "events").position, values(log, "scores")) == (2, ["A", "B"])


def test_a_crash_after_a_commit_leaves_all_of_it():
    log = ListLog()
    log.crash_after_commit(1)
    with pytest.raises(Crash):
        log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A")})

    assert (log.committed("score", "events").position, values(log, "scores")) == (1, ["A"])


# The SQLite log: waiting


def test_a_read_of_nothing_returns_after_its_timeout(sqlite_log: SqliteLog):
    started = time.monotonic()
    assert sqlite_log.read_batch("events", 0, 10, 0.05).records == []
    assert 0.05 <= time.monotonic() - started < 1


def test_a_read_waits_for_the_first_message_and_no_longer(sqlite_log: SqliteLog, tmp_path: Path):
    def append_later() -> None:
        time.sleep(0.05)
        log = SqliteLog(tmp_path / "log.db")
        log.append("events", messages("a"))
        log.close()

    producer = threading.Thread(target=append_later)
    producer.start()
    started = time.monotonic()
    records = sqlite_log.read_batch("events", 0, 10, 30.0).records
    waited = time.monotonic() - started
    producer.join()

    assert [record.value for record in records] == [b'"a"']
    assert waited < 10


def test_a_batch_of_huge_messages_is_cut_at_a_bound_of_bytes(sqlite_log: SqliteLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline.sqlite_log, "MAX_READ_BYTES", 1000)
    monkeypatch.setattr(pipeline.sqlite_blocks, "BLOCK_BYTES", 500)
    sqlite_log.append("events", [Message(b"x" * 400)] * 5 + [Message(b"x" * 4000)] * 2)

    positions, position = [], 0
    while records := sqlite_log.read_batch("events", position, 100, 0).records:
        positions.append([record.position for record in records])
        position = records[-1].position + 1
    assert positions == [[0, 1, 2], [3, 4, 5], [6]]


# The SQLite log: blocks


def rows(folder: Path, topic: str) -> list[tuple[int, str]]:
    with contextlib.closing(sqlite3.connect(folder / "log.db")) as db:
        return db.execute(f"SELECT last, content_type FROM topic_{topic} ORDER BY last").fetchall()


def test_what_is_appended_at_once_is_one_row_and_read_from_any_position(sqlite_log: SqliteLog, tmp_path: Path):
    sqlite_log.append("events", messages(*"abcde"))
    sqlite_log.append("events", messages(*"fg"))

    assert rows(tmp_path, "events") == [(4, JSON), (6, JSON)]
    for position in range(8):
        for count in range(1, 9):
            assert "".join(values(sqlite_log, "events", position, count)) == "abcdefg"[position : position + count]


def test_messages_of_several_kinds_have_rows_of_their_own_and_keep_their_order(sqlite_log: SqliteLog, tmp_path: Path):
    mixed = [Message(b"%d" % i, None if i % 3 else str(i), PACKED if i in (3, 4) else JSON) for i in range(8)]
    mixed[6] = mixed[6]._replace(headers=(("reason", b"too_large"),))
    sqlite_log.append("events", mixed)

    records = sqlite_log.read_batch("events", 0, 100, 0).records
    assert [Message(record.value, record.key, record.content_type, record.headers) for record in records] == mixed
    assert [record.position for record in records] == list(range(8))
    assert {last for last, content_type in rows(tmp_path, "events") if content_type == PACKED} == {3, 4}


def test_a_block_is_bounded_in_messages_and_in_bytes(sqlite_log: SqliteLog, tmp_path: Path):
    small, large = pipeline.sqlite_blocks.BLOCK_MESSAGES, pipeline.sqlite_blocks.BLOCK_BYTES
    sqlite_log.append("events", messages("a") * (2 * small + 1))
    sqlite_log.append("scores", [Message(b"x" * (large // 2 + 1))] * 3 + [Message(b"x" * 3 * large)])

    assert [last for last, _ in rows(tmp_path, "events")] == [small - 1, 2 * small - 1, 2 * small]
    assert [last for last, _ in rows(tmp_path, "scores")] == [0, 1, 2, 3]


def test_keys_that_are_no_text_share_a_block_with_those_that_are(sqlite_log: SqliteLog):
    keys = ["r17", None, b"\xff\x00 key".decode(errors="surrogateescape"), "Stra\u00dfe", ""]
    sqlite_log.append("events", [Message(b"{}", key) for key in keys])

    assert [record.key for record in sqlite_log.read_batch("events", 0, 10, 0).records] == keys


# The SQLite log: several processes, and the end of one

COMMIT_UNTIL_KILLED = """
import os, random, signal, sys, time
from pipeline.log import Message, Move
from pipeline.sqlite_log import SqliteLog

def commit_for_ever(step):
    log = SqliteLog(sys.argv[1])
    position = log.committed("score", "events").position
    while True:
        step = step % 50 + 1
        values = [Message(b"%d" % n) for n in range(position, position + step)]
        log.commit("score", {"events": Move(position, position + step)}, {"scores": values, "dead-letters": values[:1]})
        position += step

instants = random.Random(0)
for kill in range(30):
    consumer = os.fork()
    if consumer == 0:
        commit_for_ever(kill)
    time.sleep(instants.uniform(0.0, 0.03))
    os.kill(consumer, signal.SIGKILL)
    os.waitpid(consumer, 0)
    log = SqliteLog(sys.argv[1])
    position = log.committed("score", "events").position
    scores = [int(record.value) for record in log.read_batch("scores", 0, 10**9, 0).records]
    firsts = [int(record.value) for record in log.read_batch("dead-letters", 0, 10**9, 0).records]
    assert scores == list(range(position)), (kill, position, len(scores))
    assert firsts == sorted(set(firsts)) and all(first < position for first in firsts), (kill, position, firsts)
    log.close()
print(position)
"""

APPEND_WHEN_TOLD = """
import sys
from pipeline.log import Message
from pipeline.sqlite_log import SqliteLog
print("ready", flush=True)
sys.stdin.readline()
log = SqliteLog(sys.argv[1])
for start in range(0, 3000, 10):
    log.append("events", [Message(b"%d" % n, sys.argv[2]) for n in range(start, start + 10)])
log.close()
"""


def run_python(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_kill_9_at_any_instant_leaves_outputs_and_position_in_agreement(tmp_path: Path):
    with run_python(COMMIT_UNTIL_KILLED, tmp_path / "log.db") as consumers:
        output, _ = consumers.communicate(timeout=60)
    assert consumers.returncode == 0
    assert int(output) > 1000  # they did get somewhere


def test_processes_that_append_at_once_leave_no_gap_and_keep_their_own_order(tmp_path: Path):
    path = tmp_path / "log.db"  # not there yet: they also race to make it
    producers = [run_python(APPEND_WHEN_TOLD, path, name) for name in "abc"]
    for producer in producers:
        assert producer.stdout is not None and producer.stdout.readline() == "ready\n"
    for producer in producers:
        assert producer.stdin is not None
        producer.stdin.write("go\n")
        producer.stdin.flush()
    for producer in producers:
        with producer:
            assert producer.wait(timeout=60) == 0

    log = SqliteLog(path)
    records = log.read_batch("events", 0, 10_000, 0).records
    log.close()
    assert [record.position for record in records] == list(range(9000))
    for name in "abc":
        assert [int(record.value) for record in records if record.key == name] == list(range(3000))
    changes = sum(1 for one, next_one in zip(records, records[1:], strict=False) if one.key != next_one.key)
    assert changes > 2  # they did overlap: one after the other would change hands twice


def test_what_one_consumer_committed_fences_another_process(sqlite_log: SqliteLog, tmp_path: Path):
    other = SqliteLog(tmp_path / "log.db")
    other.commit("score", {"events": Move(0, 1)}, {"scores": messages("A")})
    other.close()

    with pytest.raises(LogError, match="group 'score' is at position 1 of 'events', this consumer expected 0"):
        sqlite_log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A")})
    assert values(sqlite_log, "scores") == ["A"]


def test_a_consumer_that_is_interrupted_within_a_commit_writes_nothing(sqlite_log: SqliteLog):
    class Interrupted(list[Message]):
        def __len__(self) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sqlite_log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A"), "dead-letters": Interrupted()})
    assert (sqlite_log.end("scores"), sqlite_log.committed("score", "events").position) == (0, 0)
    sqlite_log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A"), "dead-letters": messages("B")})
    assert (sqlite_log.end("scores"), sqlite_log.end("dead-letters")) == (1, 1)


# The SQLite log: what the user can mend


def test_a_full_disk_is_one_clear_line_and_the_transaction_is_as_if_never_begun():
    with one_megabyte_disk() as disk:
        log = SqliteLog(disk / "log.db")
        log.append("events", [Message(b"x" * 1000)])
        log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A")})

        with pytest.raises(LogError) as caught:
            outputs = {"scores": [Message(b"x" * 1000)] * 2000, "dead-letters": messages("B")}
            log.commit("score", {"events": Move(1, 2)}, outputs)
        assert str(caught.value) == (
            f"log {disk}/log.db: the disk is full, nothing of this batch was written (SQLITE_FULL); "
            "free some space and start again"
        )

        assert log.committed("score", "events").position == 1
        assert values(log, "scores") == ["A"]
        assert log.end("dead-letters") == 0
        log.close()


def test_a_log_that_fills_its_disk_goes_on_when_there_is_room_again():
    with one_megabyte_disk() as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 600_000)
        log = SqliteLog(disk / "log.db")
        written = 0
        with pytest.raises(LogError, match=r"log.db: the disk .*, nothing of this batch was written"):
            while True:
                written = log.append("events", [Message(b"x" * 1000)] * 20)
        ballast.unlink()

        assert log.end("events") == written
        assert log.append("events", [Message(b"x" * 1000)] * 20) == written + 20
        log.close()


def test_a_read_only_disk_is_one_clear_line():
    with one_megabyte_disk() as disk:
        SqliteLog(disk / "log.db").close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        with pytest.raises(
            LogError, match=r"log .*/log.db: cannot be (opened|written to) \(SQLITE_\w+\); make the file"
        ):
            SqliteLog(disk / "log.db")
        with pytest.raises(
            LogError, match=r"log .*/new.db: cannot be (opened|written to) \(SQLITE_\w+\); make the file"
        ):
            SqliteLog(disk / "new.db")


def test_a_reader_does_not_make_a_missing_log(tmp_path: Path):
    path = tmp_path / "missing.db"
    expected = f"no log at {path}: `graphsieve replay EVENTS --to sqlite:{path}` makes one"
    with pytest.raises(LogError, match=f"^{re.escape(expected)}$"):
        SqliteLog(path, create=False)
    assert not path.exists()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(LogError, match=r"no folder .*/nowhere for the log log\.db: make it first"):
        SqliteLog(tmp_path / "nowhere" / "log.db")


def test_a_folder_is_not_a_log(tmp_path: Path):
    with pytest.raises(LogError, match=r"cannot be opened \(SQLITE_CANTOPEN"):
        SqliteLog(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "events.txt"
    path.write_text('{"type":"node"}\n' * 100)
    with pytest.raises(LogError, match=r"events\.txt: it is not a log \(SQLITE_NOTADB\); name another file"):
        SqliteLog(path)
    assert path.read_text() == '{"type":"node"}\n' * 100


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(LogError, match=r"other\.db is an SQLite file of another program: name another file"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_a_log_of_another_format_is_refused(tmp_path: Path):
    path = tmp_path / "log.db"
    SqliteLog(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 2")
    newer.close()

    with pytest.raises(
        LogError, match=r"log\.db is a log of format 2, this graphsieve's is 3: use the graphsieve that"
    ):
        SqliteLog(path)


def test_a_damaged_log_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    log.append("events", [Message(b"x" * 1000)] * 100)
    log.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)

    log = SqliteLog(path)
    with pytest.raises(LogError, match=r"log\.db: the file is damaged \(SQLITE_CORRUPT\w*\); restore it from a copy"):
        log.read_batch("events", 0, 100, 0)
    log.close()


def test_a_damaged_block_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    log.append("events", messages("a"))
    log.append("events", messages("b", "c"))
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE topic_events SET messages = substr(messages, 1, 5) WHERE last = 2")

    assert values(log, "events", 0, 1) == ["a"]
    with pytest.raises(
        LogError, match=r"log\.db: the file is damaged \(the block up to 2: .*\); restore it from a copy"
    ):
        log.read_batch("events", 0, 100, 0)
    log.close()


def test_a_block_that_lacks_a_key_is_damaged():
    ((*columns, _),) = rows_of(blocks_of([Message(b"1", "a"), Message(b"2", "b")]), 0, 0.0)
    with pytest.raises(ValueError, match="1 keys, 2 values"):
        records_of((*columns, msgspec.msgpack.encode((["a"], None, [b"1", b"2"]))), 0, 10)


def test_a_log_that_another_process_keeps_locked_is_waited_for_and_then_named(tmp_path: Path):
    path = tmp_path / "log.db"
    log = SqliteLog(path, busy_seconds=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(
        LogError, match=r"log\.db: another process has kept it locked \(SQLITE_BUSY\); end that process"
    ):
        log.append("events", messages("a"))
    holder.execute("ROLLBACK")
    holder.close()
    assert log.append("events", messages("a")) == 1
    log.close()


@pytest.mark.parametrize("topic", ["", "Events", "a b", 'x"; DROP TABLE positions; --', ".hidden", "x" * 101, "a\n"])
def test_a_topic_name_that_could_be_taken_for_another_is_refused(sqlite_log: SqliteLog, topic: str):
    with pytest.raises(LogError, match="expected 1 to 100 of a-z"):
        sqlite_log.append(topic, messages("a"))


def test_a_log_lists_its_topics(sqlite_log: SqliteLog):
    assert sqlite_log.topics() == []
    sqlite_log.commit("score", {"events": Move(0, 1)}, {"scores": messages("A"), "dead-letters": messages("B")})
    assert sqlite_log.topics() == ["dead-letters", "scores"]


# open_log


def test_a_log_is_opened_by_its_url(tmp_path: Path):
    for url, kind in [
        (f"sqlite:{tmp_path}/a.db", SqliteLog),
        (f"{tmp_path}/a.jsonl.zst", RecordedFile),
        (f"file:{tmp_path}/a", RecordedFile),
    ]:
        log = open_log(url)
        assert isinstance(log, kind)
        assert log.append("events", [Message(b'"a"', "k", JSON)]) == 1
        log.close()
        again = open_log(url, create=False)
        assert again.end("events") == 1
        again.close()


@pytest.mark.parametrize("url", ["kafka:", "sqlite:", "file:", "log.db", ""])
def test_an_unknown_log_is_refused_with_what_is_supported(url: str):
    with pytest.raises(LogError, match=f"^log {re.escape(repr(url))}: expected sqlite:FILE, or a recorded file"):
        open_log(url)


@pytest.mark.parametrize("url", ["sqlite:{}/missing.db", "{}/missing.jsonl"])
def test_a_log_that_must_exist_is_not_made(tmp_path: Path, url: str):
    with pytest.raises(LogError, match=r"^no (log|recorded file) at .*missing"):
        open_log(url.format(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []
