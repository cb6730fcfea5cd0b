"""What is wrong with a column, value by value: only what is bad, or may be, is looked at like this."""

from typing import Any

import numpy as np

from pipeline.names_kernel import LONGEST_NAME
from pipeline.sections import Feature, Log1p, Numeric, OneHot, Vector, text_of
from pipeline.texts import Texts
from pipeline.texts_kernel import BETWEEN, ESCAPE

Problem = tuple[str, str]  # a reason, and the detail
Wrong = dict[int, Problem]  # by event


def problem_of(name: str, feature: Feature, value: Any) -> Problem | None:
    """Return why a feature cannot be read from the value of its field, None where it can."""
    if value is None:
        optional = getattr(feature, "default", None) is not None or getattr(feature, "other", False)
        return None if optional else ("missing_field", f"{name} is missing")
    match feature:
        case Numeric() | Log1p():
            return _number_problem(name, value, *feature.bounds)
        case OneHot() if not feature.other and text_of(value) not in map(text_of, feature.values):
            return "unknown_value", f"{name} is {value!r:.80}, which is none of the schema's values"
        case Vector():
            return _vector_problem(name, value, feature)
    return None


def _number_problem(name: str, value: Any, lowest: float, largest: float) -> Problem | None:
    if type(value) not in (int, float):
        return "wrong_type", f"{name} is {value!r:.80}, expected a number"
    if not lowest <= value <= largest:
        return "out_of_range", f"{name} is {value!r:.80}, expected {lowest:g} to {largest:g}"
    return None


def _vector_problem(name: str, value: Any, feature: Vector) -> Problem | None:
    lowest, largest = feature.bounds
    if len(value) != feature.length:
        return "wrong_length", f"{name} has {len(value)} numbers, the schema says {feature.length}"
    if not all(lowest <= number <= largest for number in value):
        return "out_of_range", f"{name} has a number beyond {largest:g}"
    return None


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


def split_key(key: str, parts: int) -> list[str]:
    """Return the texts that a group key of so many parts was joined of; of a key that was cut, what is left of them."""
    if parts == 1:
        return [key]
    between, escape = chr(BETWEEN), chr(ESCAPE)
    return [part.replace(escape + "1", between).replace(escape + "0", escape) for part in key.split(between)]
