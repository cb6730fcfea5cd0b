"""Of a backlog, a thread classifies, commits and reads on while another advances: it gives what one thread gives."""

import random
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import Crash, FakeClock, ListLog
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import START, event_sequences, random_model, world

import consumers.score
import pipeline.log
from consumers.intake import Intake
from consumers.meanwhile import Meanwhile
from consumers.score import ScoreConsumer
from pipeline.config import Config, Score, Scores
from pipeline.errors import LogError
from pipeline.events import REASONS
from pipeline.log import Message
from pipeline.model import Model
from pipeline.scorer import Scorer
from pipeline.snapshot_store import SnapshotStore, open_store
from pipeline.stats import ServiceStats

MODEL = random_model(world())
WAITS = 60.0  # seconds, for what must happen


@pytest.fixture(autouse=True, scope="module")
def any_batch_is_large():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consumers.score, "AHEAD_BYTES", 0)
        patch.setattr(Model, "is_compiled", False)  # few events go through all stages at once
        yield


class WatchedLog(ListLog):
    """Tells which threads have committed."""

    def __init__(self) -> None:
        super().__init__(FakeClock(START))
        self.committed_by: list[str] = []

    def commit(self, *args, **options):
        self.committed_by.append(threading.current_thread().name)
        super().commit(*args, **options)

    def scores(self) -> list[dict]:
        return [msgspec.json.decode(record.value) for record in self.topics.get("scores", [])]

    def dead_letters(self) -> list[bytes]:
        return [record.value for record in self.topics.get("dead-letters", [])]


def log_of(events: list[dict]) -> WatchedLog:
    log = WatchedLog()
    log.append("events", [Message(msgspec.json.encode(event)) for event in events])
    return log


def assert_same_outputs(one: WatchedLog, other: WatchedLog) -> None:
    assert one.dead_letters() == other.dead_letters()
    assert [(s["id"], s["position"]) for s in one.scores()] == [(s["id"], s["position"]) for s in other.scores()]
    np.testing.assert_allclose([s["score"] for s in one.scores()], [s["score"] for s in other.scores()], atol=1e-5)
    told, expected = ([dict(s.get("why", [])) for s in log.scores()] for log in (one, other))
    assert [sorted(why) for why in told] == [sorted(why) for why in expected]
    added = [[why[player] for why in found for player in sorted(why)] for found in (told, expected)]
    np.testing.assert_allclose(*added, atol=1e-3)  # rounded to four digits


def nodes(count: int) -> list[dict]:
    return [
        {"id": f"n{i}", "ts": START + i, "stars": 1 + i % 3, "user": f"u{i % 3}", "embedding": [0, 1], "target": True}
        for i in range(count)
    ]


def consumer_of(
    log: ListLog, folder: Path, free: bool = True, snapshot_every: str = "1h", explain: bool = False
) -> ScoreConsumer:
    limits = Score(max_batch=4, max_wait="0ms", snapshot_every=snapshot_every)
    config = Config(score=limits, scores=Scores(explain=explain))
    store = open_store(str(folder), "", keep=2)
    return ScoreConsumer(
        log, store, MODEL, config, ServiceStats(REASONS), lambda line: None, log.clock, core_is_free=lambda: free
    )


def serve(log: ListLog, folder: Path, *options: Any, **named: Any) -> ServiceStats:
    """Score what the log holds, by a `consumer_of` such options."""
    with closing(consumer_of(log, folder, *options, **named)) as consumer:
        consumer.recover(threading.Event())
        consumer.run(threading.Event(), log.end("events"))
        consumer.finish()
        return consumer.stats


@settings(max_examples=40)
@given(
    events=event_sequences(), crashes=st.lists(st.integers(1, 5), max_size=3), before=st.booleans(), why=st.booleans()
)
def test_what_is_published_is_the_same_through_crashes_too(tmp_path_factory, events, crashes, before, why):
    ahead, alone = log_of(events), log_of(events)
    serve(alone, tmp_path_factory.mktemp("alone"), free=False, explain=why)
    folder = tmp_path_factory.mktemp("ahead")
    for crash in crashes:
        (ahead.crash_before_commit if before else ahead.crash_after_commit)(ahead.commits + crash)
        try:
            serve(ahead, folder, explain=why)
        except Crash:
            ahead.crash_after_commit(0)
    serve(ahead, folder, explain=why)
    assert_same_outputs(ahead, alone)
    assert set(alone.committed_by) <= {"MainThread"}
    assert len(events) < 12 or crashes or "meanwhile" in ahead.committed_by


class Begun:
    """How many micro-batches the scorer has begun with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count, self._changed, advance = 0, threading.Condition(), Scorer.advance

        def begin(*args):
            with self._changed:
                self._count += 1
                self._changed.notify_all()
            return advance(*args)

        monkeypatch.setattr(Scorer, "advance", begin)

    def reaches(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._count >= count, WAITS)


def test_a_micro_batch_is_committed_while_the_state_takes_in_the_next(tmp_path, monkeypatch):
    log, begun = log_of(nodes(40)), Begun(monkeypatch)

    def commit(*args, **options):
        last = log.commits == 9  # has nobody to wait for
        assert last or begun.reaches(log.commits + 2)
        WatchedLog.commit(log, *args, **options)

    monkeypatch.setattr(log, "commit", commit)
    assert serve(log, tmp_path).scores == 40
    assert log.commits == 10


def test_a_replay_reads_on_while_it_scores(tmp_path, monkeypatch):
    log = log_of(nodes(40))
    serve(log, tmp_path / "first")
    begun, reads, read_batch = Begun(monkeypatch), [], log.read_batch

    def read(*args):
        assert begun.reaches(len(reads))
        reads.append(threading.current_thread().name)
        return read_batch(*args)

    monkeypatch.setattr(log, "read_batch", read)
    monkeypatch.setattr(pipeline.log, "READ_RECORDS", 8)
    with closing(consumer_of(log, tmp_path / "second")) as consumer:
        consumer.recover(threading.Event())
        assert (consumer.position, consumer.replayed) == (40, 40)
    assert reads == ["MainThread", *["meanwhile"] * 4]


@pytest.mark.parametrize(
    ("free", "large"), [(False, 0), (True, 100_000)], ids=["no core is free", "a micro-batch is small"]
)
def test_one_thread_does_it_all_where(free, large, tmp_path, monkeypatch):
    monkeypatch.setattr(consumers.score, "AHEAD_BYTES", large)
    log = log_of(nodes(40))
    assert serve(log, tmp_path, free).scores == 40
    assert set(log.committed_by) == {"MainThread"}


@pytest.mark.parametrize("log_goes_on", [True, False])
@pytest.mark.parametrize("state_is_busy", [True, False])
def test_whoever_makes_hidden_features_and_decodes_the_scores_are_the_same(
    log_goes_on, state_is_busy, tmp_path, monkeypatch
):
    ahead, alone = log_of(nodes(200)), log_of(nodes(200))
    serve(alone, tmp_path / "alone", free=False)
    settled, decoded, settle, decode = [], [], Scorer.settle, Intake.decode

    def noted(who, do):
        def done(self, what):
            who.append(threading.current_thread().name)
            return do(self, what)

        return done

    monkeypatch.setattr(Scorer, "settle", noted(settled, settle))
    monkeypatch.setattr(Intake, "decode", noted(decoded, decode))
    monkeypatch.setattr(Meanwhile, "goes_on", log_goes_on)
    busy = property(lambda self: state_is_busy, lambda self, value: None)
    monkeypatch.setattr(ScoreConsumer, "_state_is_busy", busy, raising=False)
    serve(ahead, tmp_path / "ahead")
    assert len(settled) == len(decoded) == ahead.commits == 50
    assert ("meanwhile" in decoded) == state_is_busy
    assert ("meanwhile" in settled) == (not log_goes_on)
    assert [score | {"scored_at": 0} for score in ahead.scores()] == [
        score | {"scored_at": 0} for score in alone.scores()
    ]


def test_what_is_no_backlog_is_committed_at_once(tmp_path):
    log = log_of(nodes(7))  # less waits behind the first four than they are
    serve(log, tmp_path)
    assert log.committed_by == ["MainThread"] * 2


def test_a_stop_finishes_what_was_read_ahead(tmp_path, monkeypatch):
    log, stop = log_of(nodes(40)), threading.Event()

    def commit(*args, **options):
        WatchedLog.commit(log, *args, **options)
        if log.commits == 3:
            stop.set()

    monkeypatch.setattr(log, "commit", commit)
    with closing(consumer_of(log, tmp_path)) as consumer:
        consumer.recover(threading.Event())
        consumer.run(stop)
        assert consumer.position < consumer.read_to < 40
        consumer.finish()
        assert consumer.position == consumer.read_to == log.committed("graphsieve", "events").position
        assert consumer.stats.scores == len(log.topics["scores"]) == consumer.position


def written_since(store: SnapshotStore, names: list[str]) -> bool:
    deadline = time.monotonic() + WAITS
    while store.names() == names and time.monotonic() < deadline:
        time.sleep(0.001)
    return store.names() != names


def test_snapshots_of_a_backlog_are_of_committed_positions_and_sound(tmp_path, monkeypatch):
    ahead, alone, chance = log_of(nodes(3000)), log_of(nodes(3000)), random.Random(0)
    serve(alone, tmp_path / "alone", free=False)
    for run in range(6):
        crash = ahead.commits + chance.randint(60, 120)
        with closing(consumer_of(ahead, tmp_path / "ahead", snapshot_every="2ms")) as consumer:
            consumer.recover(threading.Event())
            assert consumer.position == ahead.committed("graphsieve", "events").position
            assert (consumer.snapshot_name is None) == (run == 0)
            before = consumer.store.names()

            def commit(*args, store=consumer.store, before=before, crash=crash, **options):
                if ahead.commits == crash:
                    assert written_since(store, before)
                    raise Crash
                WatchedLog.commit(ahead, *args, **options)

            monkeypatch.setattr(ahead, "commit", commit)
            with pytest.raises(Crash):
                consumer.run(threading.Event(), 3000)
            monkeypatch.undo()
    serve(ahead, tmp_path / "ahead")
    assert "meanwhile" in ahead.committed_by
    assert_same_outputs(ahead, alone)


def test_what_fails_on_the_other_thread_is_raised_on_this_one(tmp_path, monkeypatch):
    log, read_batch = log_of(nodes(40)), WatchedLog.read_batch

    def read(*args):
        if threading.current_thread().name == "meanwhile":
            raise LogError("no log")
        return read_batch(log, *args)

    monkeypatch.setattr(log, "read_batch", read)
    with pytest.raises(LogError, match="no log"):
        serve(log, tmp_path)
    assert log.commits == 0


def test_leaving_by_an_error_waits_for_the_other_thread():
    going_on, done = threading.Event(), []
    timer = threading.Timer(0.05, going_on.set)
    timer.start()
    with pytest.raises(ValueError, match="mine"), Meanwhile(lambda: done.append(going_on.wait(WAITS))):
        raise ValueError("mine")
    assert done == [True]
    timer.join()
