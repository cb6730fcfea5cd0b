"""JSON messages of any application, mapped by the schema alone, and the columns that they become."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import COLUMNS, START, decoded, joined_key, records, world

from pipeline.columns_kernel import weekday
from pipeline.compiled import compiled
from pipeline.decoder import Decoder, labels_of
from pipeline.events import EDGE, LABEL, NODE, RETRACT, SCORE, EventBatch
from pipeline.schema import Schema, parse_schema
from pipeline.sections import EVENT_TYPES

SHOP = """
name = "shop"
[events]
type = "event.name"
default_type = "score"
[events.types]
"review.posted" = "node"
"review.moderated" = "label"
"review.deleted" = "retract"
followed = "edge"
[events.fields]
id = "review.id"
ts = "event.at"
label = "verdict"
src = "follower.id"
dst = "followed.id"
relation = "how"
target = "review.public"
edges = "review.mentions"
[time]
unit = "iso8601"
[features.stars]
kind = "one_hot"
field = "review.rating.stars"
values = [1, 2, 3]
other = true
[features.words]
kind = "log1p"
field = "review.length"
default = 0.0
[features.weekday]
kind = "weekday"
[labels]
spam = ["rejected", "fake"]
not_spam = ["approved"]
[relations.author]
group_by = ["review.author.id"]
[relations.device]
group_by = ["client.device"]
optional = true
[relations.follows]
kind = "edge"
directed = true
"""


def schema_of(text: str) -> Schema:
    return parse_schema(tomllib.loads(text), "graph.toml")


def least(features: str, relations: str = '[relations.user]\ngroup_by = ["user"]', time: str = "") -> Schema:
    return schema_of(f'name = "least"\n{features}\n{relations}\n{time}')


DAY = '[features.day]\nkind = "weekday"'


def review(**changes: Any) -> dict[str, Any]:
    """A message of the shop, which knows nothing of this package."""
    return {
        "event": {"name": "review.posted", "at": "2001-09-09T01:46:40Z", "version": 3},
        "review": {
            "id": 17,
            "author": {"id": "ann", "name": "Ann"},
            "rating": {"stars": 2, "scale": 5},
            "length": 99,
            "text": "good",
        },
        "client": {"device": "d1", "agent": ["x"]},
    } | changes


# ---- an application's own messages ----


def test_renamed_and_nested_fields_are_found_by_their_paths():
    batch = decoded(schema_of(SHOP), [review()])
    assert (batch.kind.tolist(), batch.id, batch.ts.tolist()) == ([NODE], ["17"], [START])
    assert batch.keys == [["ann"], ["d1"]]
    assert batch.features[0, :5].tolist() == [0, 1, 0, 0, np.float32(math.log1p(99))]


def test_the_applications_words_stand_for_our_types():
    at = {"at": "2001-09-09T01:46:40Z"}
    events = [
        review(),
        {"event": {"name": "review.moderated", **at}, "review": {"id": 17}, "verdict": "fake"},
        {"event": {"name": "followed", **at}, "how": "follows", "follower": {"id": 17}, "followed": {"id": "x"}},
        {"event": {"name": "review.deleted"}, "review": {"id": 17}},
        {"event": {"name": "review.deleted"}, "how": "follows", "follower": {"id": 17}, "followed": {"id": "x"}},
        {"event": at, "review": {"id": 17}},
        {"event": {"name": "label", **at}, "review": {"id": 18}, "verdict": "approved"},
    ]
    batch = decoded(schema_of(SHOP), events)
    assert batch.kind.tolist() == [NODE, LABEL, EDGE, RETRACT, RETRACT, SCORE, LABEL]
    assert batch.id == ["17", "17", "17", "17", "17", "17", "18"]
    assert batch.label.tolist() == [-1, 1, -1, -1, -1, -1, 0]
    assert (batch.edge_event.tolist(), batch.edge_relation.tolist(), batch.edge_other) == ([2, 4], [2, 2], ["x", "x"])
    assert batch.target.tolist() == [True, False, False, False, False, True, False]


def test_an_unknown_word_names_the_applications_words_too():
    _, bad = Decoder(schema_of(SHOP)).decode(records([review(event={"name": "review.edited"})]))
    assert bad[0].detail == (
        "type is 'review.edited', expected one of node, edge, score, label, retract, "
        "review.posted, review.moderated, review.deleted, followed"
    )


def test_a_node_names_its_edges_and_says_whether_it_is_a_target():
    mentions = {"public": False, "mentions": [["follows", "x"], ["follows", 9]]}
    batch = decoded(schema_of(SHOP), [review(), review(review=review()["review"] | mentions)])
    assert (batch.edge_event.tolist(), batch.edge_other) == ([1, 1], ["x", "9"])
    assert batch.target.tolist() == [True, False]


def test_an_object_that_is_null_or_missing_has_no_fields():
    without = review()
    del without["client"]
    batch = decoded(schema_of(SHOP), [review(client=None), without, review(client={}), review(client={"device": None})])
    assert batch.keys[1] == [None] * 4
    _, bad = Decoder(schema_of(SHOP)).decode(records([review(review=None), review(event=None), review(client=3)]))
    assert [(b.reason, b.detail) for b in bad] == [
        ("missing_field", "a field that relation author groups by is missing"),
        ("bad_ts", "ts is missing or no time; the schema says iso8601"),
        ("wrong_type", "Expected `object | null`, got `int` - at `$.client`"),
    ]


def test_nodes_are_no_targets_where_the_schema_says_so_unless_their_event_does():
    schema = least(DAY, time="[nodes]\ntarget = false")
    events = [{"id": "a", "ts": START, "user": "u"}, {"id": "b", "ts": START, "user": "u", "target": True}]
    assert decoded(schema, events).target.tolist() == [False, True]


# ---- ids, labels, times ----


def test_a_number_as_an_id_is_its_digits():
    ids = [17, 17.0, "17", -1, 2**63, 1e3, 0.5]
    batch = decoded(world(), [{"type": "score", "id": name, "ts": START} for name in ids])
    assert batch.id == ["17", "17", "17", "-1", "9223372036854775808", "1000", "0.5"]


@pytest.mark.parametrize(("word", "label"), [(1, 1), (1.0, 1), ("1", 1), (True, 1), ("true", 1), (0, 0), (False, 0)])
def test_without_words_of_its_own_a_schema_takes_1_and_true_for_spam(word, label):
    assert decoded(world(), [{"type": "label", "id": "a", "ts": START, "label": word}]).label.tolist() == [label]


def test_label_words_are_matched_as_they_are_written():
    schema = schema_of(SHOP)
    at = {"name": "review.moderated", "at": "2001-09-09"}
    events = [{"event": at, "review": {"id": 1}, "verdict": word} for word in ("fake", "rejected", "Fake", 1, True)]
    batch, bad = Decoder(schema).decode(records(events))
    assert batch.label.tolist() == [1, 1]
    assert [(b.position, b.reason) for b in bad] == [(2, "bad_label"), (3, "bad_label"), (4, "bad_label")]
    assert bad[0].detail == "label is 'Fake', expected one of rejected, fake, approved"


def test_labels_are_told_without_the_rest():
    events = [
        {"id": "a", "ts": START, "stars": 1, "user": "u", "embedding": [0, 0]},
        {"type": "label", "id": "a", "label": 1, "ts": START},
        {"type": "label", "id": "a", "label": "perhaps", "ts": START},
        {"type": "label", "id": "b", "label": 0, "ts": START},
    ]
    batch, _ = Decoder(world()).decode(records(events, 10))
    assert list(labels_of(batch)) == [(11, "a", 1), (13, "b", 0)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2001-09-09T01:46:40Z", START),
        ("2001-09-09T01:46:40", START),
        ("2001-09-09 01:46:40.250", START + 0.25),
        ("2001-09-09T03:46:40+02:00", START),
        ("20010909T014640Z", START),
        ("2001-09-09", START - 6400),
    ],
)
def test_iso_8601_times_are_utc_unless_they_say_otherwise(text, seconds):
    schema = least(DAY, time='[time]\nunit = "iso8601"')
    assert decoded(schema, [{"id": "a", "ts": text, "user": "u"}]).ts.tolist() == [seconds]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2001-02-30", "1000000000", "2001-09-09T25:00", "\0", "２００１-09-09"]
)
def test_what_is_no_iso_8601_time_is_bad(text):
    schema = least(DAY, time='[time]\nunit = "iso8601"')
    _, bad = Decoder(schema).decode(records([{"id": "a", "ts": text, "user": "u"}]))
    assert [b.reason for b in bad] == ["bad_ts"]


@given(st.integers(631_238_400, 4_102_358_400), st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_any_datetime_reads_as_its_own_timestamp(seconds, offset_minutes):
    moment = datetime.fromtimestamp(seconds, timezone(timedelta(minutes=offset_minutes)))
    schema = least(DAY, time='[time]\nunit = "iso8601"')
    batch = decoded(schema, [{"id": "a", "ts": moment.isoformat(), "user": "u"}])
    assert batch.ts.tolist() == [seconds]
    assert batch.features[0].tolist() == [day == moment.astimezone(UTC).weekday() for day in range(7)]


def test_times_in_milliseconds_become_seconds():
    schema = least(DAY, time='[time]\nunit = "milliseconds"')
    batch, bad = Decoder(schema).decode(
        records([{"id": n, "ts": ts, "user": "u"} for n, ts in (("a", START * 1000 + 250), ("b", START))])
    )
    assert batch.ts.tolist() == [START + 0.25]
    assert [(b.position, b.reason) for b in bad] == [(1, "ts_out_of_range")]


def test_the_bounds_of_the_schema_are_believed_and_nothing_beyond():
    schema = least(DAY, time='[time]\nearliest = "2001-09-09"\nlatest = "2001-09-10"')
    first, last = 999_993_600.0, 1_000_080_000.0
    times = [np.nextafter(first, 0), first, last, np.nextafter(last, math.inf)]
    batch, bad = Decoder(schema).decode(records([{"id": "a", "ts": float(ts), "user": "u"} for ts in times]))
    assert batch.ts.tolist() == [first, last]
    assert [b.position for b in bad] == [0, 3]


def test_a_retract_has_no_time_whatever_it_says():
    events = [{"type": "retract", "id": "a", **ts} for ts in ({}, {"ts": START}, {"ts": -1e300})]
    assert np.isnan(decoded(world(), events).ts).all()


# ---- features ----


def column(kind: str, values: list[Any], more: str = "") -> list[Any]:
    """The channels, or the reason, of a feature `x` for each value; ... is a missing field."""
    schema = least(f'[features.x]\nkind = "{kind}"\n{more}')
    events = [{"id": str(i), "ts": START, "user": "u", "x": value} for i, value in enumerate(values)]
    batch, bad = Decoder(schema).decode(records([{k: v for k, v in e.items() if v is not ...} for e in events]))
    channels = dict(zip(batch.position.tolist(), batch.features.tolist(), strict=True))
    reasons = {event.position: event.reason for event in bad}
    return [channels[i] if i in channels else reasons[i] for i in range(len(values))]


def test_a_numeric_feature_is_the_number_itself():
    values = [1, -2.5, 0, 1e30, 1.1e30, "1", None, ...]
    assert column("numeric", values) == [
        [1.0], [-2.5], [0.0], [float(np.float32(1e30))], "out_of_range", "wrong_type", "missing_field", "missing_field",
    ]  # fmt: skip


def test_a_number_with_a_deviation_has_narrower_bounds():
    """A list's running sum must give back what it took: 1e30 in and out again would leave nothing of the others."""
    values = [1e9, -1e9, 1.1e9]
    assert column("numeric", values, "deviation = true") == [[1e9], [-1e9], "out_of_range"]
    assert column("log1p", [1e30], "deviation = true") == [[float(np.float32(math.log1p(1e30)))]]


def test_a_default_stands_in_for_what_is_missing_not_for_what_is_wrong():
    assert column("numeric", [2, None, ..., "x"], "default = 3.5") == [[2.0], [3.5], [3.5], "wrong_type"]
    assert column("log1p", [None], "default = 3.5") == [[float(np.float32(math.log1p(3.5)))]]


def test_log1p_takes_counts_and_amounts_and_nothing_below_zero():
    expected = [[0.0], [float(np.float32(math.log(2)))], [float(np.float32(math.log1p(1e30)))], "out_of_range"]
    assert column("log1p", [0, 1, 1e30, -1e-9]) == expected


def test_one_hot_compares_numbers_as_texts():
    one, two, three = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    values = [5, 5.0, "5", "x", True, "true", 2.5]
    expected = [one, one, one, two, three, three, "unknown_value"]
    assert column("one_hot", values, 'values = [5, "x", true]') == expected
    assert column("one_hot", [5], 'values = ["5"]') == [[1.0]]
    assert column("one_hot", [1, 0, "True"], "values = [true]") == ["unknown_value"] * 3
    assert column("one_hot", ["None", None, ...], 'values = ["None"]') == [[1.0], "missing_field", "missing_field"]


def test_other_is_a_channel_for_any_other_value_and_for_none():
    values = [1, 2, "1", False, None, ..., "other"]
    first, other = [1.0, 0.0], [0.0, 1.0]
    assert column("one_hot", values, "values = [1]\nother = true") == [first, other, first, other, other, other, other]


def test_a_vector_has_as_many_channels_as_the_schema_says():
    values = [[1, 2.5], [1], [1, 2, 3], [], None, [1e30, -1.1e30], [0, 0]]
    assert column("vector", values, "length = 2") == [
        [1.0, 2.5], "wrong_length", "wrong_length", "wrong_length", "missing_field", "out_of_range", [0.0, 0.0],
    ]  # fmt: skip


@compiled
def day_of(ts):
    return weekday(ts)


@given(st.lists(st.floats(-62_135_596_800, 253_402_300_799), min_size=1))
def test_the_weekday_is_that_of_the_calendar(times):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    expected = [(epoch + timedelta(days=math.floor(ts / 86_400))).weekday() for ts in times]
    assert [day_of(ts) for ts in times] == expected


def test_several_features_may_read_one_field():
    batch = decoded(world(), [{"id": "a", "ts": START, "stars": 2, "user": "u", "embedding": [0, 0]}])
    assert batch.features[0, :5].tolist() == [0, 1, 0, 2, np.float32(math.log(2))]


# ---- group keys ----


def keys_of(fields: Sequence[Sequence[object]]) -> list[str | None]:
    """The keys of nodes in a relation that groups by so many fields; each field has a value for every node."""
    paths = [f"f{i}" for i in range(len(fields))]
    schema = least('[features.day]\nkind = "weekday"', f"[relations.all]\ngroup_by = {paths}\noptional = true")
    values = zip(*fields, strict=True)
    events = [{"id": str(i), "ts": START, **dict(zip(paths, row, strict=True))} for i, row in enumerate(values)]
    keys = decoded(schema, events).keys[0, :].tolist()
    assert keys == [joined_key(row) for row in zip(*fields, strict=True)]
    return keys


def test_numbers_and_texts_that_read_alike_are_one_key():
    assert keys_of([[5, 5.0, "5", -5, "5.0", 5.5, True, "true", None]]) == [
        "5", "5", "5", "-5", "5.0", "5.5", "true", "true", None,
    ]  # fmt: skip
    assert keys_of([[5, 7]]) == ["5", "7"]
    assert keys_of([[2**63, 2.0**63]]) == ["9223372036854775808"] * 2


TEXTS = st.text(alphabet=["a", "b", "1", ":", "\x1e", "\x1f", "0"], max_size=4)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=30))
def test_joined_keys_are_equal_just_if_their_parts_are(rows):
    keys = keys_of(list(zip(*rows, strict=True)))
    assert len(set(keys)) == len(set(rows))


@given(st.lists(st.tuples(TEXTS | st.none(), TEXTS | st.integers(0, 9) | st.none()), min_size=1, max_size=30))
def test_a_key_does_not_depend_on_the_other_nodes_of_the_batch(rows):
    together = keys_of(list(zip(*rows, strict=True)))
    assert together == [keys_of([[one], [other]])[0] for one, other in rows]
    assert [key is None for key in together] == [None in row for row in rows]


def test_a_node_without_the_field_is_in_no_group_of_an_optional_relation():
    events = [{"id": "a", "ts": START, "stars": 2, "user": "u", "embedding": [0, 0], **more} for more in (
        {}, {"product": None}, {"product": "p"}, {"product": ""})]  # fmt: skip
    batch = decoded(world(), events)
    assert batch.keys[2] == [None, None, "p", ""]
    assert [key is None for key in batch.keys[1]] == [True, True, False, False]


# ---- places that are read in two ways ----

TWICE = """
name = "twice"
[events.fields]
ts = "at"
id = "user"
target = "flag"
[features.at]
kind = "numeric"
default = 0.0
[features.flag]
kind = "one_hot"
values = [true, "maybe"]
other = true
[relations.user]
group_by = ["user", "at"]
"""


def test_a_place_that_is_read_twice_is_checked_for_each_use():
    sound = {"user": 7.0, "at": START, "flag": True}
    changes = [{}, {"at": int(START)}, {"at": "today"}, {"at": True}, {"flag": "maybe"}, {"flag": None}, {"user": [1]}]
    changes += [{"at": 10**400}]
    batch, bad = Decoder(schema_of(TWICE)).decode(records([sound | change for change in changes]))
    assert batch.position.tolist() == [0, 1, 5]
    assert batch.id == ["7", "7", "7"]
    assert len(set(batch.keys[0])) == 1
    assert [(b.position, b.reason) for b in bad] == [
        (2, "bad_ts"), (3, "bad_ts"), (4, "wrong_type"), (6, "wrong_type"), (7, "bad_ts"),
    ]  # fmt: skip


# ---- batches ----


def test_an_empty_read_is_an_empty_batch_of_the_right_shape():
    batch, bad = Decoder(world()).decode([])
    assert (len(batch), bad) == (0, [])
    assert batch.features.shape == (0, len(world().own_channels))
    assert len(batch.keys) == len(world().groups)


def test_how_events_are_read_from_the_log_changes_nothing():
    events = [
        {"id": "a", "ts": START, "stars": 2, "user": "u", "embedding": [0, 0], "edges": [["friend", "b"]]},
        {"type": "edge", "relation": "friend", "src": "a", "dst": "c", "ts": START},
        {"type": "label", "id": "a", "label": 1, "ts": START},
        {"type": "banana"},
        {"id": "b", "ts": START, "stars": 1, "user": "u", "embedding": [0, 1], "edges": [["friend", "a"]] * 2},
    ]
    decoder = Decoder(world())
    together, _ = decoder.decode(records(events))
    alone = EventBatch.join([decoder.decode([record])[0] for record in records(events)])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name), err_msg=name)


def test_take_renumbers_the_edges_of_the_events_that_stay():
    events = [{"type": "edge", "relation": "friend", "src": s, "dst": d, "ts": START} for s, d in ("ab", "cd", "ef")]
    batch = decoded(world(), events).take(np.array([True, False, True]))
    assert (batch.id, batch.edge_event.tolist(), batch.edge_other) == (["a", "e"], [0, 1], ["b", "f"])
    assert (batch.part(1, 2).id, batch.part(1, 2).edge_event.tolist(), batch.part(1, 2).edge_other) == (
        ["e"],
        [0],
        ["f"],
    )


def test_the_codes_of_the_types_are_fixed_for_packed_messages_hold_them():
    assert dict(zip(EVENT_TYPES, (NODE, EDGE, SCORE, LABEL, RETRACT), strict=True)) == {
        "node": 0, "edge": 1, "score": 2, "label": 3, "retract": 4,
    }  # fmt: skip


def test_our_own_json_needs_no_mapping():
    text = b'{"type":"node","id":"r17","ts":1307491200.0,"user":"201","product":"0","stars":3,"embedding":[1,2]}'
    batch = decoded(world(), [msgspec.json.decode(text)])
    assert (batch.id, batch.ts.tolist(), batch.keys[0], batch.keys[2]) == (["r17"], [1307491200.0], ["201"], ["0"])


@pytest.mark.parametrize(
    ("column", "wrong", "says"),
    [
        ("ts", lambda ts: ts.astype(np.float32), "ts is a column of float32, expected float64 without gaps"),
        ("features", lambda x: np.asfortranarray(x), "features is a column of float32"),
        ("label", lambda label: np.repeat(label, 2)[::2], "label is a column of int8, expected int8 without gaps"),
    ],
)
def test_a_column_that_compiled_code_would_misread_is_refused(column, wrong, says):
    events = [{"id": str(i), "ts": START, "stars": 2, "user": "u", "embedding": [0, i]} for i in range(5)]
    batch = decoded(world(), events)
    with pytest.raises(TypeError, match=says):
        replace(batch, **{column: wrong(getattr(batch, column))})
