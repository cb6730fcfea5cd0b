"""A log merged from several topics: each with its own words and times, tombstones among them."""

import json
import math
import tomllib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import ListLog
from hypothesis import given, settings
from hypothesis import strategies as st
from published import read, serve
from test_packed import assert_same_columns
from worlds import START, WORLD, decoded, event_sequences, random_model, records, world

from consumers.quality import quality
from pipeline.audit import audit
from pipeline.config import Config
from pipeline.decoder import Decoder
from pipeline.events import LABEL, NODE, RETRACT, SCORE, EventBatch
from pipeline.log import JSON, PACKED, TOMBSTONE, Record
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema, parse_schema
from pipeline.texts import Texts

# Reviews and social events are in our own words; moderators' decisions in theirs, with the decision's time in ms.
TOPICS = """
[events.topics.verdicts]
type = "kind"
default_type = "label"
types = { withdrawn = "retract", "second look" = "score" }
fields = { id = "review.id", label = "outcome.spam", ts = "outcome.at" }
unit = "milliseconds"

[events.topics."social.v2"]
types = { follow = "edge" }
fields = { src = "who", dst = "whom", relation = "how" }
tombstones = "ignore"
"""
PLAIN = world()
WORDS = {"verdicts": {"retract": "withdrawn", "score": "second look"}, "social.v2": {"edge": "follow"}}


def schema_of(more: str) -> Schema:
    return parse_schema(tomllib.loads(WORLD.format(ttl="3d", half_life="10m") + more), "graph.toml")


MERGED = schema_of(TOPICS)


def told(event: dict[str, Any], topic: str) -> dict[str, Any] | None:
    """The event as the topic's application would tell it; None where it would not."""
    kind = event.get("type", "node")
    if topic == "verdicts" and kind in ("label", "score", "retract") and "id" in event:
        word = {} if kind == "label" else {"kind": WORDS[topic][kind]}
        at = {"at": event["ts"] * 1000} if "ts" in event else {}
        return {**word, "review": {"id": event["id"]}, "outcome": {"spam": event.get("label")} | at, "type": "manual"}
    if topic == "social.v2" and kind == "edge":
        ends = {"who": event["src"], "whom": event["dst"], "how": event["relation"]}
        return {"type": "follow", "ts": event["ts"], **ends}
    return event if topic == "reviews" else None


def merged(events: list[dict[str, Any]], topics: list[str]) -> list[Record]:
    """The events as a merged log would give them, each told by the topic that is its turn, or by that of reviews."""
    found, ends = [], dict.fromkeys((*WORDS, "reviews"), 0)
    for position, (event, turn) in enumerate(zip(events, topics, strict=False)):
        topic, message = turn, told(event, turn)
        if message is None:
            topic, message = "reviews", event
        value = msgspec.json.encode(message)
        found.append(Record(position, value, None, JSON, math.nan, (), topic, ends[topic]))
        ends[topic] += 1
    return found


TURNS = st.lists(st.sampled_from(["reviews", "verdicts", "social.v2"]), min_size=80, max_size=80)


# ---- words ----


@settings(max_examples=60)
@given(events=event_sequences(most=40), turns=TURNS)
def test_events_from_three_topics_are_the_same_as_from_one_in_our_own_words(events, turns):
    batch, bad = Decoder(MERGED).decode(merged(events, turns))
    assert bad == []
    assert_same_columns(batch, decoded(PLAIN, events))


@settings(max_examples=40)
@given(events=event_sequences(most=30), turns=TURNS, size=st.integers(1, 7))
def test_how_a_merged_log_is_read_changes_nothing(events, turns, size):
    decoder, log = Decoder(MERGED), merged(events, turns)
    together, _ = decoder.decode(log)
    parts = [decoder.decode(log[i : i + size])[0] for i in range(0, len(log), size)]
    assert_same_columns(EventBatch.join(parts), together)


def from_topic(topic: str, *messages: dict[str, Any], schema: Schema = MERGED) -> EventBatch:
    found = [
        Record(i, msgspec.json.encode(message), None, JSON, math.nan, (), topic, i)
        for i, message in enumerate(messages)
    ]
    batch, bad = Decoder(schema).decode(found)
    assert bad == []
    return batch


def test_a_message_without_a_type_is_what_its_topic_says():
    verdict = {"review": {"id": 17}, "outcome": {"spam": True, "at": START * 1000 + 250}}
    batch = from_topic("verdicts", verdict)
    assert (batch.kind.tolist(), batch.id, batch.label.tolist(), batch.ts.tolist()) == (
        [LABEL],
        ["17"],
        [1],
        [START + 0.25],
    )
    node = {"id": "17", "ts": START, "stars": 1, "user": "u", "embedding": [0, 0]}
    assert from_topic("reviews", node).kind.tolist() == from_topic("", node).kind.tolist() == [NODE]


def test_a_topics_words_are_added_to_those_of_all_and_win_over_them():
    schema = schema_of("""
[events]
default_type = "label"
types = { posted = "node", gone = "retract" }
fields = { id = "key", label = "verdict" }
[events.topics.other]
types = { gone = "score" }
fields = { id = "name" }
""")
    events = [
        {"type": "gone", "key": "a", "name": "b", "ts": START},
        {"key": "a", "name": "b", "ts": START, "verdict": 1},
    ]
    everywhere, other = from_topic("any", *events, schema=schema), from_topic("other", *events, schema=schema)
    assert (everywhere.kind.tolist(), everywhere.id) == ([RETRACT, LABEL], ["a", "a"])
    assert (other.kind.tolist(), other.id, other.label.tolist()) == ([SCORE, LABEL], ["b", "b"], [-1, 1])


def test_a_bad_event_names_the_words_of_its_topic():
    value = b'{"kind":"approved","review":{"id":1},"outcome":{"at":1}}'
    _, bad = Decoder(MERGED).decode([Record(0, value, None, JSON, math.nan, (), "verdicts", 5)])
    assert (
        bad[0].detail == "type is 'approved', expected one of node, edge, score, label, retract, withdrawn, second look"
    )


def test_a_bad_event_leads_to_its_message():
    node = b'{"id":"a"}'
    nameless = decoded(PLAIN, [{"type": "score", "id": "a", "ts": START}])
    sealed = encode_packed(PLAIN, replace(nameless, id=Texts.of([""])))
    found = [
        Record(3, node, "k1", JSON, math.nan, (), "reviews", 11),
        Record(4, b"{", None, JSON, math.nan, (), "verdicts", 12),
        Record(5, sealed, "k3", PACKED, math.nan, (), "verdicts", 13),
        Record(6, b"", "k4", "text/csv", math.nan, (), "reviews", 14),
        Record(7, b"x" * 999, "k5", JSON, math.nan, (), "reviews", 15),
        Record(8, b"", "", TOMBSTONE, math.nan, (), "reviews", 16),
    ]
    _, bad = Decoder(MERGED, max_message_bytes=len(sealed)).decode(found)
    assert [(one.position, one.key, one.topic, one.offset) for one in bad] == [
        (record.position, record.key, record.topic, record.offset) for record in found
    ]
    assert [one.reason for one in bad] == [
        "bad_ts", "malformed_json", "empty_name", "unknown_content_type", "too_large", "empty_name",
    ]  # fmt: skip


def test_a_packed_message_needs_no_words_whatever_its_topic():
    events = [{"type": "label", "id": "a", "label": 1, "ts": START}]
    record = Record(0, encode_packed(PLAIN, decoded(PLAIN, events)), None, PACKED, math.nan, (), "verdicts", 0)
    assert Decoder(MERGED).decode([record])[0].label.tolist() == [1]


def test_files_that_were_put_together_keep_their_order():
    """Positions then start again in the middle: what stands later comes later all the same."""
    events = [{"type": "score", "id": str(i), "ts": START} for i in range(6)]
    plain = records(events)
    mixed = [
        r if i % 2 else r._replace(value=encode_packed(PLAIN, Decoder(PLAIN).decode([r])[0]), content_type=PACKED)
        for i, r in enumerate(plain)
    ]
    batch, _ = Decoder(PLAIN).decode([record._replace(position=i % 3) for i, record in enumerate(mixed)])
    assert batch.id == ["0", "1", "2", "3", "4", "5"]


# ---- tombstones ----


def tombstone(key: str | None, position: int = 0, topic: str = "") -> Record:
    return Record(position, b"", key, TOMBSTONE, START, (), topic, position)


def test_a_tombstone_retracts_the_node_of_its_key():
    batch, bad = Decoder(PLAIN).decode([tombstone("a", 3), tombstone("\u20ac 17", 4)])
    assert bad == []
    expected = decoded(PLAIN, [{"type": "retract", "id": name} for name in ("a", "\u20ac 17")])
    assert_same_columns(batch, expected, but=("position",))
    assert batch.position.tolist() == [3, 4]


KEYS = {
    "none": (None, "missing_field", "key is missing"),
    "empty": ("", "empty_name", "key is empty"),
    "long": ("k" * 1025, "too_long", "key has 1025 characters, at most 1024"),
    "bytes": (b"\x00\xff".decode(errors="surrogateescape"), "wrong_type",
              r"key is '\x00\udcff', expected a node's id, which is UTF-8 text"),
    "many bytes": (b"\xff".decode(errors="surrogateescape") * 2000, "wrong_type", None),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_no_id_makes_a_tombstone_bad_and_its_neighbours_are_read(name):
    key, reason, detail = KEYS[name]
    batch, bad = Decoder(PLAIN).decode([tombstone("a", 1), tombstone(key, 2), tombstone("b", 3)])
    assert (batch.id, batch.position.tolist()) == (["a", "b"], [1, 3])
    assert [(event.position, event.reason, event.raw, event.key) for event in bad] == [(2, reason, b"", key)]
    assert detail in (None, bad[0].detail)


def test_tombstones_are_no_events_where_the_key_is_not_the_nodes_id():
    ignoring = schema_of('[events]\ntombstones = "ignore"\n[events.topics.reviews]\ntombstones = "retract"')
    found = [tombstone("a", 0, "reviews"), tombstone("b", 1, "other"), tombstone(None, 2, "other"), tombstone("c", 3)]
    batch, bad = Decoder(ignoring).decode(found)
    assert (batch.id, bad) == (["a"], [])
    batch, _ = Decoder(MERGED).decode([tombstone("a", 0, "verdicts"), tombstone("b", 1, "social.v2")])
    assert batch.id == ["a"]


# ---- times ----


def late(more: str = "", unit: str = "seconds") -> Schema:
    return schema_of(f'[time]\nunit = "{unit}"\nmissing = "log"\n{more}')


def events_at(schema: Schema, appended_at: float, *messages: dict[str, Any]) -> tuple[list[float], list[str]]:
    values = (msgspec.json.encode({"type": "score", "id": "a"} | message) for message in messages)
    batch, bad = Decoder(schema).decode([Record(i, v, None, JSON, appended_at) for i, v in enumerate(values)])
    return batch.ts.tolist(), [event.reason for event in bad]


@pytest.mark.parametrize(
    ("unit", "ts"), [("seconds", START - 5), ("milliseconds", (START - 5) * 1000), ("iso8601", "2001-09-09T01:46:35Z")]
)
def test_an_event_without_ts_has_the_time_at_which_the_log_got_it(unit, ts):
    times, reasons = events_at(late(unit=unit), START, {"ts": ts}, {}, {"ts": None})
    assert (times, reasons) == ([START - 5, START, START], [])
    times, reasons = events_at(schema_of(f'[time]\nunit = "{unit}"'), START, {"ts": ts}, {})
    assert (times, reasons) == ([START - 5], ["bad_ts"])


def test_a_ts_that_is_there_and_wrong_stays_bad():
    assert events_at(late(), START, {"ts": "now"}, {"ts": 0})[1] == ["wrong_type", "ts_out_of_range"]
    assert events_at(late(unit="iso8601"), START, {"ts": "now"}, {"ts": ""}) == ([], ["bad_ts", "bad_ts"])
    twice = late('[features.when]\nkind = "one_hot"\nfield = "ts"\nvalues = [1]\nother = true')  # read as any scalar
    assert events_at(twice, START, {"ts": "now"}, {"ts": True}, {}) == ([START], ["bad_ts", "bad_ts"])


def test_the_logs_time_is_believed_no_more_than_any():
    assert events_at(late(), math.nan, {}) == ([], ["bad_ts"])
    assert events_at(late(), 0.0, {}) == ([], ["ts_out_of_range"])


def test_a_packed_event_without_a_time_has_that_of_the_log_too():
    batch = decoded(PLAIN, [{"type": "score", "id": "a", "ts": START}, {"type": "retract", "id": "a"}])
    batch.ts[:] = math.nan
    record = Record(0, encode_packed(PLAIN, batch), None, PACKED, START + 9)
    found, bad = Decoder(late()).decode([record])
    assert (found.ts[0], np.isnan(found.ts[1]), bad) == (START + 9, True, [])
    _, bad = Decoder(PLAIN).decode([record])
    assert [event.reason for event in bad] == ["bad_ts"]


# ---- a scorer on such a log ----


class MergedListLog(ListLog):
    """A log in memory whose events came from several topics."""

    def __init__(self, found: list[Record]) -> None:
        super().__init__()
        self.topics["events"] = [record._replace(position=i) for i, record in enumerate(found)]


def busy_log() -> MergedListLog:
    """Nodes, their labels on a topic of their own, tombstones of both topics, one of each bad kind, one too late."""
    found = []
    for i in range(300):
        name, ts = f"n{i % 90}", START + 600.0 * i
        node = {"id": name, "ts": ts, "stars": 1 + i % 3, "user": i % 7, "product": i % 3, "embedding": [i % 5, 1.0]}
        found.append(Record(0, msgspec.json.encode(node), name, JSON, ts, (), "reviews", len(found)))
        if i % 3 == 0 and i:
            label = {"review": {"id": f"n{(i - 20) % 90}"}, "outcome": {"spam": i % 2, "at": ts * 1000}}
            found.append(Record(0, msgspec.json.encode(label), "k", JSON, ts, (), "verdicts", len(found)))
        if i % 10 == 5:
            found.append(Record(0, b"", f"n{(i - 3) % 90}", TOMBSTONE, ts, (), "reviews", len(found)))
            found.append(Record(0, b"", f"n{(i - 1) % 90}", TOMBSTONE, ts, (), "social.v2", len(found)))
        if i % 50 == 40:
            found.append(Record(0, b"", None, TOMBSTONE, ts, (), "reviews", len(found)))
            found.append(Record(0, b"{", "odd\udcff", JSON, ts, (), "verdicts", len(found)))
    old = {"id": "old", "ts": START - 4 * 86_400, "stars": 1, "user": 1, "embedding": [0, 0]}
    found.append(Record(0, msgspec.json.encode(old), "old", JSON, START, (), "reviews", 4711))
    return MergedListLog(found)


@pytest.mark.parametrize("form", ["single", "packed"])
def test_the_audit_of_a_merged_log_with_tombstones_agrees(tmp_path, form):
    model, log = random_model(MERGED), busy_log()
    serve(model, log, tmp_path, form)
    result = audit(model, log, Config().score.group, "events", "scores", sample=1000)
    assert (result.compared, result.unreadable) == (300, 0)
    assert result.max_abs_difference < 1e-5


def test_single_and_packed_scores_give_the_same_quality_and_audit(tmp_path):
    model, logs = random_model(MERGED), {"single": busy_log(), "packed": busy_log()}
    for form, log in logs.items():
        serve(model, log, tmp_path / form, form, max_batch=16)
    single, packed = (quality(log, Decoder(MERGED)) for log in logs.values())
    assert single == packed
    assert single["labelled"] > 50
    assert read(logs["single"].topics["scores"]) == read(logs["packed"].topics["scores"])
    assert len(logs["packed"].topics["scores"]) < len(logs["single"].topics["scores"]) / 5
    one, other = (audit(model, log, Config().score.group, "events", "scores", sample=50) for log in logs.values())
    assert one == other


def test_garbage_among_the_scores_does_not_end_an_audit(tmp_path):
    model, log = random_model(MERGED), busy_log()
    serve(model, log, tmp_path)
    log.topics["scores"].insert(0, Record(0, b"garbage", None, JSON, 0.0))
    assert audit(model, log, Config().score.group, "events", "scores", sample=10).unreadable == 1


def test_dead_letters_of_a_merged_log_lead_to_their_messages(tmp_path):
    log = busy_log()
    serve(random_model(MERGED), log, tmp_path)
    letters = [json.loads(record.value) for record in log.topics["dead-letters"]]
    by_position = {record.position: record for record in log.topics["events"]}
    for letter, record in zip(letters, log.topics["dead-letters"], strict=True):
        source = by_position[letter["position"]]
        assert (letter["topic"], letter["offset"], record.key) == (source.topic, source.offset, source.key)
        assert record.headers == (("reason", letter["reason"].encode()),)
    reasons = [letter["reason"] for letter in letters]
    assert {reason: reasons.count(reason) for reason in reasons} == {
        "missing_field": 6, "malformed_json": 6, "expired": 1,
    }  # fmt: skip
