"""Fields of JSON messages as columns, without a Python object's look at each.

    JSON --msgspec--> a struct a message --msgspec--> msgpack --compiled code--> columns

msgspec reads what comes from outside, and says what is wrong with it. What it has read it writes again in a form that
compiled code need not check: the fields that the schema reads, in one order, without those that are missing. All else
in a message is skipped unread. A field that is null, or whose object is missing or null, is a missing field.
"""

import math
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from pipeline.compiled import direct
from pipeline.fields_kernel import FOUND, LARGE, MOST_DIGITS, REAL, UNSIGNED, Places, read_fields
from pipeline.schema import Schema
from pipeline.sections import LARGEST, Scalar, text_of
from pipeline.texts import NONE, Texts
from pipeline.texts_kernel import Column

PIECE = 64  # messages: between two pieces a thread that scores may go on
_Name = str | int | float | None
_TYPES: dict[str, Any] = {  # what msgspec is to demand where the schema reads a place in this form
    "text": str | None,
    "name": _Name,
    "number": float | None,
    "scalar": Scalar | None,
    "flag": bool | None,
    "vector": list[float] | None,
    "edges": list[tuple[str, str | int | float]] | None,
}
_TEXTUAL = ("text", "name", "scalar")  # forms of what is compared by its text
_read_fields = direct(read_fields)
_encode = msgspec.msgpack.Encoder().encode


class Form:
    """What a schema reads of a message."""

    def __init__(self, schema: Schema) -> None:
        forms: dict[str, str] = {}
        for read in schema.reads:  # a place that is read in two forms is read as any scalar, and checked by each reader
            forms[read.path] = read.form if forms.get(read.path, read.form) == read.form else "scalar"
        self.get: dict[str, Callable[[Any], Any]] = {}  # by path, what takes its value from a struct
        self._keys: list[tuple[str, int, bool]] = []  # of each place: its key, its depth, whether it is a map
        self.place: dict[str, int] = {}  # by path, those that are no maps
        self.decode = msgspec.json.Decoder(self._struct(_tree(forms), "", "", 0)).decode
        keys, depths, maps = zip(*self._keys, strict=True)
        self.places = Places(Texts.of(keys).column, np.array(depths, np.int64), np.array(maps, np.bool_))
        self.depth = max(depths)
        textual = [path for path in forms if forms[path] in _TEXTUAL]
        self.text = {path: row for row, path in enumerate(textual)}  # by path, the row among all texts
        self.textual = np.array([self.place[path] for path in textual], np.int64)

    def fields(self, values: Sequence[bytes]) -> "Fields":
        """Return the fields of messages; ValueError or RecursionError where one of them is bad."""
        messages: list[Any] = []
        pieces: list[bytes] = []
        for start in range(0, len(values), PIECE):
            piece = list(map(self.decode, values[start : start + PIECE]))
            pieces.append(_packed(piece))
            messages += piece
        return Fields(self, messages, pieces)

    def _struct(self, tree: dict[str, Any], path: str, attribute: str, depth: int) -> Any:
        """Return the struct that a message, or an object in it, is decoded into."""
        fields: list[Any] = []
        rename: dict[str, str] = {}
        empty: dict[str, Any] = {}  # by attribute, what stands for an object that is missing or null
        for i, (key, wanted) in enumerate(tree.items()):
            name = f"f{i}"
            rename[name] = key
            is_map = isinstance(wanted, dict)
            if not is_map:
                self.place[f"{path}{key}"] = len(self._keys)
                self.get[f"{path}{key}"] = attrgetter(f"{attribute}{name}")
            self._keys.append((key, depth, is_map))
            if is_map:
                inner = self._struct(wanted, f"{path}{key}.", f"{attribute}{name}.", depth + 1)
                empty[name] = inner()
                wanted = inner | None
            fields.append((name, wanted, None))

        def fill(message: Any) -> None:
            for name, stand_in in empty.items():
                if getattr(message, name) is None:
                    setattr(message, name, stand_in)

        namespace = {"__post_init__": fill} if empty else {}
        return msgspec.defstruct("Message", fields, rename=rename, namespace=namespace, gc=False, omit_defaults=True)


class Fields:
    """The fields of n messages, by the schema's paths."""

    def __init__(self, form: Form, messages: Sequence[Any], pieces: Sequence[bytes]) -> None:
        self._form, self._messages = form, messages
        n, chosen = len(messages), form.textual
        self.packed = np.frombuffer(b"".join(pieces), np.uint8)
        self.found = np.empty((n, len(form.places.depth)), FOUND)  # at each place
        room = np.empty(len(self.packed) + MOST_DIGITS * len(chosen) * n, np.uint8)
        # Of all places where something may be compared by its text, in the order of `Form.text`.  # (places, n)
        self.texts = Column(room, np.empty((len(chosen), n), np.int64), np.empty((len(chosen), n), np.int32))
        left = np.empty(form.depth + 2, np.int64)
        self.text_bytes, others = _read_fields(self.packed, form.places, PIECE, left, chosen, self.found, self.texts)
        if others:
            self._write_others()

    def __len__(self) -> int:
        return len(self._messages)

    def value(self, path: str, i: int) -> Any:
        """Return what message i says, as msgspec has read it."""
        return self._form.get[path](self._messages[i])

    def _write_others(self) -> None:
        """Add the texts of numbers that compiled code does not write."""
        texts, used = self.texts, self.text_bytes
        kinds = self.found["kind"].T[self._form.textual]
        rows, at = ((texts.length == NONE) & np.isin(kinds, (REAL, UNSIGNED, LARGE))).nonzero()
        paths = list(self._form.text)
        said = [text_of(self.value(paths[row], i)) for row, i in zip(rows.tolist(), at.tolist(), strict=True)]
        others = Texts.of(said)
        texts.start[rows, at], texts.length[rows, at] = others.start + used, others.length
        self.texts = texts._replace(data=np.concatenate([texts.data[:used], others.data]))
        self.text_bytes = len(self.texts.data)


def _tree(forms: dict[str, str]) -> dict[str, Any]:
    """Return what msgspec is to demand, as the paths say: a dict for each object."""
    tree: dict[str, Any] = {}
    for path, form in forms.items():
        *parents, leaf = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = _TYPES[form]
    return tree


def _packed(messages: Sequence[Any]) -> bytes:
    try:
        return _encode(messages)
    except OverflowError:
        return _encode([_without_large(message) for message in messages])


def _without_large(value: Any) -> Any:
    """Return a message with extensions in place of the integers that msgpack does not have.

    They hold the nearest real number; nan beyond all that is believed.
    """
    if isinstance(value, msgspec.Struct):
        return type(value)(*map(_without_large, msgspec.structs.astuple(value)))
    if isinstance(value, list | tuple):
        return list(map(_without_large, value))
    if type(value) is int and not -(2**63) <= value < 2**64:
        near = float(value) if abs(value) <= LARGEST else math.nan
        return msgspec.msgpack.Ext(0, struct.pack(">d", near))
    return value
