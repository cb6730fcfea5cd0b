"""Columns: one field of many messages -> the channels of many nodes, or the reason why not.

A column function takes the field's values (`None` where a message has none) and returns

    channels  (n, width) float32
    wrong     {index: (reason, detail)}, empty for a batch without a bad event

so that a good batch costs a few whole-column operations and only a bad one is looked at value by value.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.sections import LARGEST, Feature, Log1p, Numeric, OneHot, Vector, text_of

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
    return np.eye(7, dtype=np.float32)[day]


def group_keys(fields: Sequence[Sequence[Any]]) -> list[str | None]:
    """Join each node's values of a relation's fields into its group key; None where one is missing.

    A number and its text are the same key, and so are 5 and 5.0: producers differ in how they write them.
    """
    columns = [_texts(values) for values in fields]
    return columns[0] if len(columns) == 1 else _joined(columns)


def check_keys(name: str, keys: Sequence[Any], optional: bool) -> Wrong:
    """Return what is wrong with a relation's group keys, which are texts or None."""
    try:
        if max(map(len, keys), default=0) <= LONGEST_NAME:
            return {}
    except TypeError:  # None has no length
        pass
    wrong: Wrong = {}
    for i, key in enumerate(keys):
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
    index: dict[str | None, int] = {text_of(value): i for i, value in enumerate(feature.values)}
    rows = np.eye(len(index) + feature.other, dtype=np.float32)

    def column(values: Sequence[Any]) -> tuple[Floats, Wrong]:
        found = [index.get(text, -1) for text in _texts(values)]
        wrong: Wrong = {}
        if not feature.other and -1 in found:
            wrong = {i: _unknown(name, values[i]) for i, place in enumerate(found) if place < 0}
        return rows[np.array(found, dtype=np.int64)], wrong  # -1 takes the last row: `other`, for a missing value too

    return column


def _unknown(name: str, value: Any) -> tuple[str, str]:
    if value is None:
        return "missing_field", f"{name} is missing"
    return "unknown_value", f"{name} is {value!r:.80}, which is none of the schema's values"


def _vectors(name: str, values: Sequence[Any], length: int) -> tuple[Floats, Wrong]:
    wrong: Wrong = {}
    if any(value is None or len(value) != length for value in values):
        for i, value in enumerate(values):
            if value is None:
                wrong[i] = ("missing_field", f"{name} is missing")
            elif len(value) != length:
                wrong[i] = ("wrong_length", f"{name} has {len(value)} numbers, the schema says {length}")
        values = [[0.0] * length if i in wrong else value for i, value in enumerate(values)]
    block = np.array(values, dtype=np.float64).reshape(len(values), length)
    far = ~(np.abs(block).max(axis=1, initial=0.0) <= LARGEST)
    wrong |= {int(i): ("out_of_range", f"{name} has a number beyond {LARGEST:g}") for i in np.flatnonzero(far)}
    block[far] = 0.0
    return block.astype(np.float32), wrong


def _texts(values: Sequence[Any]) -> list[str | None]:
    kinds = set(map(type, values))
    if kinds == {str}:
        return list(values)
    if kinds == {int}:
        return list(map(str, values))
    return [None if value is None else text_of(value) for value in values]


_BETWEEN, _ESCAPE = "\x1f", "\x1e"  # two control characters; the second stands for both where a text has one of them


def _joined(columns: Sequence[Sequence[Any]]) -> list[str | None]:
    """Join the parts of each key, so that ("a", "bc") and ("ab", "c") stay two keys whatever the texts hold."""
    try:
        every = "".join(map("".join, columns))
    except TypeError:  # None is no text
        every = _ESCAPE
    if _BETWEEN not in every and _ESCAPE not in every:
        return list(map(_BETWEEN.join, zip(*columns, strict=True)))
    return [None if None in parts else _BETWEEN.join(map(_escaped, parts)) for parts in zip(*columns, strict=True)]


def _escaped(part: str) -> str:
    return part.replace(_ESCAPE, _ESCAPE + "0").replace(_BETWEEN, _ESCAPE + "1")


def split_key(key: str, parts: int) -> list[str]:
    """Return the texts that a group key of so many parts was joined of; of a key that was cut, what is left of them."""
    if parts == 1:
        return [key]
    return [part.replace(_ESCAPE + "1", _BETWEEN).replace(_ESCAPE + "0", _ESCAPE) for part in key.split(_BETWEEN)]
