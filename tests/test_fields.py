"""JSON as columns: compiled code reads what msgspec has read, and a plain reading of each message says the same."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import START, joined_key, records, world

from pipeline.decoder import Decoder
from pipeline.events import LABEL, NODE, RETRACT, SCORE
from pipeline.fields import PIECE, Form
from pipeline.fields_kernel import FALSE, INTEGER, LARGE, MISSING, REAL, TEXT, TRUE, UNSIGNED
from pipeline.schema import parse_schema
from pipeline.sections import EVENT_TYPES, LARGEST, LARGEST_LEVEL, text_of
from pipeline.texts import Texts

NESTED = {
    "name": "nested",
    "events": {"fields": {"id": "who.id", "ts": "when"}},
    "features": {
        "a": {"kind": "one_hot", "field": "who.a", "values": [1]},
        "b": {"kind": "one_hot", "field": "what.in.b", "values": [1]},
        "c": {"kind": "one_hot", "field": "what.c", "values": [1]},
        "d": {"kind": "one_hot", "field": "d", "values": [1]},
    },
    "relations": {"all": {"group_by": ["who.id"]}},
}
FORM = Form(parse_schema(NESTED, "nested"))
PATHS = ["who.a", "what.in.b", "what.c", "d"]

integers = st.integers(-(2**70), 2**70) | st.integers(-300, 300)
edges_of_sizes = st.sampled_from(
    [s * 2**b + d for b in (5, 7, 8, 15, 16, 31, 32, 53, 63, 64) for s in (1, -1) for d in (-1, 0)]
)
reals = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53).map(float)
lengths = st.sampled_from([0, 31, 32, 255, 256, 65535, 65536])
scalars = st.none() | st.booleans() | integers | edges_of_sizes | reals | st.text() | lengths.map("ä".__mul__)


def put(message, path, value):
    *parents, leaf = path.split(".")
    for parent in parents:
        message = message.setdefault(parent, {})
    message[leaf] = value


def kinds_of(value):
    """What may be noted of a value."""
    if value is None:
        return {MISSING}
    if isinstance(value, bool):
        return {TRUE if value else FALSE}
    if isinstance(value, int):
        return {INTEGER} if -(2**63) <= value < 2**63 else {UNSIGNED, LARGE}
    return {REAL} if isinstance(value, float) else {TEXT}


@given(st.lists(st.dictionaries(st.sampled_from(PATHS), scalars), max_size=8), st.integers(1, 2 * PIECE))
@settings(deadline=None)
def test_what_stands_at_each_place_is_what_the_message_says(said, times):
    said = (said * times)[: 3 * PIECE]
    messages = [{"other": [1, {"d": 2}]} for _ in said]
    for message, values in zip(messages, said, strict=True):
        for path, value in values.items():
            put(message, path, value)
    fields = FORM.fields([json.dumps(message).encode() for message in messages])
    assert len(fields) == len(said)
    for path in PATHS:
        values = [one.get(path) for one in said]
        texts = Texts(*fields.texts)[FORM.text[path], :].tolist()
        assert texts == [None if value is None else text_of(value) for value in values]
        noted = fields.found["kind"][:, FORM.place[path]].tolist()
        assert all(kind in kinds_of(value) for kind, value in zip(noted, values, strict=True))
        for number, value in zip(fields.found["number"][:, FORM.place[path]].tolist(), values, strict=True):
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert number == value or math.isclose(number, value, rel_tol=1e-15)
            else:
                assert math.isnan(number)
        assert [fields.value(path, i) for i in range(len(said))] == values


def test_numbers_that_msgpack_does_not_have_are_read_all_the_same():
    large = [2**64, -(2**63) - 1, 10**25, 10**400]
    fields = FORM.fields([b'{"d":%d,"who":{"a":"x"}}' % value for value in large])
    assert Texts(*fields.texts)[FORM.text["d"], :].tolist() == [str(value) for value in large]
    assert Texts(*fields.texts)[FORM.text["who.a"], :].tolist() == ["x"] * 4
    *near, beyond = fields.found["number"][:, FORM.place["d"]].tolist()
    assert near == [float(value) for value in large[:3]]
    assert math.isnan(beyond)  # no number beyond LARGEST is believed


# ---- events, each read by itself in plain Python ----


def plain_event(schema, event):
    """(type, ts, target, label, id, channels, keys, edges) of a message; None where something is wrong with it."""
    kind = event.get("type") or "node"
    if kind not in EVENT_TYPES:
        return None
    named = "src" if kind == "edge" or (kind == "retract" and event.get("id") is None) else "id"
    name = event.get(named)
    if name is None or not 1 <= len(text_of(name)) <= 1024:
        return None
    ts, label, target = event.get("ts"), -1, kind == "score"
    if kind != "retract" and (ts is None or not schema.ts_range[0] <= ts <= schema.ts_range[1]):
        return None
    if kind == "label":
        word = event.get("label")
        if word is None or text_of(word) not in ("0", "1", "true", "false"):
            return None
        label = int(text_of(word) in ("1", "true"))
    channels, keys = [0.0] * len(schema.own_channels), [None] * len(schema.groups)
    if kind == "node":
        target = event.get("target") is not False
        channels = plain_channels(event)
        keys = [joined_key([event.get(path) for path in relation.group_by]) for _, relation in schema.groups]
        missing = any(key is None and not r.optional for key, (_, r) in zip(keys, schema.groups, strict=True))
        if channels is None or missing or any(key is not None and len(key) > 1024 for key in keys):
            return None
    edges = plain_edges(kind, event)
    if edges is None:
        return None
    return kind, None if kind == "retract" else ts, target, label, text_of(name), channels, keys, edges


def plain_edges(kind, event):
    """[(relation, other end)]; None where one is wrong."""
    pairs = (event.get("edges") or []) if kind == "node" else []
    if kind == "edge" or (kind == "retract" and event.get("id") is None):
        pairs = [(event.get("relation"), event.get("dst"))]
    for relation, other in pairs:
        if relation not in ("friend", "replies_to") or other is None or not 1 <= len(text_of(other)) <= 1024:
            return None
    return [(relation, text_of(other)) for relation, other in pairs]


def plain_channels(event):
    stars, amount, embedding = event.get("stars"), event.get("amount"), event.get("embedding")
    if stars is None or isinstance(stars, bool | str) or stars not in (1, 2, 3):
        return None
    amount = 1.0 if amount is None else amount
    if embedding is None or len(embedding) != 2 or any(abs(x) > LARGEST for x in embedding):
        return None
    if not 0 <= amount <= LARGEST or abs(stars) > LARGEST_LEVEL:
        return None
    day = datetime.fromtimestamp(event["ts"], UTC).weekday()
    one_hot, week = [float(stars == v) for v in (1, 2, 3)], [float(d == day) for d in range(7)]
    return [float(np.float32(x)) for x in (*one_hot, stars, math.log1p(amount), *embedding, *week)]


numbers = st.sampled_from([0, 1, 2.5, -1, 1e9, 1e30, 1.1e30, 10**25, 2**63, 2**70, -1e300, 1e-300])
texts = st.sampled_from(["a", "", "b" * 1024, "ä" * 1024, "ä" * 1025, "1", "true", "\x1f", "\x1e0"])
names = texts | st.sampled_from([7, 7.0, 7.5, -3, 2**63, 10**30, 1e25])
times = st.sampled_from([START, START + 1.5, 0, -1e300, 1e18]) | st.floats(START, START + 1e7)
relations = st.sampled_from(["friend", "friend", "replies_to", "replies_to", "user", "nope"])
messages = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*EVENT_TYPES, "node", "node", None, "banana"]),
        "id": names | st.just("x"),
        "src": names,
        "ts": times | st.just(START),
        "target": st.sampled_from([True, False, None]),
        "label": st.sampled_from([0, 1, True, False, "1", "true", "yes", 2, None, 0.0, 2**64]),
        "stars": st.sampled_from([1, 2, 3, 1.0, 3.0, 4, "2", None]),
        "amount": numbers | st.none(),
        "embedding": st.lists(numbers, min_size=2, max_size=2) | st.just([]) | st.none() | st.just([1, 2.5]),
        "relation": relations | st.none(),
        "dst": names | st.just("y"),
        "edges": st.lists(st.tuples(relations, names | st.just("z")), max_size=3) | st.none(),
        "user": names | st.just("u"),
        "product": names | st.none(),
    },
)
good = {"id": "x", "ts": START, "stars": 2, "embedding": [1, 2], "user": "u"}


@given(
    st.lists(
        st.tuples(st.sampled_from([{}, good, good, good]), messages).map(lambda pair: pair[0] | pair[1]), max_size=6
    )
)
@settings(max_examples=300, deadline=None)
def test_events_are_what_a_plain_reading_of_each_message_says(said):
    schema = world()
    batch, bad = Decoder(schema).decode(records(said))
    expected = {i: plain for i, event in enumerate(said) if (plain := plain_event(schema, event)) is not None}
    assert batch.position.tolist() == list(expected)
    assert sorted(event.position for event in bad) == [i for i in range(len(said)) if i not in expected]
    found_edges = zip(batch.edge_event.tolist(), batch.edge_relation.tolist(), batch.edge_other.tolist(), strict=True)
    found = [(at, schema.relation_names[r], other) for at, r, other in found_edges]
    assert found == [(at, *edge) for at, plain in enumerate(expected.values()) for edge in plain[-1]]
    for at, (kind, ts, target, label, name, channels, keys, _) in enumerate(expected.values()):
        assert EVENT_TYPES[batch.kind[at]] == kind
        assert (batch.ts[at] == ts) if ts is not None else np.isnan(batch.ts[at])
        assert (batch.target[at], batch.label[at], batch.id[at]) == (target, label, name)
        assert batch.features[at].tolist() == channels
        assert batch.keys[:, at : at + 1].tolist() == [[key] for key in keys]


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1])
def test_any_number_of_messages_is_read(count):
    events = [good | {"id": str(i), "ts": START + i} for i in range(count)]
    batch, bad = Decoder(world()).decode(records(events))
    assert (batch.id.tolist(), bad) == ([str(i) for i in range(count)], [])
    assert batch.ts.tolist() == [START + i for i in range(count)]
    assert batch.kind.tolist() == [NODE] * count


def test_an_edge_may_lead_to_a_node_that_is_named_by_a_large_number():
    """Its digits are more than msgpack's bytes: there must be room for them."""
    large = [10 ** (900 + i) for i in range(100)]
    events = [{"type": "edge", "relation": "friend", "src": i, "dst": dst, "ts": START} for i, dst in enumerate(large)]
    batch, bad = Decoder(world()).decode(records(events))
    assert (batch.edge_other.tolist(), bad) == (list(map(str, large)), [])


def test_the_codes_of_the_types_are_those_of_the_compiled_code():
    assert tuple(map(EVENT_TYPES.index, ("score", "label", "retract"))) == (SCORE, LABEL, RETRACT)
