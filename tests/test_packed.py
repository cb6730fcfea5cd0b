"""Packed batches: the same events as JSON gives, the same bounds, and whatever is damaged is refused."""

import math
import tomllib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import COLUMNS, START, WORLD, decoded, event_sequences, records, world

from pipeline.decoder import Decoder
from pipeline.events import LABEL, NODE, RETRACT, SCORE, EventBatch
from pipeline.log import PACKED, Record
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema, parse_schema
from pipeline.sections import LARGEST, LARGEST_LEVEL
from pipeline.texts import Texts

SCHEMA = world()
WIDTH = len(SCHEMA.own_channels)
EVENTS = [
    {"id": "a", "ts": START, "stars": 1, "user": "u", "product": "p", "embedding": [1, 2], "edges": [["friend", "b"]]},
    {"type": "edge", "relation": "replies_to", "src": "a", "dst": "c", "ts": START + 1},
    {"type": "label", "id": "a", "label": 1, "ts": START + 2},
    {"type": "retract", "relation": "friend", "src": "a", "dst": "b"},
    {"type": "score", "id": "a", "ts": START + 3},
    {"type": "retract", "id": "a"},
    {"id": "d", "ts": START + 4, "stars": 2, "user": "u", "embedding": [0, 0]},
]


def record(value: bytes, position: int = 0, appended_at: float = math.nan) -> Record:
    return Record(position, value, None, PACKED, appended_at)


def put(batch: EventBatch, column: str, place: int | tuple[int, int], value: object) -> EventBatch:
    """Return the batch with one value of a column changed."""
    found = getattr(batch, column)
    if not isinstance(found, Texts):
        found[place] = value
        return batch
    texts = np.array(found.tolist(), object)
    texts[place] = value
    rows = texts.shape[0] if texts.ndim > 1 else None
    return replace(batch, **{column: Texts.of(texts.ravel().tolist(), rows)})


def assert_same_columns(batch: EventBatch, expected: EventBatch, but: tuple[str, ...] = ()) -> None:
    for name in COLUMNS:
        if name in but:
            continue
        found, wanted = getattr(batch, name), getattr(expected, name)
        if isinstance(wanted, Texts):
            assert found == wanted, name
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=name)
            assert found.dtype == wanted.dtype, name


@settings(max_examples=40, deadline=None)
@given(events=event_sequences(most=30), position=st.integers(0, 10**12))
def test_packing_changes_nothing_but_the_place_in_the_log(events, position):
    expected = decoded(SCHEMA, events)
    batch, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, expected), position)])
    assert bad == []
    assert_same_columns(batch, expected, but=("position", "index"))
    assert set(batch.position.tolist()) == {position}
    assert batch.index.tolist() == list(range(len(events)))


@settings(max_examples=25, deadline=None)
@given(events=event_sequences(most=20), packed=st.lists(st.booleans(), min_size=40, max_size=40))
def test_json_and_packed_messages_in_one_read_keep_their_order(events, packed):
    mixed = [seal(plain) if seal_it else plain for plain, seal_it in zip(records(events, 100), packed, strict=False)]
    batch, bad = Decoder(SCHEMA).decode(mixed)
    assert bad == []
    assert_same_columns(batch, Decoder(SCHEMA).decode(records(events, 100))[0])


def seal(plain: Record) -> Record:
    return record(encode_packed(SCHEMA, Decoder(SCHEMA).decode([plain])[0]), plain.position)


def test_columns_are_the_decoders_own_and_can_be_written_to():
    batch, _ = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, decoded(SCHEMA, EVENTS)))])
    for name in COLUMNS:
        value = getattr(batch, name)
        arrays = (value.data, value.start, value.length) if isinstance(value, Texts) else (value,)
        assert all(array.flags.writeable for array in arrays), name


def test_an_empty_batch_is_a_message_without_events():
    batch, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, Decoder(SCHEMA).decode([])[0]))])
    assert (len(batch), bad) == (0, [])


# ---- the same bounds as JSON ----

BAD_COLUMNS = {
    "kind that is none": ("kind", 0, 9, "unknown_type"),
    "nan ts": ("ts", 0, math.nan, "bad_ts"),
    "infinite ts": ("ts", 0, math.inf, "ts_out_of_range"),
    "ts long ago": ("ts", 1, 0.0, "ts_out_of_range"),
    "label that is none": ("label", 2, 5, "bad_label"),
    "label of -1": ("label", 2, -1, "bad_label"),
    "nan feature": ("features", 0, math.nan, "not_finite"),
    "infinite feature": ("features", 0, -math.inf, "not_finite"),
    "huge feature": ("features", 0, 2 * LARGEST, "out_of_range"),
    "empty id": ("id", 0, "", "empty_name"),
    "long id": ("id", 4, "x" * 1025, "too_long"),
    "empty id of an edge": ("id", 1, "", "empty_name"),
    "empty other end": ("edge_other", 1, "", "empty_name"),
    "long other end": ("edge_other", 2, "x" * 1025, "too_long"),
    "relation that is none": ("edge_relation", 1, 99, "unknown_relation"),
    "relation below zero": ("edge_relation", 1, -1, "unknown_relation"),
    "group relation": ("edge_relation", 0, 0, "unknown_relation"),
}
EVENT_OF_EDGE = [0, 1, 3]


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_an_event_that_no_json_could_have_given_is_bad_and_its_neighbours_are_decoded(name):
    column, place, value, reason = BAD_COLUMNS[name]
    expected = decoded(SCHEMA, EVENTS)
    batch = decoded(SCHEMA, EVENTS)
    batch = put(batch, column, place, value)
    event = EVENT_OF_EDGE[place] if column.startswith("edge_") else place
    found, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch), 8)])
    assert [(b.position, b.index, b.reason) for b in bad] == [(8, event, reason)]
    kept = np.arange(len(EVENTS)) != event
    expected.index[:] = np.arange(len(EVENTS))
    assert_same_columns(found, expected.take(kept), but=("position",))
    assert found.index.tolist() == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_a_bad_packed_event_keeps_its_own_bytes_alone(name):
    """A thousand bad events in one message must not make a thousand copies of the message."""
    column, place, value, reason = BAD_COLUMNS[name]
    batch = EventBatch.join([decoded(SCHEMA, EVENTS)] * 200)
    batch = put(batch, column, place, value)
    _, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert len(bad[0].raw) < 2500
    nothing, again = Decoder(SCHEMA).decode([record(bad[0].raw)])
    assert (len(nothing), [event.reason for event in again]) == (0, [reason])


def test_a_missing_group_key_is_bad_unless_the_relation_is_optional():
    batch = decoded(SCHEMA, EVENTS)
    batch = put(batch, "keys", (0, 0), None)  # user
    batch = put(batch, "keys", (1, 6), None)  # by product: optional
    batch = put(batch, "keys", (2, 6), None)
    batch = put(batch, "keys", (2, 0), "x" * 1025)
    found, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert [(b.index, b.reason) for b in bad] == [(0, "missing_field")]
    assert found.keys[2][-1] is None


def test_a_long_group_key_is_bad_in_an_optional_relation_too():
    batch = decoded(SCHEMA, EVENTS)
    batch = put(batch, "keys", (2, 0), "x" * 1025)
    _, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert [(b.index, b.reason) for b in bad] == [(0, "too_long")]


def test_an_event_has_no_more_edges_than_its_type_has():
    batch = decoded(SCHEMA, EVENTS)
    batch.edge_event[:] = [1, 1, 2]  # two of an edge event, one of a label
    _, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert [(b.index, b.reason) for b in bad] == [(1, "wrong_type"), (2, "wrong_type")]
    batch.edge_event[:] = [0, 0, 0]  # all of the node event; the edge event has none
    _, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert [(b.index, b.reason) for b in bad] == [(1, "missing_field")]


def test_a_time_too_far_ahead_of_when_the_log_got_it_is_bad():
    message = encode_packed(SCHEMA, decoded(SCHEMA, EVENTS))
    batch, bad = Decoder(SCHEMA).decode([record(message, appended_at=START + 1 - 86_400)])
    assert [b.reason for b in bad] == ["ts_out_of_range"] * 3
    assert batch.index.tolist() == [0, 1, 3, 5]


def test_a_number_with_a_deviation_is_bounded_by_what_a_running_sum_can_give_back():
    level = SCHEMA.own_slices["rating"].start
    batch = decoded(SCHEMA, EVENTS)
    batch.features[0, level], batch.features[6, level] = LARGEST_LEVEL, LARGEST_LEVEL * 2
    _, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert [(b.index, b.reason) for b in bad] == [(6, "out_of_range")]


def test_a_field_that_a_type_does_not_have_is_neutral_whatever_the_message_says():
    expected = decoded(SCHEMA, EVENTS)
    batch = decoded(SCHEMA, EVENTS)
    batch.target.view(np.uint8)[:] = 7  # any byte but 0 is true
    batch.label[batch.kind != LABEL] = 1
    batch.features[batch.kind != NODE] = math.nan
    batch.ts[batch.kind == RETRACT] = -5.0
    user, *others = batch.keys.tolist()
    columns = ([key or "k" for key in user], *others)
    batch = replace(batch, keys=Texts.of([key for keys in columns for key in keys], len(columns)))
    found, bad = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert bad == []
    assert found.target.tolist() == [kind in (NODE, SCORE) for kind in expected.kind.tolist()]
    assert_same_columns(found, expected, but=("position", "index", "target"))


def test_a_score_event_is_a_target_whatever_the_message_says():
    batch = decoded(SCHEMA, EVENTS)
    batch.target[:] = False
    found, _ = Decoder(SCHEMA).decode([record(encode_packed(SCHEMA, batch))])
    assert found.kind[found.target].tolist() == [SCORE]


# ---- what is no packed batch of this schema ----


def other_world(change: str, to: str) -> Schema:
    assert change in WORLD
    text = WORLD.replace(change, to, 1).format(ttl="3d", half_life="10m")
    return parse_schema(tomllib.loads(text), "other")


OTHER_MEANING = {
    "another channel": ("values = [1, 2, 3]", "values = [1, 2, 4]"),
    "another kind under the same name": ('kind = "log1p"', 'kind = "numeric"'),
    "another vector": ("length = 2", "length = 3"),
    "another relation": ("[relations.user]", "[relations.author]"),
    "another group": ('group_by = ["user"]', 'group_by = ["author"]'),
    "another kind of relation": ('kind = "edge"\nmax_neighbours = 3', 'group_by = ["friend"]'),
}


@pytest.mark.parametrize("name", OTHER_MEANING)
def test_a_batch_packed_for_another_schema_is_refused(name):
    other = other_world(*OTHER_MEANING[name])
    batch, bad = Decoder(other).decode([record(encode_packed(SCHEMA, decoded(SCHEMA, EVENTS)), 8)])
    assert (len(batch), [(b.position, b.reason) for b in bad]) == (0, [(8, "malformed_packed")])
    assert bad[0].detail == (
        f"packed for a schema of layout {SCHEMA.layout!r}, expected {other.layout!r}: "
        "pack it with the schema of the model"
    )


def test_a_batch_packed_before_a_change_that_means_nothing_to_it_is_read():
    for change in (('half_lives = ["1h", "30d"]', 'half_lives = ["2h"]'), ("max_neighbours = 3", "max_neighbours = 9")):
        other = other_world(*change)
        _, bad = Decoder(other).decode([record(encode_packed(SCHEMA, decoded(SCHEMA, EVENTS)))])
        assert bad == []


WRONG_LENGTHS = {
    "kind": (b"\0", "columns that do not fit 1 events"),
    "ts": (b"\0" * 8, "columns that do not fit 7 events"),
    "target": (b"", "columns that do not fit 7 events"),
    "label": (b"\0" * 8, "columns that do not fit 7 events"),
    "features": (b"\0" * 4, "columns that do not fit 7 events"),
    "id": (b"", "id: lengths that do not fit its 0 bytes"),
    "id_length": (np.array([-2, 9, 0, 0, 0, 0, 0], "<i4").tobytes(), "id: lengths that do not fit its 7 bytes"),
    "keys": (b"u" * 7, "keys: lengths that do not fit its 7 bytes"),
    "keys_length": (b"", "columns that do not fit 7 events"),
    "edge_event": (b"\0" * 4, "edge columns of different lengths"),
    "edge_relation": (b"", "edge columns of different lengths"),
    "edge_other": (b"bb", "edge_other: lengths that do not fit its 2 bytes"),
}


@pytest.mark.parametrize("name", WRONG_LENGTHS)
def test_columns_of_different_lengths_are_refused(name):
    value, problem = WRONG_LENGTHS[name]
    assert refusal({name: value}).startswith(problem)


@pytest.mark.parametrize(
    "edge_event",
    [[1, 0, 3], [-1, 1, 3], [0, 1, 7], [0, 1, 2**31 - 1]],
    ids=["out of order", "below the first", "beyond the last", "far beyond"],
)
def test_an_edge_of_no_event_is_refused(edge_event):
    assert refusal({"edge_event": np.array(edge_event, "<i4").tobytes()}) == (
        "edges out of order, or of an event that is not there"
    )


def test_columns_of_other_types_and_unknown_ones_are_refused():
    assert refusal({"ts": [START] * 7}) == "Expected `bytes`, got `array` - at `$.ts`"
    assert refusal({"id": ["a"] * 7}) == "Expected `bytes`, got `array` - at `$.id`"
    assert refusal({"id": b"\xff" * 7}) == "id is not UTF-8"
    halves = {"id": "é".encode() + b"aaaaa", "id_length": np.ones(7, "<i4").tobytes()}
    assert refusal(halves) == "id is not UTF-8"
    assert refusal({"ts": b"\0" * 7}) == "columns that do not fit 7 events, 14 channels, 3 groups"
    assert refusal({"colour": b""}) == "Object contains unknown field `colour`"


COMPENSATING = {
    "a character in two halves": {"id": ("é".encode() + b"aaaaa")[:6], "id_length": [1, 1, 1, 1, 1, 1, 0]},
    "a text that is short": {"id_length": [0, 1, 1, 1, 1, 1, 1]},
    "a text that is long": {"id_length": [2, 1, 1, 1, 1, 1, 1]},
    "fewer keys": {"keys_length": [-1] * 20},
    "more keys": {"keys_length": [-1] * 22},
    "an edge of the next message": {"edge_event": [0, 1, 7]},
    "an edge of the message before": {"edge_event": [-1, 1, 3]},
}


@pytest.mark.parametrize("name", COMPENSATING)
def test_what_a_message_lacks_is_not_taken_from_its_neighbours(name):
    change = {
        column: value if isinstance(value, bytes) else np.array(value, "<i4").tobytes()
        for column, value in COMPENSATING[name].items()
    }
    message = encode_packed(SCHEMA, decoded(SCHEMA, EVENTS))
    columns = msgspec.msgpack.decode(message)
    other = columns | {"id": b"\xa9" + columns["id"]} | {"id_length": np.array([2, *[1] * 6], "<i4").tobytes()}
    changed = msgspec.msgpack.encode(columns | change)
    read = [record(message, 1), record(changed, 2), record(message, 3), record(msgspec.msgpack.encode(other), 4)]
    batch, bad = Decoder(SCHEMA).decode(read)

    assert batch.position.tolist() == [1] * 7 + [3] * 7
    assert [b.position for b in bad] == [2, 4]


def test_messages_read_together_are_those_read_alone():
    sizes = [1, 4, 7, 3]
    read = [record(encode_packed(SCHEMA, decoded(SCHEMA, EVENTS[-n:])), i) for i, n in enumerate(sizes)]
    together, _ = Decoder(SCHEMA).decode(read)
    alone = EventBatch.join([Decoder(SCHEMA).decode([one])[0] for one in read])

    assert_same_columns(together, alone)


def refusal(changes: dict[str, object]) -> str:
    """The detail of the one bad event that a packed message with changed columns is, among sound neighbours."""
    message = encode_packed(SCHEMA, decoded(SCHEMA, EVENTS))
    changed = msgspec.msgpack.encode(msgspec.msgpack.decode(message) | changes)
    neighbour = records(EVENTS[:1], 1)[0]
    batch, bad = Decoder(SCHEMA).decode([neighbour, record(changed, 2), neighbour._replace(position=3)])
    assert batch.position.tolist() == [1, 3]
    assert [(b.position, b.index, b.reason, b.raw) for b in bad] == [(2, 0, "malformed_packed", changed)]
    return bad[0].detail


def test_a_message_cut_anywhere_is_refused():
    message = encode_packed(SCHEMA, decoded(SCHEMA, EVENTS))
    cut = [record(message[:length], length) for length in range(len(message))]
    batch, bad = Decoder(SCHEMA).decode(cut)
    assert (len(batch), {b.reason for b in bad}) == (0, {"malformed_packed"})
    assert len(bad) == len(message)


def test_a_message_that_announces_more_than_it_has_takes_no_memory_for_it():
    for claim in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa2id\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ):
        _, bad = Decoder(SCHEMA).decode([record(claim)])
        assert bad[0].reason == "malformed_packed"
