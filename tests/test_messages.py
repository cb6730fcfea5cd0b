"""What is published: two forms of a score that say the same, dead letters that lead back to their message."""

import contextlib
import json
import math
import re

import msgspec
import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from published import read, written
from worlds import START

from pipeline.events import BadEvent
from pipeline.log import JSON, Message, Move, Record
from pipeline.messages import MAX_BYTES, PACKED_SCORES, DeadLetter, ScoreMessage, ScoreReader, dead_letters
from pipeline.sqlite_log import SqliteLog
from pipeline.texts import Texts

ONE_MEBIBYTE = 2**20  # what a Kafka broker takes, unless told otherwise
BATCH = [("a", 0.25, 3), ("b", 0.75, 5), ("c", 0.125, 6)]


# ---- scores ----


def test_a_single_score_says_which_node_event_and_model_it_is_of():
    one, other, _ = written("single", BATCH)
    assert json.loads(one.value) == {
        "id": "a", "score": 0.25, "is_spam": False, "threshold": 0.5, "model": "m1",
        "ts": START, "position": 3, "index": 0, "scored_at": START + 0.5,
    }  # fmt: skip
    assert (one.key, one.content_type, other.key) == ("a", JSON, "b")
    assert type(one) is Message


def test_headers_tell_model_and_schema_and_are_one_object_for_all():
    """A log translates headers for its client: the same object again needs no second translation."""
    messages = written("single", BATCH)
    assert messages[0].headers == (("content-type", b"application/json"), ("model", b"m1"), ("schema", b"5c43aa"))
    assert all(message.headers is messages[0].headers for message in messages)


def test_a_micro_batch_of_packed_scores_is_one_message_without_a_key():
    (message,) = written("packed", BATCH)
    assert (message.key, message.content_type) == (None, PACKED_SCORES)
    assert message.headers == (("model", b"m1"), ("schema", b"5c43aa"))  # its content type is a header of its own


def test_a_packed_message_is_what_the_page_says():
    (message,) = written("packed", BATCH)
    fields = msgspec.msgpack.decode(message.value)
    scores = np.frombuffer(fields.pop("score"), "<f4").tolist()
    assert (scores, np.frombuffer(fields.pop("ts"), "<f8").tolist()) == ([0.25, 0.75, 0.125], [START] * 3)
    assert np.frombuffer(fields.pop("position"), "<i8").tolist() == [3, 5, 6]
    assert np.frombuffer(fields.pop("index"), "<i4").tolist() == [0, 0, 0]
    assert fields == {
        "model": "m1", "schema": "5c43aa", "threshold": 0.5, "scored_at": START + 0.5, "id": ["a", "b", "c"],
    }  # fmt: skip


def test_the_page_names_every_field_of_both_forms_and_of_a_dead_letter():
    page = (REPOSITORY / "docs/semantics.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|", page.partition("## Score messages")[2], re.MULTILINE)
    assert table == list(ScoreMessage.__struct_fields__)
    (message,) = written("packed", BATCH)
    assert all(f"`{name}`" in page for name in msgspec.msgpack.decode(message.value))
    assert all(f"`{name}`" in page for name in DeadLetter.__struct_fields__)
    assert f"`{PACKED_SCORES}`" in page


@pytest.mark.parametrize("form", ["single", "packed"])
def test_a_micro_batch_without_scores_is_no_message(form):
    assert written(form, []) == []


scores = st.floats(0, 1, width=32)
batches = st.lists(st.tuples(st.text(min_size=1, max_size=9), scores, st.integers(0, 2**62)), max_size=30)


@given(batches, scores | st.floats(0, 1))
def test_both_forms_say_the_same_to_the_last_bit(batch, threshold):
    assert read(written("packed", batch, threshold)) == read(written("single", batch, threshold))


@pytest.mark.parametrize("form", ["single", "packed"])
def test_the_verdict_is_that_of_the_exact_score_not_of_the_rounded_one(form):
    exact = float(np.float32(0.1234567))  # 0.12345670163631439
    assert round(exact, 8) < exact
    assert round(float(np.float32(0.7654321)), 8) > float(np.float32(0.7654321))
    (below,) = read(written(form, [("a", exact, 0)], threshold=exact))
    assert (below.score, below.is_spam, below.score >= below.threshold) == (0.1234567, True, False)
    between = round(float(np.float32(0.7654321)), 8)
    (above,) = read(written(form, [("a", 0.7654321, 0)], threshold=between))
    assert (above.score, above.is_spam) == (between, False)


@given(st.lists(st.text(max_size=9) | st.sampled_from([0, 31, 32, 255, 256, 70_000]).map("ä".__mul__), max_size=9))
def test_ids_are_packed_as_msgpack_has_them(ids):
    texts = Texts.of(ids)
    assert msgspec.msgpack.decode(texts.msgpack()) == ids
    assert msgspec.msgpack.decode(texts[::2].msgpack()) == ids[::2]


def test_packed_scores_that_a_broker_would_refuse_go_in_parts():
    batch = [(f"{i:06}" + "\u20ac" * 1000, i / 1000, i) for i in range(1000)]  # three bytes a character
    messages = written("packed", batch)
    assert len(messages) > 3
    assert all(len(message.value) < MAX_BYTES for message in messages)
    assert [score.position for score in read(messages)] == list(range(1000))
    assert read(messages) == read(written("single", batch))


def test_both_forms_may_stand_in_one_topic():
    messages = [*written("single", BATCH[:1]), *written("packed", BATCH[1:]), *written("single", BATCH)]
    assert [score.id for score in read(messages)] == ["a", "b", "c", "a", "b", "c"]


def unreadable(*messages: Message) -> int:
    """How many of the messages are none; those around them are read."""
    good = written("single", BATCH)
    reader = ScoreReader()
    kept = list(reader.read(Record(i, m[0], None, m[2], 0.0) for i, m in enumerate([*good, *messages, *good])))
    assert [score.id for score in kept] == ["a", "b", "c"] * 2
    return reader.unreadable


def test_what_is_no_score_is_counted_and_passed_over():
    (single, *_), (packed,) = written("single", BATCH), written("packed", BATCH)
    fields = json.loads(single.value)
    assert unreadable(*(Message(b) for b in (b"", b"\xff", b"[]", b"null", b"[" * 10_000, single.value[:-1]))) == 6
    lacking = [{name: value for name, value in fields.items() if name != missing} for missing in fields]
    assert unreadable(*(Message(msgspec.json.encode(one)) for one in lacking)) == len(lacking)
    assert unreadable(Message(packed.value), Message(single.value, None, PACKED_SCORES)) == 2


def test_a_packed_message_cut_anywhere_is_counted():
    (message,) = written("packed", BATCH)
    cut = [Message(message.value[:length], None, PACKED_SCORES) for length in range(len(message.value))]
    assert unreadable(*cut) == len(cut)


@pytest.mark.parametrize(
    "change",
    [
        {"id": ["a"]}, {"score": b"\0" * 4}, {"score": b"\0" * 13}, {"ts": b""}, {"position": b"\0" * 32},
        {"index": b"x"},
        {"score": np.array([0, math.nan, 1], "<f4").tobytes()}, {"id": "abc"}, {"threshold": "0.5"}, {"model": None},
    ],
    ids=repr,
)  # fmt: skip
def test_columns_that_do_not_fit_are_no_scores(change):
    (message,) = written("packed", BATCH)
    fields = msgspec.msgpack.decode(message.value)
    assert unreadable(message._replace(value=msgspec.msgpack.encode(fields | change))) == 1


@given(st.binary(max_size=200), st.sampled_from([JSON, PACKED_SCORES, "text/plain", ""]))
def test_reading_raises_for_nothing(value, content_type):
    reader = ScoreReader()
    assert len(list(reader.read([Record(0, value, None, content_type, 0.0)]))) + reader.unreadable >= 0


# ---- dead letters ----


def letter_of(**changes) -> tuple[Message, dict]:
    event = BadEvent(**{"position": 7, "index": 0, "reason": "bad_ts", "detail": "why", "raw": b"{}"} | changes)
    (message,) = dead_letters([event])
    return message, json.loads(message.value)


def test_a_dead_letter_is_keyed_as_its_event_was_and_tells_its_reason_unread():
    message, letter = letter_of(key="k1")
    assert (message.key, message.content_type, message.headers) == ("k1", JSON, (("reason", b"bad_ts"),))
    assert letter == {"position": 7, "index": 0, "reason": "bad_ts", "detail": "why", "bytes": 2, "text": "{}"}
    assert letter_of()[0].key is None


def test_a_dead_letter_of_a_merged_log_leads_to_its_topic_and_offset():
    _, letter = letter_of(topic="verdicts", offset=4711)
    assert (letter["position"], letter["topic"], letter["offset"]) == (7, "verdicts", 4711)
    assert letter_of(topic="verdicts", offset=0)[1]["offset"] == 0


def test_a_key_that_is_no_text_comes_through_byte_for_byte(tmp_path):
    key = b"\x00\xff\xfek".decode(errors="surrogateescape")
    message, _ = letter_of(key=key)
    with contextlib.closing(SqliteLog(tmp_path / "log.db")) as log:
        log.commit("g", {"events": Move(0, 1)}, {"dead-letters": [message]})
        (record,) = log.read_batch("dead-letters", 0, 1, 0.0).records
    assert record.key == key
    assert record.headers == (("reason", b"bad_ts"),)


@pytest.mark.parametrize(
    ("byte", "form"),
    [(b"x", "text"), (b"\xff", "base64"), (b"\x01", "base64"), (b'"', "base64")],
    ids=["text", "bytes", "control characters", "quotes"],
)
def test_no_dead_letter_is_larger_than_a_broker_takes(byte, form):
    message, letter = letter_of(raw=byte * 5_000_000, detail="\x01" * 5000)
    assert len(message.value) < ONE_MEBIBYTE - 10_000
    assert letter["bytes"] == 5_000_000
    assert form in letter
