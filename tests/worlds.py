"""Small worlds for property tests: a schema with every kind of relation, random models, random event sequences."""

import tomllib
from dataclasses import fields

import msgspec
import numpy as np
from hypothesis import strategies as st

from pipeline.decoder import Decoder
from pipeline.events import EventBatch
from pipeline.log import Record
from pipeline.model import Branch, Layer, Model
from pipeline.schema import Schema, parse_schema
from pipeline.sections import text_of
from pipeline.transform import fit_transform

START = 1_000_000_000.0  # seconds since the epoch: within the range that schemas believe

WORLD = """
name = "world"
[nodes]
ttl = "{ttl}"
[features.stars]
kind = "one_hot"
values = [1, 2, 3]
[features.rating]
kind = "numeric"
field = "stars"
deviation = true
[features.amount]
kind = "log1p"
default = 1.0
deviation = true
[features.embedding]
kind = "vector"
length = 2
[features.weekday]
kind = "weekday"
[labels]
half_lives = ["1h", "30d"]
[relations.user]
group_by = ["user"]
[relations.product_stars]
group_by = ["product", "stars"]
optional = true
[relations.product_now]
group_by = ["product"]
half_life = "{half_life}"
optional = true
[relations.friend]
kind = "edge"
max_neighbours = 3
[relations.replies_to]
kind = "edge"
directed = true
half_life = "1h"
"""


def world(ttl: str = "3d", half_life: str = "10m") -> Schema:
    return parse_schema(tomllib.loads(WORLD.format(ttl=ttl, half_life=half_life)), "world")


def random_model(schema: Schema, seed: int = 0, width: int = 3, pruned: bool = False) -> Model:
    """A model with random weights; `pruned` makes every branch read its own random half of the channels."""
    rng = np.random.default_rng(seed)
    channels = len(schema.channel_names)
    transform = fit_transform("standardised", rng.normal(1, 2, (50, channels)).astype(np.float32), schema.indicators)
    branches = 1 + len(schema.relations)
    keeps = [_keep(rng, channels, pruned) for _ in range(branches)]
    input_keep = np.unique(np.concatenate(keeps)).astype(np.int32)
    first = Layer([_branch(rng, np.searchsorted(input_keep, keep), width) for keep in keeps])
    second = Layer([_branch(rng, _keep(rng, first.width, pruned), width) for _ in range(branches)])
    return Model(
        schema=schema,
        transform=transform,
        input_keep=input_keep,
        layers=(first, second),
        weight=rng.normal(0, 1, second.width).astype(np.float32),
        bias=0.1,
        threshold=0.5,
    )


def _keep(rng: np.random.Generator, channels: int, pruned: bool) -> np.ndarray:
    return np.sort(rng.permutation(channels)[: channels // 2]) if pruned else np.arange(channels)


def _branch(rng: np.random.Generator, keep: np.ndarray, width: int) -> Branch:
    weight = rng.normal(0, 1 / np.sqrt(len(keep)), (len(keep), width))
    return Branch(keep.astype(np.int32), weight.astype(np.float32), rng.normal(0, 0.3, width).astype(np.float32))


# Few names, so that events meet: nodes are updated, retracted, named before they come; lists fill and empty.
_IDS = st.sampled_from([f"n{i}" for i in range(8)])
_STEPS = st.sampled_from([0.0, 1.0, 60.0, 3600.0, 40_000.0, 100_000.0, -30.0, -5000.0])


@st.composite
def event_sequences(draw: st.DrawFn, most: int = 60) -> list[dict]:
    """JSON events of every type, mostly forward in time, now and then late, repeated, or about the unknown."""
    now, events = START, []
    for _ in range(draw(st.integers(1, most))):
        now += draw(_STEPS)
        events.append(draw(st.one_of(_node(now), _node(now), _edge(now), _score(now), _label(now), _retract())))
        if draw(st.integers(0, 9)) == 0:
            events.append(events[-1])  # producers retry
    return events


def _node(now: float) -> st.SearchStrategy[dict]:
    edge = st.tuples(st.sampled_from(["friend", "replies_to"]), _IDS).map(list)
    return st.fixed_dictionaries(
        {
            "id": _IDS,
            "ts": st.just(now),
            "stars": st.integers(1, 3),
            "user": st.sampled_from("uv"),
            "product": st.sampled_from(["p", "q", None]),
            "embedding": st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)).map(list),
        },
        optional={
            "amount": st.floats(0, 1e6),
            "edges": st.lists(edge, max_size=3),
            "target": st.booleans(),
        },
    )


def _edge(now: float) -> st.SearchStrategy[dict]:
    relations = st.sampled_from(["friend", "replies_to"])
    return st.fixed_dictionaries(
        {"type": st.just("edge"), "relation": relations, "src": _IDS, "dst": _IDS, "ts": st.just(now)}
    )


def _score(now: float) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({"type": st.just("score"), "id": _IDS, "ts": st.just(now)})


def _label(now: float) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({"type": st.just("label"), "id": _IDS, "label": st.integers(0, 1), "ts": st.just(now)})


def _retract() -> st.SearchStrategy[dict]:
    edge = {"relation": st.sampled_from(["friend", "replies_to"]), "src": _IDS, "dst": _IDS}
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("retract"), "id": _IDS}),
        st.fixed_dictionaries({"type": st.just("retract"), **edge}),
    )


def records(events: list[dict], start: int = 0) -> list[Record]:
    """The events as a log would give them back."""
    encoded = map(msgspec.json.encode, events)
    return [Record(i, value, None, "application/json", float("nan")) for i, value in enumerate(encoded, start)]


COLUMNS = [column.name for column in fields(EventBatch) if column.init]


def decoded(schema: Schema, events: list[dict]) -> EventBatch:
    batch, bad = Decoder(schema).decode(records(events))
    assert bad == []
    return batch


def joined_key(values):
    """The group key of a node with these values of the fields that a relation groups by, in the plainest way."""
    if None in values:
        return None
    texts = [text_of(value) for value in values]
    if len(texts) == 1:
        return texts[0]
    return "\x1f".join(text.replace("\x1e", "\x1e0").replace("\x1f", "\x1e1") for text in texts)
