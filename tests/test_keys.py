"""Keys by a field: a node and all that is ever said of it have one key."""

import math
import re

import msgspec
import pytest

from pipeline.errors import ConfigError
from pipeline.log import JSON, PACKED, TOMBSTONE, Record
from pipeline.schema import parse_schema
from producers.keys import keyed, with_keys
from producers.synthetic import synthetic_events


def recorded(*messages: object) -> list[Record]:
    values = [m if isinstance(m, bytes) else msgspec.json.encode(m) for m in messages]
    return [Record(i, value, None, JSON, math.nan) for i, value in enumerate(values)]


def keys(*messages: object, field: str = "product") -> list[str | None]:
    return [record.key for record in keyed(recorded(*messages), field)]


def test_a_label_a_score_and_a_retract_go_where_their_node_went():
    assert keys(
        {"id": "r1", "product": "p"},
        {"type": "node", "id": "r2", "product": "q"},
        {"type": "label", "id": "r1", "label": 1},
        {"type": "score", "id": "r2"},
        {"type": "retract", "id": "r1"},
    ) == ["p", "q", "p", "q", "p"]


def test_an_edge_goes_where_its_source_went_whatever_id_it_has_itself():
    nodes = {"id": "r1", "product": "p"}, {"id": "r2", "product": "q"}
    edge = {"type": "edge", "relation": "friend", "src": "r2", "dst": "r1", "id": "r1"}
    gone = {"type": "retract", "relation": "friend", "src": "r2", "dst": "r1"}
    assert keys(*nodes, edge, gone) == ["p", "q", "q", "q"]


def test_a_field_may_lie_deep_and_be_a_number_and_ids_are_compared_as_texts():
    messages = {"id": 5, "shop": {"number": 7.0}}, {"type": "label", "id": "5", "shop": None}
    assert keys(*messages, field="shop.number") == ["7", "7"]


def test_a_node_that_comes_again_with_another_value_takes_its_labels_along():
    label = {"type": "label", "id": "r", "label": 0}
    assert keys({"id": "r", "product": "p"}, label, {"id": "r", "product": "q"}, label) == ["p", "p", "q", "q"]


def test_what_is_no_json_object_keeps_the_key_it_has():
    source = [record._replace(key="own") for record in recorded(b"{", b"[1]", b"")]
    source.append(Record(3, b'{"product":1}', None, "text/plain", math.nan))
    assert list(keyed(source, "product")) == source


def test_nothing_but_the_key_changes():
    before = Record(4, b' {"product" : "p"}', "old", JSON, 1.5, (("h", b"\x00"),), "reviews", 9)
    assert list(keyed([before], "product")) == [before._replace(key="p")]


def test_an_applications_words_are_the_schemas_also_topic_by_topic():
    schema = parse_schema(
        {
            "name": "payments",
            "events": {
                "type": "kind",
                "types": {"payment": "node", "link": "edge"},
                "fields": {"id": "payment.id", "src": "from"},
                "topics": {"verdicts": {"fields": {"id": "about"}}},
            },
            "features": {"amount": {"kind": "numeric"}},
            "relations": {"sender": {"group_by": ["from"]}},
        },
        "payments",
    )
    source = recorded(
        {"kind": "payment", "payment": {"id": "a"}, "shop": "s"},
        {"kind": "link", "payment": {"id": "b"}, "from": "a"},
        {"kind": "label", "about": "a"},
    )
    source[2] = source[2]._replace(topic="verdicts")
    assert [record.key for record in keyed(source, "shop", schema)] == ["s", "s", "s"]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (
            {"type": "label", "id": "r9", "label": 1},
            "message 2 has no 'product', and no message before it tells the 'product' of 'r9': "
            "name a field that every node has",
        ),
        ({"type": "label"}, "message 2 has no 'product', and names no id: name a field that every node has"),
        ({"id": "r2", "product": None}, "message 2 has no 'product', and no message before it tells the"),
        ({"id": "r2", "product": ["p"]}, "message 2: 'product' is a list, a key is a text or a number; name another"),
        ({"id": "r2", "product": {"p": 1}}, "message 2: 'product' is an object, a key is a text or a number"),
    ],
)
def test_a_message_without_a_key_is_named_with_its_number(message, problem):
    with pytest.raises(ConfigError, match="^" + re.escape(problem)):
        keys({"id": "r1", "product": "p"}, message)


def test_packed_messages_and_tombstones_cannot_be_keyed_by_a_field():
    (plain,) = recorded({"id": "r1", "product": "p"})
    with pytest.raises(ConfigError, match="^message 1 is packed: "):
        list(keyed([plain._replace(content_type=PACKED)], "product"))
    with pytest.raises(ConfigError, match="^message 2 is a tombstone: its key is the id of what is gone"):
        list(keyed([plain, plain._replace(content_type=TOMBSTONE, value=b"")], "product"))


@pytest.mark.parametrize("field", ["", ".", "user.", "a..b"])
def test_a_field_that_is_no_path_is_refused(field):
    with pytest.raises(ConfigError, match="is no path; write field names with dots between"):
        keys({"id": "r1"}, field=field)


def test_whatever_the_synthetic_stream_says_of_a_review_has_the_key_of_its_product():
    lines = list(synthetic_events(seed=3, limit=5000))
    events = [msgspec.json.decode(line) for line in lines]
    product_of = {event["id"]: event["product"] for event in events if event["type"] == "node"}
    assert keys(*lines) == [product_of[event["id"]] for event in events]
    assert {event["type"] for event in events} == {"node", "label", "retract"}


def test_a_message_that_could_go_to_any_of_several_partitions_is_refused():
    with_key, without = Record(0, b"1", "k", JSON, math.nan), Record(1, b"2", None, JSON, math.nan)
    assert list(with_keys([with_key], 4)) == [with_key]
    with pytest.raises(ConfigError, match=r"^message 2 has no key, and the topic has 4 partitions: .*--key product"):
        list(with_keys([with_key, without], 4))
