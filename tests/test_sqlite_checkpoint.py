"""The write-ahead log of the embedded log is copied into its file beside the commits."""

import contextlib
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import sqlite_checkpoint
from pipeline.log import Message, Move, read_to_end
from pipeline.sqlite_log import SqliteLog

BATCH = [Message(b"x" * 1000, f"k{i}") for i in range(40)]  # ten pages


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after a few commits."""
    for name, pages in {"PAGES": 30, "RESTART_PAGES": 120, "FEW_PAGES": 60}.items():
        monkeypatch.setattr(sqlite_checkpoint, name, pages)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "checkpoints"]


def test_a_short_log_has_no_thread_and_none_is_left_of_a_long_one(tmp_path, often):
    log = SqliteLog(tmp_path / "log.db")
    log.append("events", BATCH[:1])
    assert not threads()
    for _ in range(20):
        log.append("events", BATCH)
    assert len(threads()) == 1
    log.close()
    assert not threads()


def test_small_commits_count_as_the_pages_that_they_write(tmp_path, often):
    log = SqliteLog(tmp_path / "log.db")
    for _ in range(40):
        log.append("events", [Message(b"{}")])
    assert len(threads()) == 1
    log.close()


def test_while_commits_go_on_the_file_gets_what_they_wrote_and_the_write_ahead_log_is_used_again(tmp_path, often):
    log = SqliteLog(tmp_path / "log.db")
    file, ahead = tmp_path / "log.db", tmp_path / "log.db-wal"
    written, end = 0, time.monotonic() + 60
    while (written < 4_000_000 or file.stat().st_size < written / 2 or ahead.stat().st_size > written / 2) and (
        time.monotonic() < end
    ):
        log.commit("group", {"events": Move(written, written + 40_000)}, {"scores": BATCH})
        written += 40_000
        time.sleep(0.001)
    assert file.stat().st_size > written / 2
    assert ahead.stat().st_size < written / 2
    log.close()


def test_two_who_write_and_copy_at_once_lose_nothing(tmp_path, often):
    def write(topic):
        log = SqliteLog(tmp_path / "log.db")
        for i in range(100):
            log.append(topic, [Message(f"{i}.{k} {'x' * 900}".encode()) for k in range(40)])
        log.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("a", "b")))
    log = SqliteLog(tmp_path / "log.db")
    wanted = [f"{i}.{k}" for i in range(100) for k in range(40)]
    for topic in ("a", "b"):
        found = [record.value.split()[0].decode() for records in read_to_end(log, topic) for record in records]
        assert found == wanted
    log.close()


def test_what_was_copied_is_durable_before_commits_have_to_wait_for_it(tmp_path, often, monkeypatch):
    monkeypatch.setattr(sqlite_checkpoint, "PAGES", 10_000)  # the log's own thread does not come first
    durable, restarts = [], []

    class Watched(sqlite3.Connection):
        def execute(self, statement, *parameters):
            if "RESTART" in statement:
                restarts.append(list(durable))
            return super().execute(statement, *parameters)

    monkeypatch.setattr(os, "fsync", lambda number: durable.append(os.fstat(number).st_ino))
    log = SqliteLog(tmp_path / "log.db")
    for _ in range(20):
        log.append("events", BATCH)
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db", factory=Watched)) as db:
        sqlite_checkpoint._copy(db)
    files = {(tmp_path / name).stat().st_ino for name in ("log.db", "log.db-wal")}
    assert restarts
    assert files <= set(restarts[0])
    log.close()
