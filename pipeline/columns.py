"""Columns: one field of many messages -> the channels of many nodes, or the reason why not.

A column function takes the field's values (`None` where a message has none) and returns

    channels  (n, width) float32
    wrong     {index: (reason, detail)}, empty for a batch without a bad event

so that a good batch costs a few whole-column operations and only a bad one is looked at value by value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.schema import Feature, Log1p, Numeric, OneHot, Vector

Floats = npt.NDArray[np.float32]
Wrong = dict[int, tuple[str, str]]
Column = Callable[[Sequence[Any]], tuple[Floats, Wrong]]

LARGEST = 1e30  # a number beyond it would leave float32 on its way through the model


def column_of(name: str, feature: Feature) -> Column:
    """Return the column function of a feature that is read from a field (`weekday` is not: see `weekdays`)."""
    match feature:
        case Numeric():
            return lambda values: _numbers(name, values, feature.default, lowest=-LARGEST)
        case Log1p():
            return lambda values: _log1p(*_numbers(name, values, feature.default, lowest=0.0))
        case OneHot():
            return _one_hot(name, feature)
        case Vector():
            return lambda values: _vectors(name, values, feature.length)
    raise TypeError(f"a {type(feature).__name__} feature is not read from a field")


def weekdays(ts: npt.NDArray[np.float64]) -> Floats:
    """One-hot day of the week in UTC, Monday first; the epoch began on a Thursday.  # (n, 7)"""
    day = (np.floor(ts / 86400.0).astype(np.int64) + 3) % 7
    return np.eye(7, dtype=np.float32)[day]


def group_keys(fields: Sequence[Sequence[Any]], optional: bool) -> tuple[list[str | None], Wrong]:
    """Join each node's values of a relation's fields into its group key; None where an optional one is missing.

    A number and its text are the same key, and so are 5 and 5.0: producers differ in how they write them.
    """
    columns = [_texts(values) for values in fields]
    keys: list[str | None] = columns[0] if len(columns) == 1 else [_join(parts) for parts in zip(*columns, strict=True)]
    wrong: Wrong = {}
    if not optional and None in keys:
        wrong = {i: ("missing_field", "a field of the group is missing") for i, key in enumerate(keys) if key is None}
    if max(map(len, filter(None, keys)), default=0) > LONGEST_NAME:
        wrong |= {i: ("too_long", f"group key of {len(k)} characters, at most {LONGEST_NAME}")
                  for i, k in enumerate(keys) if k and len(k) > LONGEST_NAME}  # fmt: skip
    return keys, wrong


LONGEST_NAME = 1024  # characters of an id or a group key; they are kept in memory as long as the node


def _numbers(name: str, values: Sequence[Any], default: float | None, lowest: float) -> tuple[Floats, Wrong]:
    if default is not None:
        values = [default if value is None else value for value in values]
    if set(map(type, values)) <= {float, int} and (not values or lowest <= min(values) <= max(values) <= LARGEST):
        return np.array(values, dtype=np.float32)[:, None], {}
    numbers, wrong = np.zeros((len(values), 1), np.float32), {}
    for i, value in enumerate(values):
        problem = _number_problem(value, lowest)
        if problem:
            wrong[i] = (problem, f"{name} is {value!r:.80}")
        else:
            numbers[i] = value
    return numbers, wrong


def _number_problem(value: Any, lowest: float) -> str | None:
    if value is None:
        return "missing_field"
    if type(value) not in (int, float):
        return "wrong_type"
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite"
    return None if lowest <= value <= LARGEST else "out_of_range"


def _log1p(numbers: Floats, wrong: Wrong) -> tuple[Floats, Wrong]:
    return np.log1p(numbers), wrong


def _one_hot(name: str, feature: OneHot) -> Column:
    index = {_text(value): i for i, value in enumerate(feature.values)}
    width = len(index) + feature.other
    rows = np.eye(width, dtype=np.float32)

    def column(values: Sequence[Any]) -> tuple[Floats, Wrong]:
        found = [index.get(_text(value), -1) for value in values]  # the text of None is no value's
        wrong: Wrong = {}
        if not feature.other and -1 in found:
            wrong = {i: ("missing_field" if values[i] is None else "unknown_value", f"{name} is {values[i]!r:.80}")
                     for i, place in enumerate(found) if place < 0}  # fmt: skip
        return rows[np.array(found, dtype=np.int64)], wrong  # -1 takes the last row: `other`

    return column


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
    if set(map(type, values)) == {str}:
        return list(values)
    return [None if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is str else str(value)


def _join(parts: tuple[str | None, ...]) -> str | None:
    # Each part's length goes first, so that ("a", "bc") and ("ab", "c") stay two keys.
    if None in parts:
        return None
    return "".join(f"{len(part)}:{part}" for part in parts if part is not None)
