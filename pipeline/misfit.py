"""Where a TOML or JSON tree departs from the struct that it should become, in words for the one who wrote it.

msgspec says that a tree does not fit; this says which key it is, what stands there, and what would be right. It walks
the tree beside msgspec's own description of the struct, so there is no second list of keys and kinds to keep.
"""

import difflib
import json
import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import inspect

# What TOML and JSON hold, in words; bool before int, which it is one of in Python.
_WORDS = ((bool, "true or false"), (str, "a text"), (int, "a whole number"), (float, "a number"), (list, "a list"),
          (tuple, "a list"), (dict, "a table"), (type(None), "null"))  # fmt: skip
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN = 60


def first_misfit(tree: Any, wanted: type) -> str | None:
    """Return `key: what is wrong; what would be right` for the first key of `tree` that does not fit `wanted`."""
    for key, problem in _misfits(tree, inspect.type_info(wanted), ""):
        return f"{key or 'the whole'}: {problem}"
    return None


def join_key(key: str, name: str) -> str:
    """Return the dotted key of `name` within `key`, quoted where TOML would quote it."""
    name = name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return f"{key}.{name}" if key else name


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the hint for a word that is not one of `known`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _misfits(value: Any, wanted: inspect.Type, key: str) -> Iterator[tuple[str, str]]:
    match wanted:
        case inspect.UnionType():
            yield from _union(value, wanted.types, key)
        case inspect.StructType():
            yield from _struct(value, wanted, key)
        case inspect.DictType() if isinstance(value, dict):
            for name, item in value.items():
                yield from _misfits(item, wanted.value_type, join_key(key, name))
        case inspect.ListType() | inspect.VarTupleType() if isinstance(value, list | tuple):
            if len(value) < (wanted.min_length or 0):
                yield key, f"has {len(value)} items, expected at least {wanted.min_length}"
            for i, item in enumerate(value):
                yield from _misfits(item, wanted.item_type, f"{key}[{i}]")
        case inspect.LiteralType() if isinstance(value, str):
            if value not in wanted.values:
                yield key, f"unknown {_show(value)}; {did_you_mean(value, sorted(map(str, wanted.values)))}"
        case inspect.IntType() | inspect.FloatType() if _is_number(value, wanted):
            yield from _bounds(value, wanted, key)
        case inspect.StrType() if isinstance(value, str):
            if len(value) < (wanted.min_length or 0):
                yield key, "is empty"
        case inspect.BoolType() if isinstance(value, bool):
            return
        case _:
            yield key, _wrong_kind(value, _expected(wanted))


def _union(value: Any, kinds: Sequence[inspect.Type], key: str) -> Iterator[tuple[str, str]]:
    """A value, if it is not null; or a table whose tag says which struct it is; or a scalar of several kinds."""
    if value is None and any(isinstance(kind, inspect.NoneType) for kind in kinds):
        return
    kinds = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
    structs = {str(kind.tag): kind for kind in kinds if isinstance(kind, inspect.StructType)}
    if len(kinds) == 1:
        yield from _misfits(value, kinds[0], key)
    elif structs and isinstance(value, dict):
        tag_field = str(next(iter(structs.values())).tag_field)
        tag = value.get(tag_field)
        if isinstance(tag, str) and tag in structs:
            yield from _struct(value, structs[tag], key)
        else:
            found = f"unknown {_show(tag)}; " if tag_field in value else "missing; "
            yield join_key(key, tag_field), found + f"write one of {', '.join(structs)}"
    elif all(any(_misfits(value, kind, key)) for kind in kinds):
        yield key, _wrong_kind(value, _any_of(kinds))


def _struct(value: Any, wanted: inspect.StructType, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        yield key, _wrong_kind(value, "a table")
        return
    fields = {field.encode_name: field for field in wanted.fields}
    tag = [wanted.tag_field] if wanted.tag_field else []
    for name in value:
        if name not in fields and name not in tag:
            yield join_key(key, name), f"unknown key; {did_you_mean(name, [*tag, *fields])}"
    for name, field in fields.items():
        if name in value:
            yield from _misfits(value[name], field.type, join_key(key, name))
        elif field.required:
            yield join_key(key, name), f"missing; expected {_expected(field.type)}"


def _is_number(value: Any, wanted: inspect.IntType | inspect.FloatType) -> bool:
    return type(value) is int or (type(value) is float and isinstance(wanted, inspect.FloatType))


def _bounds(value: float, wanted: inspect.IntType | inspect.FloatType, key: str) -> Iterator[tuple[str, str]]:
    for bound, holds, words in (
        (wanted.ge, operator.ge, "at least"),
        (wanted.gt, operator.gt, "above"),
        (wanted.le, operator.le, "at most"),
        (wanted.lt, operator.lt, "below"),
    ):
        if bound is not None and not holds(value, bound):
            yield key, f"is {value}, expected {words} {bound:g}"


def _expected(wanted: inspect.Type) -> str:
    match wanted:
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.ListType() | inspect.VarTupleType():
            return "a list"
        case inspect.LiteralType():
            return f"one of {', '.join(sorted(map(str, wanted.values)))}"
        case inspect.UnionType():
            return _any_of(wanted.types)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
    return "a number" if isinstance(wanted, inspect.FloatType) else "a text"


def _any_of(kinds: Sequence[inspect.Type]) -> str:
    words = {_expected(kind) for kind in kinds if not isinstance(kind, inspect.NoneType)}
    return " or ".join(sorted(words - {"a whole number"} if "a number" in words else words))


def _wrong_kind(value: Any, expected: str) -> str:
    found = next((words for kind, words in _WORDS if isinstance(value, kind)), "a date or time")
    quote = ": put it in quotes" if found == "a date or time" and "a text" in expected else ""
    return f"is {found}, {_show(value)}; expected {expected}{quote}"


def _show(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = repr(value) if isinstance(value, str | list | dict | tuple) else text
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
