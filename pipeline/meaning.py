"""What a schema means by the fields of a message, laid out for the compiled code that turns fields into events."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from pipeline.columns_kernel import (
    FEATURE,
    LOG1P,
    NUMERIC,
    OF_FEATURES,
    OF_LABELS,
    OF_RELATIONS,
    OF_TYPES,
    ONE_HOT,
    VECTOR,
    WEEKDAY,
    Meaning,
)
from pipeline.fields import Form
from pipeline.names import Names
from pipeline.schema import Schema, source_of
from pipeline.sections import EVENT_TYPES, Labels, Log1p, Numeric, OneHot, Vector, Weekday, text_of
from pipeline.texts_kernel import Parts

_KINDS = {Numeric: NUMERIC, Log1p: LOG1P, OneHot: ONE_HOT, Vector: VECTOR, Weekday: WEEKDAY}
Codes = dict[str, int]


def meaning_of(schema: Schema, form: Form) -> Meaning:
    """Return what `schema` means by the fields of `form`, which is its own."""
    one_hots = {name: feature for name, feature in schema.features.items() if isinstance(feature, OneHot)}
    spaces = {name: space for space, name in enumerate(one_hots, OF_FEATURES)}
    words = {OF_TYPES: types_of(schema), OF_LABELS: labels_of(schema.labels), OF_RELATIONS: edge_relations(schema)}
    words |= {spaces[name]: {text_of(v): i for i, v in enumerate(f.values)} for name, f in one_hots.items()}
    features = [_feature(schema, form, name, spaces.get(name, 0)) for name in schema.features]
    earliest, latest, max_ahead = map(float, (*schema.ts_range, schema.max_ahead))  # of one type: see `direct`
    return Meaning(
        words=_table(words),
        codes=np.array([*chain.from_iterable(codes.values() for codes in words.values())], np.int32),
        features=np.array(features, FEATURE),
        parts=_parts([[form.text[path] for path in relation.group_by] for _, relation in schema.groups]),
        optional=np.array([relation.optional for _, relation in schema.groups], np.bool_),
        type=form.text[schema.events.type], id=form.text[schema.path("id")], src=form.text[schema.path("src")],
        label=form.text[schema.path("label")], relation=form.text[schema.path("relation")],
        dst=form.text[schema.path("dst")],
        ts=form.place[schema.path("ts")], target=form.place[schema.path("target")],
        edges=form.place[schema.path("edges")],
        default_type=EVENT_TYPES.index(schema.events.default_type), default_target=schema.nodes.target,
        per_second={"seconds": 1.0, "milliseconds": 1000.0}.get(schema.time.unit, 0.0),
        late=schema.time.missing == "log", earliest=earliest, latest=latest, max_ahead=max_ahead,
    )  # fmt: skip


def types_of(schema: Schema) -> Codes:
    """Return the code that each word for an event's type stands for: our own words, and the application's."""
    ours = {word: code for code, word in enumerate(EVENT_TYPES)}
    return ours | {word: ours[type_] for word, type_ in schema.events.types.items()}


def labels_of(labels: Labels) -> Codes:
    """Return what each word of a label stands for: 1 spam, 0 not."""
    return {text_of(word): 1 for word in labels.spam} | {text_of(word): 0 for word in labels.not_spam}


def edge_relations(schema: Schema) -> Codes:
    """Return the index of each relation of edges."""
    return {name: r for r, (name, relation) in enumerate(schema.relations.items()) if relation.kind == "edge"}


def _table(words: Mapping[int, Codes]) -> Any:
    """Return the words of all spaces, each with its place among them."""
    return Names.of([*chain.from_iterable(words.values())], [space for space in words for _ in words[space]]).table


def _parts(rows: Sequence[Sequence[int]]) -> Parts:
    counts = [len(row) for row in rows]
    return Parts(np.array([*chain.from_iterable(rows)], np.int64), np.cumsum([0, *counts], dtype=np.int64))


def _feature(schema: Schema, form: Form, name: str, space: int) -> tuple[Any, ...]:
    feature, channels, path = schema.features[name], schema.own_slices[name], source_of(name, schema.features[name])
    place, row = (0, 0) if path is None else (form.place[path], form.text.get(path, 0))
    lowest, largest = getattr(feature, "bounds", (0.0, 0.0))
    default = getattr(feature, "default", None)
    other = getattr(feature, "other", False)
    return (
        _KINDS[type(feature)], channels.start, channels.stop - channels.start, place, row, space, other,
        np.nan if default is None else default, lowest, largest,
    )  # fmt: skip
