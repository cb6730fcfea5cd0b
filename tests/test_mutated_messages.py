"""A hundred thousand mutated messages of every form, with odd topics and keys: none raises, none is lost, no unsound
number passes."""

import json
import math
import tomllib
from collections import Counter
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import START, WORLD, random_model

from pipeline.decoder import Decoder
from pipeline.events import EDGE, NODE, REASONS, RETRACT, BadEvent, EventBatch
from pipeline.log import JSON, PACKED, TOMBSTONE, Record
from pipeline.messages import dead_letters
from pipeline.packed_codec import encode_packed
from pipeline.schema import parse_schema
from pipeline.scorer import Scorer
from pipeline.sections import LARGEST

# Times are believed for two months only: one false time far ahead would make all that follow look long past.
MORE = """
[time]
earliest = "2001-08-01"
latest = "2001-10-01"  # START is 2001-09-09
[events.topics.verdicts]
type = "kind"
default_type = "label"
fields = { id = "src", label = "target" }
tombstones = "ignore"
"""
SCHEMA = parse_schema(tomllib.loads(WORLD.format(ttl="3d", half_life="10m") + MORE), "graph.toml")
TOPICS = ["", "reviews", "verdicts", "verdicts ", "\u20ac"]
KEYS = [None, "", "n1", "n" * 1025, "\udcff", "n\0", "\u20ac", "\udc80n1\udcfe", "3"]
MESSAGES, CHUNK = 100_000, 1_000
EXTREMES: list[Any] = [
    None, True, False, 0, -1, 1, 5.0, 1e300, -1e300, 5e-324, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400,
    math.nan, math.inf, -math.inf, START, START * 1000, LARGEST, 2 * LARGEST, "", "a", "node", "edge", "retract",
    "label", "score", "friend", "replies_to", "user", "n" * 2000, "\0", "\ud800", "\u20ac", "1", "NaN", "2001-09-09",
    [], {}, [None], [[]], [1.0, 2.0], [1e300, 1], [["friend", "n1"]], [["friend", ""]], [["replies_to", 7]], {"id": 1},
]  # fmt: skip
STRANGE_COLUMNS: list[Any] = [None, 5, "x", b"", b"1", [], [None], [[]], {}]
STRANGE_TEXTS = [None, "", "x" * 1025, "a"]


def test_a_hundred_thousand_mutated_messages_raise_nothing():
    mutations, decoder, model = Mutations(seed=20210914), Decoder(SCHEMA), random_model(SCHEMA)
    reasons: Counter[str] = Counter()
    events, scores, scorer = 0, 0, Scorer(model)
    for _ in range(MESSAGES // CHUNK):
        records = mutations.take(CHUNK)
        batch, bad = decoder.decode(records)
        assert_sound(batch)
        assert_every_message_accounted_for(records, batch, bad)
        for letter in dead_letters(bad):
            msgspec.json.decode(letter.value)
        scored = scorer.score(batch)
        assert np.isfinite(scored.score).all()
        events, scores = events + len(batch), scores + len(scored.score)
        reasons.update(event.reason for event in bad)
        if scorer.graph.watermark > START + 86_400:
            scorer = Scorer(model)  # soon all would be older than ttl
    assert events > MESSAGES / 5  # else the mutations are too wild to get past the first check
    assert scores > MESSAGES / 20
    assert set(reasons) == set(REASONS) - {"expired", "too_large"}  # of the graph; of messages beyond 4 MiB


def assert_sound(batch: EventBatch) -> None:
    """Nothing that the graph must not see."""
    assert (np.abs(batch.features) <= LARGEST).all()
    assert np.isfinite(batch.ts[batch.kind != RETRACT]).all()
    assert batch.kind.max(initial=0) <= RETRACT
    assert all(0 < len(name) <= 1024 for name in (*batch.id, *batch.edge_other))
    assert all(SCHEMA.relations[SCHEMA.relation_names[r]].kind == "edge" for r in set(batch.edge_relation.tolist()))
    assert (np.bincount(batch.edge_event, minlength=len(batch))[batch.kind == EDGE] == 1).all()
    assert all((key is not None) == (kind == NODE) for key, kind in zip(batch.keys[0], batch.kind, strict=True))
    order = list(zip(batch.position.tolist(), batch.index.tolist(), strict=True))
    assert order == sorted(set(order))


def assert_every_message_accounted_for(records: list[Record], batch: EventBatch, bad: list[BadEvent]) -> None:
    """Each JSON message is one event, good or bad; a packed one is malformed as a whole, or gives all of its events."""
    found: dict[int, list[int]] = {record.position: [] for record in records}
    for position, index in zip(batch.position.tolist(), batch.index.tolist(), strict=True):
        found[position].append(index)
    for event in bad:
        assert event.reason in REASONS
        found[event.position].append(event.index)
    assert [(event.position, event.index) for event in bad] == sorted((event.position, event.index) for event in bad)
    for record in records:
        indices = sorted(found[record.position])
        ignored = record.content_type == TOMBSTONE and record.topic == "verdicts"
        assert indices == (list(range(len(indices))) if record.content_type == PACKED else [0] * (not ignored))


TIMED_BY_THE_LOG = msgspec.structs.replace(SCHEMA, time=msgspec.structs.replace(SCHEMA.time, missing="log"))
NODE_EVENT = b'{"id":"a","ts":1000000000,"stars":1,"user":"u","embedding":[0,0]}'
VERDICT, WITHDRAWN = b'{"src":"a","ts":1000000000,"target":1}', b'{"kind":"retract","src":"a"}'
RECORDS = st.lists(
    st.builds(
        Record,
        position=st.integers(0, 2**62),
        value=st.sampled_from([b"", b"{}", NODE_EVENT, VERDICT, WITHDRAWN]) | st.binary(max_size=60),
        key=st.sampled_from(KEYS) | st.text(st.characters(), max_size=3),
        content_type=st.sampled_from([JSON, PACKED, TOMBSTONE, "", "\udcff"]),
        appended_at=st.floats(),
        topic=st.sampled_from(TOPICS),
        offset=st.integers(-1, 2**62),
    ),
    max_size=12,
    unique_by=lambda record: record.position,
)


@settings(max_examples=300)
@given(RECORDS, st.sampled_from([SCHEMA, TIMED_BY_THE_LOG]))
def test_no_record_raises_whatever_its_topic_key_time_and_type(records, schema):
    records = sorted(records, key=lambda record: record.position)
    batch, bad = Decoder(schema).decode(records)
    assert_sound(batch)
    assert_every_message_accounted_for(records, batch, bad)
    by_position = {record.position: record for record in records}
    for event, letter in zip(bad, dead_letters(bad), strict=True):
        record = by_position[event.position]
        assert (event.key, event.topic, event.offset) == (record.key, record.topic, record.offset)
        assert letter.key == record.key


class Mutations:
    """An endless source of mutated messages of every form in random order; some say a false content type."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.plain = [msgspec.json.encode(good_event(self.rng, START + 10.0 * i)) for i in range(500)]
        decoder = Decoder(SCHEMA)
        self.sealed = [self._seal(decoder) for _ in range(300)]

    def take(self, n: int) -> list[Record]:
        return [self._record(position) for position in range(n)]

    def _seal(self, decoder: Decoder) -> bytes:
        """A packed message; in half of them one number is one that no JSON event could have."""
        rng = self.rng
        start = int(rng.integers(len(self.plain) - 8))
        values = self.plain[start : start + int(rng.integers(1, 8))]
        batch, _ = decoder.decode([Record(i, value, None, JSON, math.nan) for i, value in enumerate(values)])
        column = getattr(batch, str(rng.choice(["kind", "ts", "label", "features", "edge_event", "edge_relation"])))
        if column.size and rng.random() < 0.5:
            strange = [np.nan, np.inf, -np.inf, 3e38, -1e30, 5e9] if column.dtype.kind == "f" else [-1, 2, 5, 9, 100]
            column.flat[int(rng.integers(column.size))] = np.array(rng.choice(strange)).astype(column.dtype)
        return encode_packed(SCHEMA, batch)

    def _record(self, position: int) -> Record:
        rng, is_json = self.rng, self.rng.random() < 0.75
        pool, swap = (self.plain, swap_fields) if is_json else (self.sealed, swap_columns)
        value, other = (pool[int(i)] for i in rng.integers(0, len(pool), 2))
        how = rng.random()
        if how < 0.7:
            value = swap(rng, value, other)
        if how > 0.6:
            value = BYTE_MUTATIONS[int(rng.integers(len(BYTE_MUTATIONS)))](rng, value, other)
        content_type = JSON if is_json else PACKED
        if rng.random() < 0.01:
            content_type = str(rng.choice([JSON, PACKED, TOMBSTONE, "text/plain"]))
        if rng.random() < 0.05:
            value, content_type = b"", TOMBSTONE
        key, topic = KEYS[int(rng.integers(len(KEYS)))], TOPICS[int(rng.choice(5, p=[0.4, 0.4, 0.1, 0.05, 0.05]))]
        appended_at = START + float(rng.integers(1000))
        return Record(position, value, key, content_type, appended_at, (), topic, int(rng.integers(10**6)))


def good_event(rng: np.random.Generator, ts: float) -> dict[str, Any]:
    """An event of any type about a few nodes."""
    one, other = (f"n{k}" for k in rng.integers(0, 40, 2))
    relation = ("friend", "replies_to")[int(rng.integers(2))]
    link = {"relation": relation, "src": one, "dst": other}
    node = {"id": one, "ts": ts, "stars": int(rng.integers(1, 4)), "user": int(rng.integers(5)), "product": "p"}
    node |= {"embedding": [0.5, -1.0], "amount": float(rng.random())}
    events: list[dict[str, Any]] = [
        node,
        node | {"edges": [[relation, other]], "target": bool(rng.integers(2))},
        {"type": "edge", "ts": ts, **link},
        {"type": "score", "id": one, "ts": ts},
        {"type": "label", "id": one, "ts": ts, "label": int(rng.integers(2))},
        {"type": "retract", "id": one},
        {"type": "retract", **link},
    ]
    return events[int(rng.choice(7, p=[0.35, 0.15, 0.1, 0.15, 0.1, 0.05, 0.1]))]


def swap_fields(rng: np.random.Generator, value: bytes, other: bytes) -> bytes:
    """Give one or two fields extreme values, or those of another message; or drop them."""
    fields: dict[str, Any] = json.loads(value)
    strangers = json.loads(other)
    for _ in range(int(rng.integers(1, 3))):
        name = str(rng.choice(["type", "id", "ts", "stars", "embedding", "edges", "amount", "label", *fields]))
        match int(rng.integers(5)):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[name] = strangers[str(rng.choice(list(strangers)))]
            case _:
                fields[name] = EXTREMES[int(rng.integers(len(EXTREMES)))]
    return json.dumps(fields).encode()


def swap_columns(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    """Give a column of a packed message the bytes of another, random ones of the same length, or none; or drop it."""
    columns: dict[str, Any] = msgspec.msgpack.decode(value)
    name, other = (str(rng.choice(list(columns))) for _ in range(2))
    match int(rng.integers(6)):
        case 0:
            del columns[name]
        case 1:
            columns[name] = columns[other]
        case 2:
            columns[name] = columns[name][:-1]
        case 3:
            columns[name] = STRANGE_COLUMNS[int(rng.integers(len(STRANGE_COLUMNS)))]
        case _ if isinstance(columns[name], bytes):
            columns[name] = rng.bytes(len(columns[name]))
        case _ if isinstance(columns[name], list):
            columns[name] = [STRANGE_TEXTS[int(rng.integers(len(STRANGE_TEXTS)))] for _ in columns[name]]
    return msgspec.msgpack.encode(columns)


def flip(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    place = int(rng.integers(len(value)))
    return value[:place] + bytes([value[place] ^ (1 << int(rng.integers(8)))]) + value[place + 1 :]


def overwrite(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    start, length = int(rng.integers(len(value))), int(rng.integers(1, 9))
    return value[:start] + rng.bytes(length) + value[start + length :]


def delete(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    start = int(rng.integers(len(value)))
    return value[:start] + value[start + int(rng.integers(1, 20)) :]


def truncate(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    return value[: int(rng.integers(len(value)))]


def splice(rng: np.random.Generator, value: bytes, other: bytes) -> bytes:
    return value[: int(rng.integers(len(value)))] + other[int(rng.integers(len(other))) :]


def repeat(rng: np.random.Generator, value: bytes, _: bytes) -> bytes:
    start, stop = sorted(rng.integers(0, len(value) + 1, 2).tolist())
    return value[:stop] + value[start:stop] * int(rng.integers(1, 4)) + value[stop:]


BYTE_MUTATIONS = (flip, overwrite, delete, truncate, splice, repeat)
