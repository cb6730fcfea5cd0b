"""Scores and late labels on a real log, joined; the naive join below is the oracle."""

import contextlib
import json
import math
import re
import threading

import msgspec
import pytest
from fakes import ListLog
from hypothesis import given
from hypothesis import strategies as st
from published import written

from consumers.quality import Follower, Joined, JoinState, QualityWindow, quality
from pipeline.config import Topics
from pipeline.errors import LogError
from pipeline.evaluate import for_json, report
from pipeline.log import Message, Move
from pipeline.messages import PACKED_SCORES, ScoreMessage
from pipeline.sqlite_log import SqliteLog
from pipeline.stats import QualityStats

GROUP = "score"


def labels_of(records):
    for record in records:
        event = json.loads(record.value)
        if event["type"] == "label":
            yield record.position, event["id"], event["label"]


def node(node_id):
    return Message(json.dumps({"type": "node", "id": node_id, "ts": 1.0}).encode())


def label(node_id, value):
    return Message(json.dumps({"type": "label", "id": node_id, "label": value, "ts": 2.0}).encode())


def score_message(node_id, position, score, threshold=0.5, model="m1"):
    return Message(msgspec.json.encode(score_of(node_id, position, score, threshold, model)))


def score_of(node_id, position, score=0.5, threshold=0.5, model="m1"):
    return ScoreMessage(node_id, score, score >= threshold, threshold, model, 1.0, position, 0, 3.0)


@pytest.fixture
def log(tmp_path):
    with contextlib.closing(SqliteLog(tmp_path / "log.db")) as log:
        yield log


def publish(log, start, position, scores):
    log.commit(GROUP, {"events": Move(start, position)}, {"scores": scores})


def fill(log):
    """Ten nodes at positions 0 to 9, scored; their labels in reverse at 10 to 19: odd ones are spam."""
    log.append("events", [node(f"n{i}") for i in range(10)])
    log.append("events", [label(f"n{i}", i % 2) for i in reversed(range(10))])
    publish(log, 0, 20, [score_message(f"n{i}", i, i / 10) for i in range(10)])


def test_quality_is_the_report_of_labels_and_scores(log):
    fill(log)
    labels, scores = [i % 2 for i in range(10)], [i / 10 for i in range(10)]
    assert quality(log, labels_of) == report(labels, scores, 0.5) | {"scored": 10, "unreadable": 0}


def test_the_last_share_counts_by_the_position_of_the_score_not_of_its_label(log):
    fill(log)
    figures = quality(log, labels_of, last=0.3)
    expected = report([1, 0, 1], [0.7, 0.8, 0.9], 0.5)  # n7, n8, n9, whose labels came first
    assert figures == expected | {"scored": 10, "unreadable": 0}


def test_after_leaves_out_the_scores_up_to_that_position(log):
    fill(log)
    assert quality(log, labels_of, after=3)["labelled"] == 6
    assert quality(log, labels_of, after=3, last=0.5)["labelled"] == 3
    assert quality(log, labels_of, after=100) == quality(ListLog(), labels_of)


def test_a_log_without_scores_or_labels_has_no_figures_and_no_error(log):
    assert set(quality(log, labels_of).values()) == {0, None}
    log.append("events", [node("a"), label("a", 1)])
    assert quality(log, labels_of)["labelled"] == 0
    publish(log, 0, 2, [score_message("a", 0, 0.7)])
    figures = quality(log, labels_of)
    assert (figures["labelled"], figures["auroc"], figures["recall"]) == (1, None, 1.0)


def test_a_label_that_the_score_could_have_known_does_not_judge_it():
    state = JoinState()
    state.add_score(score_of("a", position=7))
    assert state.add_label(6, "a", 1) == []
    assert state.add_label(7, "a", 1) == []
    assert [joined.label for joined in state.add_label(8, "a", 0)] == [0]
    assert state.pending == 0


def test_only_the_first_later_label_judges_a_score():
    state = JoinState()
    state.add_score(score_of("a", position=1))
    assert [joined.label for joined in state.add_label(5, "a", 1)] == [1]
    assert state.add_label(6, "a", 0) == []


def test_every_score_of_a_node_counts():
    state = JoinState()
    for position in (1, 3, 9):
        state.add_score(score_of("a", position))
    assert [joined.position for joined in state.add_label(5, "a", 1)] == [1, 3]
    assert [joined.position for joined in state.add_label(10, "a", 1)] == [9]


def test_a_score_that_was_published_twice_counts_once(log):
    log.append("events", [node("a"), label("a", 1)])
    publish(log, 0, 1, [score_message("a", 0, 0.7), score_message("a", 0, 0.7), score_message("a", 0, 0.7, model="m2")])
    assert quality(log, labels_of)["labelled"] == 2  # one of each model


def test_too_many_waiting_scores_drop_the_one_that_waits_longest():
    state = JoinState(max_pending=2)
    for position, node_id in enumerate(["a", "b", "a", "c"]):
        state.add_score(score_of(node_id, position))
    assert (state.pending, state.dropped) == (2, 2)
    assert state.add_label(9, "b", 1) == []
    assert [joined.position for joined in state.add_label(9, "a", 1)] == [2]
    assert [joined.position for joined in state.add_label(9, "c", 1)] == [3]


def test_what_is_no_score_is_counted_and_passed_over(log):
    fill(log)
    garbage = [b"", b"\xff", b"[]", b'{"id":"a"}', b'{"id":"a","score":null,"position":1}', b"[" * 100]
    log.append("scores", [Message(value) for value in garbage])
    log.append("scores", [Message(value, None, PACKED_SCORES) for value in garbage])
    figures = quality(log, labels_of)
    assert (figures["unreadable"], figures["labelled"]) == (2 * len(garbage), 10)


def test_the_topics_may_have_other_names():
    log, stats, topics = ListLog(), QualityStats(), Topics(events="reviews", scores="verdicts")
    log.append("reviews", [node("a"), label("a", 1)])
    log.commit(GROUP, {"reviews": Move(0, 2)}, {"verdicts": written("packed", [("a", 0.7, 0)])})
    assert quality(log, labels_of, topics=topics)["labelled"] == 1
    follower = Follower(log, labels_of, GROUP, stats, topics=topics)
    while follower.step():
        pass
    assert stats.joined == 1


def test_flagged_is_what_was_published_as_spam_whichever_threshold_held(log):
    log.append("events", [node("a"), node("b"), label("a", 1), label("b", 1)])
    publish(log, 0, 4, [score_message("a", 0, 0.4, threshold=0.3), score_message("b", 1, 0.4, threshold=0.5)])
    figures = quality(log, labels_of)
    assert (figures["recall"], figures["threshold"]) == (0.5, 0.5)


def test_a_window_forgets_what_left_it():
    joined = [Joined(i, i, i % 3 == 0, math.sin(i), math.sin(i) >= 0.2, 0.2) for i in range(100)]
    window = QualityWindow(40)
    for one in joined:
        window.add([one])
    assert len(window) == 40
    kept = joined[-40:]
    assert for_json(window.figures()) == report([one.label for one in kept], [one.score for one in kept], 0.2)


def test_a_log_that_loses_records_is_an_error_and_no_endless_wait():
    class Shorter(ListLog):
        def end(self, topic):
            return super().end(topic) + 1

    expected = "topic 'scores' gave nothing at position 0 for 10 s, expected records up to 1: see whether"
    with pytest.raises(LogError, match=re.escape(expected)):
        quality(Shorter(), labels_of)


# What happens on a log, one step after the other: an event of a node (to be scored), a label, or the scorer catches up.
steps = st.lists(
    st.tuples(st.just("node"), st.sampled_from("abc"), st.sampled_from([0.1, 0.4, 0.5, 0.9]))
    | st.tuples(st.just("label"), st.sampled_from("abc"), st.integers(0, 1))
    | st.tuples(st.just("scorer"), st.none(), st.none()),
    max_size=40,
)


def run_scorer(log, steps, between=lambda: None, form="single"):
    """Play `steps` on `log`, calling `between` after each, and return what the naive join makes of them."""
    scored, labels, unpublished, committed = [], [], [], 0
    for kind, node_id, value in [*steps, ("scorer", None, None)]:
        position = log.end("events")
        if kind == "node":
            log.append("events", [node(node_id)])
            unpublished.append((node_id, value, position))
            scored.append((position, node_id, value))
        elif kind == "label":
            log.append("events", [label(node_id, value)])
            labels.append((position, node_id, value))
        else:
            publish(log, committed, position, written(form, unpublished))
            unpublished, committed = [], position
        between()
    return [pair for one in scored for pair in naive_join(one, labels)]


def naive_join(scored, labels):
    position, node_id, value = scored
    later = [label for at, labelled_id, label in labels if labelled_id == node_id and at > position]
    return [(later[0], value)] if later else []


forms = st.sampled_from(["single", "packed"])


@given(steps, forms)
def test_quality_equals_the_naive_join(steps, form):
    log = ListLog()
    pairs = run_scorer(log, steps, form=form)
    figures = quality(log, labels_of)
    assert figures["labelled"] == len(pairs)
    if pairs:
        labels, scores = zip(*pairs, strict=True)
        assert figures["auroc"] == report(labels, scores, 0.5)["auroc"]
        assert figures["recall"] == report(labels, scores, 0.5)["recall"]


@given(steps)
def test_quality_is_the_same_for_single_and_packed_scores(steps):
    single, packed = ListLog(), ListLog()
    for log, form in ((single, "single"), (packed, "packed")):
        run_scorer(log, steps, form=form)
    assert quality(single, labels_of) == quality(packed, labels_of)
    assert quality(single, labels_of, after=3, last=0.5) == quality(packed, labels_of, after=3, last=0.5)


@given(steps, st.booleans(), forms)
def test_following_joins_the_same_however_far_the_scorer_lags(steps, from_the_start, form):
    log, stats = ListLog(), QualityStats()
    follower = Follower(log, labels_of, GROUP, stats, window=1000, max_pending=1000)
    pairs = run_scorer(log, steps, follower.step if from_the_start else lambda: None, form)
    while follower.step():
        pass
    assert (stats.joined, stats.window, stats.dropped) == (len(pairs), len(pairs), 0)
    offline = quality(log, labels_of)
    assert for_json({"auroc": stats.auroc, "ap": stats.average_precision, "recall": stats.recall}) == {
        name: offline[name] for name in ("auroc", "ap", "recall")
    }
    assert stats.pending == offline["scored"] - len(pairs)


def test_following_a_long_log_from_its_start_keeps_few_scores_waiting():
    """Labels come 100 events after their node: catching up needs room for that many scores and one reading's."""
    log, stats, count = ListLog(), QualityStats(), 20_000
    events = [node(f"n{i // 2}") if i % 2 == 0 else label(f"n{(i - 100) // 2}", i // 2 % 2) for i in range(count)]
    log.append("events", events)
    publish(log, 0, count, [score_message(f"n{i // 2}", i, 0.5) for i in range(0, count, 2)])
    follower = Follower(log, labels_of, GROUP, stats, max_pending=5000)
    while follower.step():
        pass
    assert (stats.joined, stats.dropped) == (count // 2 - 50, 0)


def test_a_follower_passes_over_what_an_at_least_once_scorer_publishes_again():
    log, stats = ListLog(), QualityStats()
    follower = Follower(log, labels_of, GROUP, stats)
    log.append("events", [node("a"), label("a", 1), node("b"), label("a", 0)])
    publish(log, 0, 3, [score_message("a", 0, 0.7), score_message("b", 2, 0.7)])
    while follower.step():
        pass
    publish(log, 3, 4, [score_message("a", 0, 0.7), score_message("b", 2, 0.7)])
    while follower.step():
        pass
    assert (stats.joined, stats.pending) == (1, 1)


def test_a_follower_runs_until_it_is_told_to_stop(tmp_path):
    path, stop, stats = tmp_path / "log.db", threading.Event(), QualityStats()

    def live():
        try:
            with contextlib.closing(SqliteLog(path)) as log:
                fill(log)
                until = threading.Event()
                for _ in range(1000):
                    if stats.window == 10 or until.wait(0.01):
                        break
        finally:
            stop.set()

    with contextlib.closing(SqliteLog(path)) as log:
        thread = threading.Thread(target=live)
        thread.start()
        Follower(log, labels_of, GROUP, stats).run(stop, poll_seconds=0.01)
        thread.join()
    assert (stats.window, stats.joined, stats.pending) == (10, 10, 0)
    assert (stats.threshold, stats.spam_share) == (0.5, 0.5)
    assert stats.auroc == report([i % 2 for i in range(10)], [i / 10 for i in range(10)], 0.5)["auroc"]
