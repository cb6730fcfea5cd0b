"""Following: the joins of a whole reading, whatever the scorer's lag, however many partitions, whoever is away."""

import contextlib
import threading

import msgspec
import numpy as np
import pytest
from fakes import FakeClock, ListLog
from hypothesis import given
from hypothesis import strategies as st
from published import written
from test_quality import DECODER, GROUP, fill, forms, label, list_log, node, publish, run_scorer, score_message, steps
from worlds import START, random_model, world

from consumers.follow import NOTE_SECONDS, RETRY_SECONDS, STALLED_SECONDS, Follower, Following
from consumers.join import JoinState
from consumers.quality import quality
from consumers.windows import Expected, Windows
from pipeline.config import Quality, Topics
from pipeline.decoder import Decoder
from pipeline.drift import LEAST_VALUES, Reference, fit_bins, watched
from pipeline.errors import LogError
from pipeline.evaluate import for_json, report
from pipeline.log import Message, Move, Record
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import QualityStats


class Bench:
    """Followers of logs, one a partition, and what they find together."""

    def __init__(self, *logs, knobs=None, topics=None, expected=None, decoder=DECODER):
        knobs = knobs or Quality()
        self.clock, self.said, self.stats = FakeClock(), [], QualityStats()
        self.state, self.windows = JoinState(knobs.max_pending), Windows(knobs, expected)
        self.followers = [
            Follower(i, lambda log=log: log, decoder, GROUP, self.state, self.windows, topics or Topics())
            for i, log in enumerate(logs)
        ]
        self.following = Following(
            self.followers, self.state, self.windows, self.stats, self.said.append, monotonic=self.clock
        )

    def step(self):
        found = [follower.step() for follower in self.followers]
        return any(found)

    def catch_up(self):
        while self.step():
            pass
        self.following.note()
        return self.stats

    def rounds(self, count, seconds=0.0):
        """Let the loop come round so often, and the clock go on meanwhile."""
        for _ in range(count):
            stop = _StopAfter(len(self.followers))
            self.following.run(stop)
            self.clock.now += seconds


class _StopAfter(threading.Event):
    """Is set once it has been asked so often, not counting the loop's own question."""

    def __init__(self, questions):
        super().__init__()
        self._left = questions + 1

    def is_set(self):
        self._left -= 1
        return self._left < 0

    def wait(self, timeout=None):
        return True


@given(steps, st.booleans(), forms)
def test_following_joins_the_same_however_far_the_scorer_lags(steps, from_the_start, form):
    log = list_log()
    bench = Bench(log)
    pairs = run_scorer(log, steps, bench.step if from_the_start else lambda: None, form)
    stats = bench.catch_up()
    assert (stats.joined, stats.windows["long"]["labelled"], stats.dropped) == (len(pairs), len(pairs), 0)
    offline = quality(log, DECODER)
    figures = for_json(dict(stats.windows["long"]))
    assert figures == {name: offline[name] for name in figures}
    assert stats.pending == offline["scored"] - len(pairs)


@given(steps, steps)
def test_partitions_are_judged_together_and_joined_apart(first, second):
    logs = list_log(), list_log()
    pairs = [pair for log, steps in zip(logs, (first, second), strict=True) for pair in run_scorer(log, steps)]
    stats = Bench(*logs).catch_up()
    assert (stats.joined, stats.pending) == (
        len(pairs),
        sum(quality(log, DECODER)["scored"] for log in logs) - len(pairs),
    )
    if pairs:
        labels, scores = zip(*pairs, strict=True)
        found = stats.windows["long"]
        assert for_json({"auroc": found["auroc"]})["auroc"] == report(labels, scores, 0.5)["auroc"]


def test_following_a_long_log_from_its_start_keeps_few_scores_waiting():
    """Labels come 100 events after their node: catching up needs room for that many scores and one reading's."""
    log, count = list_log(), 20_000
    events = [node(f"n{i // 2}") if i % 2 == 0 else label(f"n{(i - 100) // 2}", i // 2 % 2) for i in range(count)]
    log.append("events", events)
    publish(log, 0, count, [score_message(f"n{i // 2}", i, 0.5) for i in range(0, count, 2)])
    stats = Bench(log, knobs=Quality(max_pending=5000)).catch_up()
    assert (stats.joined, stats.dropped) == (count // 2 - 50, 0)


def test_what_an_at_least_once_scorer_publishes_again_is_passed_over():
    log = list_log()
    bench = Bench(log)
    log.append("events", [node("a"), label("a", 1), node("b"), label("a", 0)])
    publish(log, 0, 3, [score_message("a", 0, 0.7), score_message("b", 2, 0.7)])
    bench.catch_up()
    publish(log, 3, 4, [score_message("a", 0, 0.7), score_message("b", 2, 0.7)])
    stats = bench.catch_up()
    assert (stats.joined, stats.pending) == (1, 1)


class PartlyEndedLog(ListLog):
    """A log of which the end of its last commit is seen where groups stand, and not yet in the topic of the scores."""

    ended = False

    def end(self, topic):
        return super().end(topic) if self.ended or topic != "scores" else 0

    def written(self, topic):
        return super().end(topic)

    def read_batch(self, topic, position, max_records, timeout_seconds):
        return super().read_batch(topic, position, min(max_records, self.end(topic) - position), timeout_seconds)


def test_no_score_is_missed_whose_transaction_ends_where_groups_stand_before_it_does_among_scores():
    log = PartlyEndedLog(FakeClock(START))
    bench = Bench(log)
    log.append("events", [node("a"), label("a", 1)])
    publish(log, 0, 2, [score_message("a", 0, 0.7)])
    assert bench.catch_up().joined == 0
    log.ended = True
    stats = bench.catch_up()
    assert (stats.joined, stats.pending) == (1, 0)


def test_the_topics_may_have_other_names():
    log = list_log()
    log.append("reviews", [node("a"), label("a", 1)])
    log.commit(GROUP, {"reviews": Move(0, 2)}, {"verdicts": written("packed", [("a", 0.7, 0)])})
    assert Bench(log, topics=Topics(events="reviews", scores="verdicts")).catch_up().joined == 1


def test_what_is_no_score_is_counted_over_all_partitions():
    logs = list_log(), list_log()
    for log in logs:
        log.append("scores", [Message(b"garbage")])
    assert Bench(*logs).catch_up().unreadable == 2


def test_a_follower_runs_until_it_is_told_to_stop(tmp_path):
    path, stop = tmp_path / "log.db", threading.Event()

    def live():
        try:
            with contextlib.closing(SqliteLog(path)) as log:
                fill(log)
                until = threading.Event()
                for _ in range(1000):
                    if bench.windows.joined == 10 or until.wait(0.01):
                        break
        finally:
            stop.set()

    with contextlib.closing(SqliteLog(path)) as log:
        bench = Bench(log)
        thread = threading.Thread(target=live)
        thread.start()
        bench.following.run(stop, poll_seconds=0.01)
        thread.join()
    found = bench.following.report()
    assert (found["labelled"], found["pending"], found["threshold"]) == (10, 0, 0.5)
    expected = report([i % 2 for i in range(10)], [i / 10 for i in range(10)], 0.5)
    assert found["windows"]["long"] | {"threshold": 0.5} == expected


# ---- the loop ----


def test_figures_are_worked_out_at_most_once_a_second():
    log = list_log()
    bench = Bench(log)
    noted = []
    bench.following.note = lambda: noted.append(bench.clock.now)
    for _ in range(40):
        bench.following._step(bench.followers[0])
        bench.clock.now += NOTE_SECONDS / 8
    assert noted == [0, 1, 2, 3, 4]


def test_the_loop_tells_whether_it_comes_round_and_whether_it_has_caught_up():
    logs = list_log(), list_log()
    fill(logs[0])
    bench = Bench(*logs)
    assert not bench.following.caught_up
    for _ in range(5):
        bench.rounds(1, seconds=STALLED_SECONDS / 2)
        assert bench.following.comes_round()
    bench.clock.now += STALLED_SECONDS / 2
    assert not bench.following.comes_round()
    bench.rounds(1)
    assert bench.following.comes_round()
    assert bench.following.caught_up
    logs[0].append("events", [node("late")])
    bench.rounds(1)
    assert bench.following.caught_up  # once is enough: it is a little behind whenever there is something new


class AwayLog(ListLog):
    """A log whose broker is away from one operation on, and back when told."""

    def __init__(self):
        super().__init__(FakeClock(START))
        self.away_from = None  # the name of the operation that fails
        self.closed = 0

    def _fail(self, operation):
        if self.away_from == operation:
            error = LogError("kafka h:1: no answer in time")
            error.retriable = True
            raise error

    def begin(self, topic):
        self._fail("begin")
        return 0

    def committed(self, group, topic):
        self._fail("committed")
        return super().committed(group, topic)

    def end(self, topic):
        self._fail("end")
        return super().end(topic)

    def written(self, topic):
        self._fail("written")
        return super().written(topic)

    def read_batch(self, *arguments):
        self._fail("read_batch")
        return super().read_batch(*arguments)

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("operation", ["begin", "committed", "end", "written", "read_batch"])
def test_a_broker_that_is_away_costs_neither_the_service_nor_its_place(operation):
    away, there = AwayLog(), list_log()
    for log in (away, there):
        fill(log)
    bench = Bench(away, there)
    away.away_from = operation
    bench.rounds(8, seconds=RETRY_SECONDS)
    assert away.closed >= 4
    assert bench.said == ["partition 0: kafka h:1: no answer in time; it is tried again, from where it stands"]
    assert bench.windows.joined == 10  # of the other partition, which goes on
    assert bench.following.comes_round()
    away.away_from = None
    bench.rounds(6, seconds=RETRY_SECONDS)
    assert (bench.windows.joined, bench.state.pending) == (20, 0)
    assert bench.said[1:] == ["partition 0 is read again"]
    away.append("events", [node("a"), label("a", 1)])
    publish(away, 20, 22, [score_message("a", 20, 0.7)])
    bench.rounds(1)
    away.away_from = operation
    bench.rounds(3, seconds=RETRY_SECONDS)
    away.away_from = None
    bench.rounds(6, seconds=RETRY_SECONDS)
    assert (bench.windows.joined, bench.state.pending) == (21, 0)


def test_a_partition_whose_broker_is_away_is_not_asked_again_at_once():
    log = AwayLog()
    log.away_from = "begin"
    bench = Bench(log)
    bench.rounds(5, seconds=RETRY_SECONDS / 4)
    assert log.closed == 2


def test_what_time_does_not_mend_ends_the_service():
    class Broken(ListLog):
        def end(self, topic):
            raise LogError("kafka h:1: this user may not do that")

    with pytest.raises(LogError, match="this user may not do that"):
        Bench(Broken()).following.run(threading.Event())


# ---- drift ----


def stream(rng, count, stars):
    """Node events of a world."""
    columns = rng.choice(stars, count), rng.gamma(2, 10, count), rng.normal(size=count)
    events = [
        {"id": f"n{i}", "ts": START, "stars": s, "user": "u", "amount": amount, "embedding": [0.5, e]}
        for i, (s, amount, e) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]
    return [Message(msgspec.json.encode(event)) for event in events]


def expectation(messages, version="m1"):
    """What a checkpoint says that was trained on these messages, and gave uniform scores."""
    model = random_model(world())
    records = [Record(i, m.value, m.key, m.content_type, START) for i, m in enumerate(messages)]
    events, bad = Decoder(world()).decode(records)
    assert bad == []
    columns = watched(model.schema)
    names = [model.schema.own_channels[c] for c in columns]
    features = {name: fit_bins(events.features[:, c]) for name, c in zip(names, columns, strict=True)}
    scores = fit_bins(np.linspace(0, 1, 1001), by_value=False)
    return Expected(version, {"auroc": 0.8, "ap": 0.4}, Reference(features, scores), columns)


def publish_all(log, messages, rng, low, high, model="m1"):
    start, end = log.committed(GROUP, "events").position, log.end("events")
    scores = rng.uniform(low, high, len(messages)).tolist()
    publish(log, start, end, [score_message(f"n{i}", start + i, s, model=model) for i, s in enumerate(scores)])


def test_drift_is_told_of_the_newest_events_and_scores_of_all_partitions():
    rng = np.random.default_rng(0)
    expected = expectation(stream(rng, 5000, [1, 2, 3]))
    logs = list_log(), list_log()
    bench = Bench(*logs, knobs=Quality(window=2000), expected=expected, decoder=Decoder(world()))
    for log in logs:
        messages = stream(rng, 1000, [1, 2, 3])
        log.append("events", messages)
        publish_all(log, messages, rng, 0, 1)
    stats = bench.catch_up()
    assert set(stats.drift) == set(expected.reference.features)
    assert max(stats.drift.values()) < 0.05
    assert stats.score_drift < 0.05
    assert (stats.expected_auroc, stats.expected_average_precision) == (0.8, 0.4)
    for log in logs:  # only threes, and all that was not suspicious is now
        messages = stream(rng, 1000, [3])
        log.append("events", messages)
        publish_all(log, messages, rng, 0.7, 1)
    stats = bench.catch_up()
    moved = [name for name, index in stats.drift.items() if index > 0.25]
    assert set(moved) == {"stars=1", "stars=2", "stars=3", "rating"}
    assert stats.score_drift > 0.25
    found = bench.following.report()
    assert list(found["drift"]["channels"])[:4] == moved  # the largest first
    assert found["drift"]["scores"] == stats.score_drift
    assert found["expected"] == {"model": "m1", "auroc": 0.8, "ap": 0.4}


def test_scores_of_another_model_are_no_drift_of_this_one():
    rng, log = np.random.default_rng(0), list_log()
    expected = expectation(stream(rng, 100, [1, 2, 3]))
    messages = stream(rng, LEAST_VALUES, [1, 2, 3])
    log.append("events", messages)
    publish_all(log, messages, rng, 0.9, 1, model="m0")
    bench = Bench(log, expected=expected, decoder=Decoder(world()))
    bench.catch_up()
    assert bench.following.report()["drift"]["scores"] is None


def test_a_reading_to_the_end_tells_the_same_drift_as_following():
    rng, log = np.random.default_rng(0), list_log()
    expected = expectation(stream(rng, 3000, [1, 2, 3]))
    messages = stream(rng, 1500, [2, 3])
    log.append("events", messages)
    publish_all(log, messages, rng, 0.2, 1)
    log.append("events", [label(f"n{i}", i % 2) for i in range(0, 1500, 3)])
    publish(log, 1500, log.end("events"), [])
    knobs = Quality(short_window=100, window=1000)
    bench, windows = Bench(log, knobs=knobs, expected=expected, decoder=Decoder(world())), Windows(knobs, expected)
    assert quality(log, Decoder(world()), windows=windows)["labelled"] == bench.catch_up().joined == 500
    assert bench.windows.report() == windows.report()


def test_a_checkpoint_without_a_reference_tells_what_to_expect_and_no_drift():
    model = random_model(world())
    model.report = {"metrics": {"test": {"auroc": 0.7, "ap": 0.3}}}
    bench = Bench(list_log(), expected=Expected.of(model))
    stats = bench.catch_up()
    assert (stats.expected_auroc, stats.drift, stats.score_drift) == (0.7, {}, None)
    assert bench.following.report()["drift"] is None
