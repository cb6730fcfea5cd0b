"""Bad input of every kind ends as a counted dead letter or as a documented no-op; nothing raises, nothing is lost."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from worlds import START, random_model, world

from pipeline.decoder import MAX_MESSAGE_BYTES, Decoder
from pipeline.events import REASONS, EventBatch
from pipeline.log import JSON, PACKED, Record
from pipeline.messages import dead_letters
from pipeline.packed_codec import encode_packed
from pipeline.scorer import Scorer
from pipeline.stats import OUTCOMES

SCHEMA = world()
NODE_EVENT = {"id": "n1", "ts": START, "stars": 1, "user": "u", "product": "p", "embedding": [0.5, -1.0]}


class Case(NamedTuple):
    """A message that is one bad event, and why."""

    value: bytes
    reason: str
    content_type: str = JSON


def record(value: bytes, position: int = 0, content_type: str = JSON, appended_at: float = math.nan) -> Record:
    return Record(position, value, None, content_type, appended_at)


def node(**changes: Any) -> bytes:
    """A good node event but for `changes`; a field set to ... is left out."""
    return msgspec.json.encode({k: v for k, v in (NODE_EVENT | changes).items() if v is not ...})


def event(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)


def raw(changes: str) -> bytes:
    """A good node event with `changes` as they are, valid JSON or not; they come last, so they win."""
    return node()[:-1] + b"," + changes.encode() + b"}"


def packed(**changes: Any) -> bytes:
    """One good node event, packed, but for `changes` of its columns."""
    batch, _ = Decoder(SCHEMA).decode([record(node())])
    return encode_packed(SCHEMA, replace(batch, **changes))


WIDTH = len(SCHEMA.own_channels)
CASES = {
    # no JSON at all
    "nothing": Case(b"", "malformed_json"),
    "truncated": Case(node()[:-9], "malformed_json"),
    "cut within a number": Case(b'{"id":"n1","ts":1', "malformed_json"),
    "text after the end": Case(node() + b"x", "malformed_json"),
    "two events in one message": Case(node() + node(), "malformed_json"),
    "byte order mark": Case(b"\xef\xbb\xbf" + node(), "malformed_json"),
    "UTF-16": Case(node().decode().encode("utf-16"), "malformed_json"),
    "single quotes": Case(b"{'id': 'n1'}", "malformed_json"),
    "invalid UTF-8 in an id": Case(b'{"id":"\xff\xfe"}', "malformed_json"),
    "invalid UTF-8 in a group's field": Case(node().replace(b'"u"', b'"\xc3"'), "malformed_json"),
    "encoded surrogate": Case(b'{"id":"\xed\xa0\x80"}', "malformed_json"),
    "lone surrogate": Case(b'{"id":"\\ud800"}', "malformed_json"),
    "raw NUL in a text": Case(b'{"id":"a\x00b"}', "malformed_json"),
    "NaN": Case(raw('"amount":NaN'), "malformed_json"),
    "Infinity": Case(raw('"amount":-Infinity'), "malformed_json"),
    "NaN in a vector": Case(raw('"embedding":[NaN,0]'), "malformed_json"),
    "deep nesting": Case(raw('"more":' + "[" * 100_000 + "]" * 100_000), "malformed_json"),
    "packed bytes as JSON": Case(packed(), "malformed_json"),
    # JSON of another shape
    "a list": Case(b"[" + node() + b"]", "wrong_type"),
    "null": Case(b"null", "wrong_type"),
    "a number": Case(b"17", "wrong_type"),
    "id of true": Case(node(id=True), "wrong_type"),
    "id of a list": Case(node(id=["n1"]), "wrong_type"),
    "type of a list": Case(node(type=["node"]), "wrong_type"),
    "type of a number": Case(node(type=1), "wrong_type"),
    "ts of text": Case(node(ts="2001-09-09"), "wrong_type"),
    "ts of an object": Case(node(ts={"$date": 1}), "wrong_type"),
    "number as text": Case(node(amount="12"), "wrong_type"),
    "number as true": Case(node(amount=True), "wrong_type"),
    "group's field of an object": Case(node(user={"id": "u"}), "wrong_type"),
    "vector of text": Case(node(embedding="0.5,-1"), "wrong_type"),
    "vector with a null": Case(node(embedding=[0.5, None]), "wrong_type"),
    "vector of vectors": Case(node(embedding=[[0.5], [1]]), "wrong_type"),
    "target of text": Case(node(target="yes"), "wrong_type"),
    "edges of an object": Case(node(edges={"friend": "n2"}), "wrong_type"),
    "an edge of one part": Case(node(edges=[["friend"]]), "wrong_type"),
    "an edge of three parts": Case(node(edges=[["friend", "n2", "n3"]]), "wrong_type"),
    "an edge to null": Case(node(edges=[["friend", None]]), "wrong_type"),
    "label of an object": Case(event(type="label", id="n1", ts=START, label={"spam": 1}), "wrong_type"),
    # a field that is not there
    "no id": Case(node(id=...), "missing_field"),
    "id of null": Case(node(id=None), "missing_field"),
    "no fields": Case(b"{}", "bad_ts"),
    "no feature": Case(node(stars=...), "missing_field"),
    "no vector": Case(node(embedding=None), "missing_field"),
    "no field of a group": Case(node(user=...), "missing_field"),
    "score of nobody": Case(event(type="score", ts=START), "missing_field"),
    "label of nobody": Case(event(type="label", ts=START, label=1), "missing_field"),
    "label without a verdict": Case(event(type="label", id="n1", ts=START), "missing_field"),
    "edge without a relation": Case(event(type="edge", src="a", dst="b", ts=START), "missing_field"),
    "edge without src": Case(event(type="edge", relation="friend", dst="b", ts=START), "missing_field"),
    "edge without dst": Case(event(type="edge", relation="friend", src="a", ts=START), "missing_field"),
    "retract of nothing": Case(event(type="retract"), "missing_field"),
    "retract of half an edge": Case(event(type="retract", relation="friend", src="a"), "missing_field"),
    # names
    "empty id": Case(node(id=""), "empty_name"),
    "edge to an empty id": Case(node(edges=[["friend", ""]]), "empty_name"),
    "edge from an empty id": Case(event(type="edge", relation="friend", src="", dst="b", ts=START), "empty_name"),
    "retract of an empty id": Case(event(type="retract", id=""), "empty_name"),
    "long id": Case(node(id="n" * 1025), "too_long"),
    "long group key": Case(node(user="u" * 1025), "too_long"),
    "long joint group key": Case(node(product="p" * 1024), "too_long"),
    "edge to a long id": Case(node(edges=[["friend", "n" * 1025]]), "too_long"),
    "id of two thousand digits": Case(raw('"id":' + "7" * 2000), "too_long"),
    # numbers
    "id of ten thousand digits": Case(raw('"id":' + "7" * 10_000), "out_of_range"),
    "number beyond float64": Case(raw('"amount":1e999'), "out_of_range"),
    "number of four hundred digits": Case(raw('"amount":' + "9" * 400), "out_of_range"),
    "vector beyond float64": Case(raw('"embedding":[0,-1e999]'), "out_of_range"),
    "ts beyond float64": Case(raw('"ts":1e999'), "out_of_range"),
    "huge number": Case(node(amount=1e300), "out_of_range"),
    "huge vector": Case(node(embedding=[0.0, -1e300]), "out_of_range"),
    "negative amount": Case(node(amount=-0.5), "out_of_range"),
    "short vector": Case(node(embedding=[0.5]), "wrong_length"),
    "long vector": Case(node(embedding=[0.5, 1, 2]), "wrong_length"),
    "empty vector": Case(node(embedding=[]), "wrong_length"),
    # words
    "unknown value": Case(node(stars=4), "unknown_value"),
    "value of another type": Case(node(stars=True), "unknown_value"),
    "value of four thousand digits": Case(raw('"stars":' + "7" * 4000), "unknown_value"),
    "unknown type": Case(node(type="banana"), "unknown_type"),
    "type in capitals": Case(node(type="NODE"), "unknown_type"),
    "unknown relation": Case(event(type="edge", relation="enemy", src="a", dst="b", ts=START), "unknown_relation"),
    "unknown relation of a node": Case(node(edges=[["friend", "n2"], ["enemy", "n3"]]), "unknown_relation"),
    "edge of a group": Case(event(type="edge", relation="user", src="a", dst="b", ts=START), "unknown_relation"),
    "retract of an unknown relation": Case(event(type="retract", relation="x", src="a", dst="b"), "unknown_relation"),
    "label of no label": Case(event(type="label", id="n1", ts=START, label="perhaps"), "bad_label"),
    "label between two": Case(event(type="label", id="n1", ts=START, label=0.5), "bad_label"),
    # times
    "no ts": Case(node(ts=...), "bad_ts"),
    "ts of null": Case(node(ts=None), "bad_ts"),
    "ts at the epoch": Case(node(ts=0), "ts_out_of_range"),
    "ts in the far past": Case(node(ts=-1e300), "ts_out_of_range"),
    "ts in the far future": Case(node(ts=1e300), "ts_out_of_range"),
    "ts in milliseconds": Case(node(ts=START * 1000), "ts_out_of_range"),
    # messages
    "ten megabytes": Case(raw(f'"more":"{"x" * 10_000_000}"'), "too_large"),
    "ten megabytes of nothing": Case(b" " * 10_000_000, "too_large"),
    "unknown content type": Case(node(), "unknown_content_type", "text/csv"),
    "no content type": Case(node(), "unknown_content_type", ""),
    "JSON as packed": Case(node(), "malformed_packed", PACKED),
    "nothing, packed": Case(b"", "malformed_packed", PACKED),
    "packed NaN": Case(packed(features=np.full((1, WIDTH), np.nan, np.float32)), "not_finite", PACKED),
    "packed infinity": Case(packed(features=np.full((1, WIDTH), -np.inf, np.float32)), "not_finite", PACKED),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bad_event_is_set_aside_with_its_reason_and_its_neighbours_are_decoded(name):
    value, reason, content_type = CASES[name]
    before, after = record(node(id="before"), 7), record(node(id="after", ts=START + 1), 9)
    batch, bad = Decoder(SCHEMA).decode([before, record(value, 8, content_type), after])
    assert [(event.position, event.index, event.reason) for event in bad] == [(8, 0, reason)]
    assert bad[0].detail
    assert batch.id == ["before", "after"]
    assert batch.position.tolist() == [7, 9]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not name.startswith("packed")])
def test_a_bad_event_keeps_its_bytes_and_becomes_a_dead_letter(name):
    value, _, content_type = CASES[name]
    _, bad = Decoder(SCHEMA).decode([record(value, 8, content_type)])
    assert bad[0].raw == value
    letter = msgspec.json.decode(next(dead_letters(bad)).value)
    assert (letter["position"], letter["bytes"]) == (8, len(value))


def test_every_reason_but_that_of_the_graph_is_reached_by_some_case():
    assert {case.reason for case in CASES.values()} == set(REASONS) - {"expired"}


def test_the_detail_of_a_bad_event_says_what_was_found_and_what_was_expected():
    assert detail(node(amount="12")) == "Expected `float | null`, got `str` - at `$.amount`"
    assert detail(node(amount=-0.5)) == "amount is -0.5, expected 0 to 1e+30"
    assert detail(node(stars="many")) == "stars is 'many', which is none of the schema's values"
    assert detail(node(embedding=[1.0])) == "embedding has 1 numbers, the schema says 2"
    assert detail(node(user=...)) == "a field that relation user groups by is missing"
    assert detail(node(type="banana")) == "type is 'banana', expected one of node, edge, score, label, retract"
    assert detail(node(edges=[["enemy", "a"]])) == "relation is 'enemy', expected friend, replies_to"
    assert detail(node(id="n" * 1025)) == "id has 1025 characters, at most 1024"
    assert detail(node(ts=...)) == "ts is missing or no time; the schema says seconds"
    assert detail(node(ts=0)) == "ts is 0, expected 631152000 to 4102444800 seconds since the epoch"
    verdict = event(type="label", id="n1", ts=START, label="perhaps")
    assert detail(verdict) == "label is 'perhaps', expected one of 1, true, 0, false"
    expected = "expected application/json or application/x-graphsieve-packed"
    assert detail(node(), "text/csv") == f"content type 'text/csv', {expected}"
    assert detail(b" " * 5_000_000) == "5000000 bytes, at most 4194304"


def detail(value: bytes, content_type: str = JSON) -> str:
    _, bad = Decoder(SCHEMA).decode([record(value, 0, content_type)])
    return bad[0].detail


def test_a_time_too_far_ahead_of_when_the_log_got_it_is_bad():
    day = 86_400.0
    values = [node(id=str(i), ts=START + ahead) for i, ahead in enumerate([-100 * day, 0, day, day + 1, 100 * day])]
    batch, bad = Decoder(SCHEMA).decode([record(v, i, appended_at=START) for i, v in enumerate(values)])
    assert batch.id == ["0", "1", "2"]
    assert [(event.position, event.reason) for event in bad] == [(3, "ts_out_of_range"), (4, "ts_out_of_range")]


def test_an_event_with_several_faults_is_one_bad_event():
    value = event(type="edge", relation="enemy", src="", dst="", ts=1e300)
    batch, bad = Decoder(SCHEMA).decode([record(value)])
    assert (len(batch), len(bad)) == (0, 1)


ODD = {
    "duplicate keys: the last one counts": (raw('"id":"n2"'), "n2"),
    "NUL in an id": (node(id="a\0b"), "a\0b"),
    "surrogate pair": (raw('"id":"\\ud83d\\ude00"'), "\U0001f600"),
    "number as an id": (node(id=17), "17"),
    "large number as an id": (node(id=2**63), str(2**63)),
    "blank id": (node(id=" "), " "),
    "white space around": (b" \r\n\t" + node() + b" \n", "n1"),
    "unknown fields of any kind": (raw('"a":[{}],"b":{"id":3},"c":1e999,"d":null'), "n1"),
    "invalid UTF-8 in an unknown field": (node()[:-1] + b',"more":"\xff"}', "n1"),
    "nesting in an unknown field": (raw('"more":' + "[" * 100 + "]" * 100), "n1"),
    "half a million digits": (raw('"amount":0.' + "9" * 500_000), "n1"),
    "negative zero": (raw('"amount":-0.0'), "n1"),
    "content type with parameters": (node(), "n1"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_sound_messages_are_events(name):
    value, name_of_node = ODD[name]
    content_type = "application/JSON; charset=utf-8" if "content type" in name else JSON
    batch, bad = Decoder(SCHEMA).decode([record(value, 0, content_type)])
    assert (batch.id, bad) == ([name_of_node], [])
    assert np.isfinite(batch.features).all()


def test_a_message_is_too_large_from_one_byte_beyond_the_limit():
    value = node()
    fits, too_large = Decoder(SCHEMA, len(value)), Decoder(SCHEMA, len(value) - 1)
    assert fits.decode([record(value)])[1] == []
    assert too_large.decode([record(value)])[1][0].reason == "too_large"
    assert MAX_MESSAGE_BYTES == 4 * 2**20


# ---- what the graph makes of it ----


def test_bad_events_leave_the_graph_as_if_they_had_never_come():
    good = [record(value, 10 * i) for i, value in enumerate(good_messages(200))]
    bad = [record(case.value, 5 + 10 * i, case.content_type) for i, case in enumerate(CASES.values())]
    model = random_model(SCHEMA)
    with_bad, without = Scorer(model), Scorer(model)
    batch, found = Decoder(SCHEMA).decode(sorted(good + bad))
    assert len(found) == len(bad)
    scored, expected = with_bad.score(batch), without.score(Decoder(SCHEMA).decode(good)[0])
    np.testing.assert_array_equal(scored.score, expected.score)
    assert_same_arrays(with_bad, without)


def good_messages(n: int) -> list[bytes]:
    """Nodes of one another's groups, with edges, labels, scores and retracts between them."""
    values = []
    for i in range(n):
        name, other, ts = f"n{i % 23}", f"n{i * 7 % 23}", START + 60.0 * i
        values += [
            node(id=name, ts=ts, stars=1 + i % 3, user=i % 5, amount=i / 7, edges=[["friend", other]]),
            event(type="edge", relation="replies_to", src=name, dst=other, ts=ts),
            event(type="label", id=other, label=i % 2, ts=ts),
            event(type="score", id=other, ts=ts),
        ]
        if i % 11 == 10:
            values.append(event(type="retract", id=other))
    return values


NO_OPS = {
    "node again": (node(), "duplicate"),
    "node with an older time": (node(ts=START - 1, stars=3), "duplicate"),
    "edge again": (event(type="edge", relation="friend", src="n1", dst="n2", ts=START), "duplicate"),
    "label again": (event(type="label", id="n1", label=1, ts=START), "duplicate"),
    "retract of an unknown node": (event(type="retract", id="nobody"), "unknown"),
    "retract of an unknown edge": (event(type="retract", relation="friend", src="n1", dst="x"), "unknown"),
    "retract of an edge of another relation": (
        event(type="retract", relation="replies_to", src="n1", dst="n2"), "unknown"),
    "score of an unknown node": (event(type="score", id="nobody", ts=START), "unknown"),
    "node older than ttl": (node(id="old", ts=START - 4 * 86_400), "expired"),
    "edge older than ttl": (
        event(type="edge", relation="friend", src="n1", dst="n3", ts=START - 4 * 86_400), "expired"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_OPS)
def test_what_is_repeated_unknown_or_long_past_changes_nothing(name):
    value, outcome = NO_OPS[name]
    first = [
        node(),
        event(type="edge", relation="friend", src="n1", dst="n2", ts=START),
        event(type="label", id="n1", label=1, ts=START),
    ]
    model = random_model(SCHEMA)
    once, again = Scorer(model), Scorer(model)
    for scorer in (once, again):
        scorer.score(decoded(first))
    scored = again.score(decoded([value]))
    assert OUTCOMES[int(scored.outcome[0])] == outcome
    assert len(scored.score) == 0
    later = decoded([node(id="n9", ts=START + 5)])
    np.testing.assert_array_equal(again.score(later).score, once.score(later).score)
    assert (again.graph.row_count, again.graph.list_count) == (once.graph.row_count, once.graph.list_count)


def decoded(values: list[bytes]) -> EventBatch:
    batch, bad = Decoder(SCHEMA).decode([record(value, i) for i, value in enumerate(values)])
    assert bad == []
    return batch


def assert_same_arrays(one: Scorer, other: Scorer) -> None:
    arrays, expected = one.export(), other.export()
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
