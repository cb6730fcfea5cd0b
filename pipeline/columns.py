"""Columns: one field of many messages -> the channels of many nodes, or the reason why not.

A column function takes the field's values (`None` where a message has none) and returns

    channels  (n, width) float32
    wrong     {index: (reason, detail)}, empty for a batch without a bad event

so that a good batch costs a few whole-column operations and only a bad one is looked at value by value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compiled import direct
from pipeline.sections import LARGEST, Feature, Log1p, Numeric, OneHot, Vector, text_of
from pipeline.texts import Texts
from pipeline.texts_kernel import BETWEEN, ESCAPE, Parts, join
from pipeline.texts_kernel import Column as TextColumn

Floats = npt.NDArray[np.float32]
Wrong = dict[int, tuple[str, str]]
Column = Callable[[Sequence[Any]], tuple[Floats, Wrong]]

LONGEST_NAME = 1024  # characters of an id or a group key; they are kept in memory as long as the node


def column_of(name: str, feature: Feature) -> Column:
    """Return the column function of a feature that is read from a field (`weekday` is not: see `weekdays`)."""
    match feature:
        case Numeric():
            return lambda values: _numbers(name, values, feature.default, -feature.largest, feature.largest)
        case Log1p():
            return lambda values: _log1p(*_numbers(name, values, feature.default, 0.0, LARGEST))
        case OneHot():
            return _one_hot(name, feature)
        case Vector():
            return lambda values: _vectors(name, values, feature.length)
    raise TypeError(f"a {type(feature).__name__} feature is not read from a field")


def weekdays(ts: npt.NDArray[np.float64]) -> Floats:
    """One-hot day of the week in UTC, Monday first; the epoch began on a Thursday.  # (n, 7)"""
    day = (np.floor(ts / 86400.0).astype(np.int64) + 3) % 7
    return _DAYS.take(day, axis=0)


_DAYS = np.eye(7, dtype=np.float32)


def group_keys(relations: Sequence[Sequence[int]]) -> Callable[[Texts], Texts]:
    """Return what joins each node's values of the fields that a relation groups by into its group key.

    None where one is missing. The parts of a key stay apart: ("a", "bc") and ("ab", "c") are two keys whatever the
    texts hold.

    relations  the fields of each
    returns    (fields, n) -> (relations, n)
    """
    counts = [len(fields) for fields in relations]
    parts = Parts(np.array([*chain.from_iterable(relations)], np.int64), np.cumsum([0, *counts], dtype=np.int64))
    joined = sum(count for count in counts if count > 1)

    def keys(fields: Texts) -> Texts:
        n, texts = fields.length.shape[1], len(fields.data)
        data = np.empty((1 + 2 * joined) * texts + joined * n, np.uint8)
        out = TextColumn(data, np.empty((len(counts), n), np.int64), np.empty((len(counts), n), np.int32))
        used = _join(fields.column, parts, out)
        return Texts(data[:used], out.start, out.length)

    return keys


_join = direct(join)  # `Texts` sees to the types


def texts_of(fields: Sequence[Sequence[Any]]) -> Texts:
    """Return the values of fields, n each, as texts.  # (fields, n)

    A number and its text are the same, and so are 5 and 5.0: producers differ in how they write them.
    """
    texts = list(chain.from_iterable(map(_texts_of, fields)))
    return Texts.of(texts, len(fields))


def _texts_of(values: Sequence[Any]) -> Iterable[str | None]:
    kinds = set(map(type, values))
    if kinds == {int}:
        return map(str, values)
    if kinds <= {str, NoneType}:
        return values
    return [None if value is None else text_of(value) for value in values]


def check_keys(name: str, keys: Texts, optional: bool) -> Wrong:
    """Return what is wrong with a relation's group keys."""
    wrong: Wrong = {}
    for i in np.flatnonzero((keys.length < 0) | (keys.length > LONGEST_NAME)).tolist():
        key = keys[i]
        if key is None and not optional:
            wrong[i] = ("missing_field", f"a field that relation {name} groups by is missing")
        elif key is not None and len(key) > LONGEST_NAME:
            wrong[i] = ("too_long", f"group key of {len(key)} characters for relation {name}, at most {LONGEST_NAME}")
    return wrong


def _numbers(
    name: str, values: Sequence[Any], default: float | None, lowest: float, largest: float
) -> tuple[Floats, Wrong]:
    if default is not None:
        values = [default if value is None else value for value in values]
    if set(map(type, values)) <= {float, int} and (not values or lowest <= min(values) <= max(values) <= largest):
        return np.array(values, dtype=np.float32)[:, None], {}
    numbers, wrong = np.zeros((len(values), 1), np.float32), {}
    for i, value in enumerate(values):
        if value is None:
            wrong[i] = ("missing_field", f"{name} is missing")
        elif type(value) not in (int, float):
            wrong[i] = ("wrong_type", f"{name} is {value!r:.80}, expected a number")
        elif not lowest <= value <= largest:
            wrong[i] = ("out_of_range", f"{name} is {value!r:.80}, expected {lowest:g} to {largest:g}")
        else:
            numbers[i] = value
    return numbers, wrong


def _log1p(numbers: Floats, wrong: Wrong) -> tuple[Floats, Wrong]:
    return np.log1p(numbers), wrong


def _one_hot(name: str, feature: OneHot) -> Column:
    index = {text_of(value): i for i, value in enumerate(feature.values)}
    places = lookup(index)
    rows = np.eye(len(index) + feature.other, dtype=np.float32)

    def column(values: Sequence[Any]) -> tuple[Floats, Wrong]:
        found = places(values)
        wrong: Wrong = {}
        if not feature.other and (found < 0).any():
            wrong = {i: _unknown(name, values[i]) for i in np.flatnonzero(found < 0).tolist()}
        return rows[found], wrong  # -1 takes the last row: `other`, for a missing value too

    return column


def lookup(index: Mapping[str, int]) -> Callable[[Sequence[Any]], npt.NDArray[np.int64]]:
    """Return what finds many values in `index` by their texts; -1 for one that is not there, or missing.

    Values of one type, as they nearly always are, are found as they are: no text is made of them.
    """
    of_type: dict[type, dict[Any, int]] = {
        str: dict(index),
        int: {int(text): place for text, place in index.items() if _is_digits_of_int(text)},
        bool: {word == "true": place for word, place in index.items() if word in ("true", "false")},
    }

    def places(values: Sequence[Any]) -> npt.NDArray[np.int64]:
        kinds = set(map(type, values))
        known = of_type.get(kinds.pop()) if len(kinds) == 1 else None
        if known is not None:
            return np.fromiter(map(known.get, values, repeat(-1)), np.int64, len(values))
        texts = (None if value is None else text_of(value) for value in values)
        return np.array([-1 if text is None else index.get(text, -1) for text in texts], np.int64)

    return places


def _is_digits_of_int(text: str) -> bool:
    """Is the text how an integer is written?"""
    return len(text) < 1000 and text.removeprefix("-").isdecimal() and text == str(int(text))


def _unknown(name: str, value: Any) -> tuple[str, str]:
    if value is None:
        return "missing_field", f"{name} is missing"
    return "unknown_value", f"{name} is {value!r:.80}, which is none of the schema's values"


def _vectors(name: str, values: Sequence[Any], length: int) -> tuple[Floats, Wrong]:
    wrong: Wrong = {}
    try:
        as_long = set(map(len, values)) <= {length}
    except TypeError:  # one is missing
        as_long = False
    if not as_long:
        for i, value in enumerate(values):
            if value is None:
                wrong[i] = ("missing_field", f"{name} is missing")
            elif len(value) != length:
                wrong[i] = ("wrong_length", f"{name} has {len(value)} numbers, the schema says {length}")
        values = [[0.0] * length if i in wrong else value for i, value in enumerate(values)]
    block = np.array(values, dtype=np.float64).reshape(len(values), length)
    if not np.abs(block).max(initial=0.0) <= LARGEST:
        far = ~(np.abs(block).max(axis=1, initial=0.0) <= LARGEST)
        wrong |= {int(i): ("out_of_range", f"{name} has a number beyond {LARGEST:g}") for i in np.flatnonzero(far)}
        block[far] = 0.0
    return block.astype(np.float32), wrong


def split_key(key: str, parts: int) -> list[str]:
    """Return the texts that a group key of so many parts was joined of; of a key that was cut, what is left of them."""
    if parts == 1:
        return [key]
    between, escape = chr(BETWEEN), chr(ESCAPE)
    return [part.replace(escape + "1", between).replace(escape + "0", escape) for part in key.split(between)]
