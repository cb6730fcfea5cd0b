"""How long an event waits for others to be scored with: not at all, but where a commit is costly."""

import threading

import msgspec
import pytest
from fakes import FakeClock, ListLog
from worlds import START, random_model, world

from consumers.score import ScoreConsumer
from pipeline.config import Config, Score
from pipeline.events import REASONS
from pipeline.kafka_log.log import KafkaLog
from pipeline.log import Message
from pipeline.merged_log import MergedLog
from pipeline.snapshot_store import open_store
from pipeline.stats import ServiceStats

MODEL = random_model(world())


class CostlyLog(ListLog):
    costly_commits = True


def appended(log: ListLog, first: int, last: int) -> None:
    nodes = [
        {"id": f"n{i}", "ts": START, "stars": 1, "user": "u", "embedding": [0, 0], "target": True}
        for i in range(first, last)
    ]
    log.append("events", [Message(msgspec.json.encode(node)) for node in nodes])


@pytest.fixture
def serving(tmp_path):
    """Serve a log up to its end, with micro-batches of up to 8."""

    def serve(log: ListLog) -> ServiceStats:
        config, stats = Config(score=Score(max_batch=8, max_wait="10ms")), ServiceStats(REASONS)
        store = open_store(str(tmp_path), "", keep=1)
        consumer = ScoreConsumer(log, store, MODEL, config, stats, print, log.clock, log.clock)
        consumer.recover(threading.Event())
        consumer.run(threading.Event(), log.end("events"))
        store.close()
        return stats

    return serve


def test_one_event_waits_for_nobody(serving):
    log = ListLog(FakeClock(START))
    appended(log, 0, 1)
    assert serving(log).scores == 1
    assert log.clock.slept == []


def test_a_backlog_is_served_in_full_micro_batches(serving):
    log = ListLog(FakeClock(START))
    appended(log, 0, 20)
    assert serving(log).micro_batch_events.sum == 20
    assert log.commits == 3
    assert log.clock.slept == []


def test_events_are_gathered_where_a_commit_is_costly(serving):
    log = CostlyLog(FakeClock(START))
    appended(log, 0, 1)
    serving(log)
    assert log.commits == 0  # it waits still: all that the log holds is read, and its time is not up


def test_commits_to_kafka_are_costly_and_so_are_those_of_what_is_merged_there():
    assert KafkaLog.costly_commits
    for base in (ListLog(), CostlyLog()):
        assert MergedLog(base, ["a", "b"], "journal", "g").costly_commits == base.costly_commits
