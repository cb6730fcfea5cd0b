"""Scores and late labels on a real log, joined; the naive join below is the oracle."""

import contextlib
import json
import math
import re

import msgspec
import pytest
from fakes import FakeClock, ListLog
from hypothesis import given
from hypothesis import strategies as st
from published import written
from worlds import START

from consumers.join import Joined, JoinState
from consumers.quality import quality
from consumers.windows import Windows
from pipeline.config import Quality, Topics
from pipeline.decoder import Decoder
from pipeline.errors import LogError
from pipeline.evaluate import for_json, report
from pipeline.log import Message, Move
from pipeline.messages import PACKED_SCORES, ScoreMessage
from pipeline.schema import parse_schema
from pipeline.sqlite_log import SqliteLog

GROUP = "score"
PLAIN = {"name": "labels", "features": {"day": {"kind": "weekday"}}, "relations": {"id": {"group_by": ["id"]}}}
DECODER = Decoder(parse_schema(PLAIN, "labels"))


def list_log():
    return ListLog(FakeClock(START))


def node(node_id):
    return Message(json.dumps({"type": "node", "id": node_id, "ts": START}).encode())


def label(node_id, value):
    return Message(json.dumps({"type": "label", "id": node_id, "label": value, "ts": START}).encode())


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
    assert quality(log, DECODER) == report(labels, scores, 0.5) | {"scored": 10, "unreadable": 0}


def test_the_last_share_counts_by_the_position_of_the_score_not_of_its_label(log):
    fill(log)
    figures = quality(log, DECODER, last=0.3)
    expected = report([1, 0, 1], [0.7, 0.8, 0.9], 0.5)  # n7, n8, n9, whose labels came first
    assert figures == expected | {"scored": 10, "unreadable": 0}


def test_after_leaves_out_the_scores_up_to_that_position(log):
    fill(log)
    assert quality(log, DECODER, after=3)["labelled"] == 6
    assert quality(log, DECODER, after=3, last=0.5)["labelled"] == 3
    assert quality(log, DECODER, after=100) == quality(list_log(), DECODER)


def test_a_log_without_scores_or_labels_has_no_figures_and_no_error(log):
    assert set(quality(log, DECODER).values()) == {0, None}
    log.append("events", [node("a"), label("a", 1)])
    assert quality(log, DECODER)["labelled"] == 0
    publish(log, 0, 2, [score_message("a", 0, 0.7)])
    figures = quality(log, DECODER)
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
    assert quality(log, DECODER)["labelled"] == 2  # one of each model


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
    figures = quality(log, DECODER)
    assert (figures["unreadable"], figures["labelled"]) == (2 * len(garbage), 10)


def test_a_label_joins_within_its_partition():
    state = JoinState()
    state.add_score(score_of("a", position=1), partition=0)
    state.add_score(score_of("a", position=2), partition=3)
    assert [joined.position for joined in state.add_label(9, "a", 1, partition=3)] == [2]
    assert state.add_label(9, "a", 1, partition=1) == []
    assert [joined.position for joined in state.add_label(9, "a", 1, partition=0)] == [1]
    assert state.pending == 0


def test_the_topics_may_have_other_names():
    log, topics = list_log(), Topics(events="reviews", scores="verdicts")
    log.append("reviews", [node("a"), label("a", 1)])
    log.commit(GROUP, {"reviews": Move(0, 2)}, {"verdicts": written("packed", [("a", 0.7, 0)])})
    assert quality(log, DECODER, topics=topics)["labelled"] == 1


def test_flagged_is_what_was_published_as_spam_whichever_threshold_held(log):
    log.append("events", [node("a"), node("b"), label("a", 1), label("b", 1)])
    publish(log, 0, 4, [score_message("a", 0, 0.4, threshold=0.3), score_message("b", 1, 0.4, threshold=0.5)])
    figures = quality(log, DECODER)
    assert (figures["recall"], figures["threshold"]) == (0.5, 0.5)


def test_windows_forget_what_left_them():
    joined = [Joined(i, i, i % 3 == 0, math.sin(i), math.sin(i) >= 0.2, 0.2) for i in range(100)]
    windows = Windows(Quality(short_window=10, window=40))
    for one in joined:
        windows.add_joined([one])
    assert (windows.joined, windows.threshold) == (100, 0.2)
    for name, length in (("short", 10), ("long", 40)):
        kept = joined[-length:]
        expected = report([one.label for one in kept], [one.score for one in kept], 0.2)
        assert for_json(windows.figures()[name] | {"threshold": 0.2}) == expected


def test_a_short_window_that_is_longer_than_the_long_one_is_the_long_one():
    windows = Windows(Quality(short_window=50, window=4))
    windows.add_joined([Joined(i, i, i % 2, i / 10, True, 0.2) for i in range(10)])
    assert {figures["labelled"] for figures in windows.figures().values()} == {4}


def test_the_windows_of_a_log_hold_the_scores_whose_labels_came_last(log):
    fill(log)
    windows = Windows(Quality(short_window=3, window=5))
    assert quality(log, DECODER, windows=windows)["labelled"] == 10
    of_the_last = report([0, 1, 0], [0.2, 0.1, 0.0], 0.5)  # labels come in reverse
    assert windows.report()["windows"]["short"] | {"threshold": 0.5} == of_the_last
    assert windows.report().keys() == {"windows"}  # no checkpoint, nothing to compare with


def test_a_log_that_loses_records_is_an_error_and_no_endless_wait():
    class Shorter(ListLog):
        def end(self, topic):
            return super().end(topic) + 1

    expected = "topic 'scores' gave nothing at position 0 for 10 s, expected records up to 1: see whether"
    with pytest.raises(LogError, match=re.escape(expected)):
        quality(Shorter(), DECODER)


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
    log = list_log()
    pairs = run_scorer(log, steps, form=form)
    figures = quality(log, DECODER)
    assert figures["labelled"] == len(pairs)
    if pairs:
        labels, scores = zip(*pairs, strict=True)
        assert figures["auroc"] == report(labels, scores, 0.5)["auroc"]
        assert figures["recall"] == report(labels, scores, 0.5)["recall"]


@given(steps)
def test_quality_is_the_same_for_single_and_packed_scores(steps):
    single, packed = list_log(), list_log()
    for log, form in ((single, "single"), (packed, "packed")):
        run_scorer(log, steps, form=form)
    assert quality(single, DECODER) == quality(packed, DECODER)
    assert quality(single, DECODER, after=3, last=0.5) == quality(packed, DECODER, after=3, last=0.5)
