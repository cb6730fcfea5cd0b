"""JSON messages of one application -> events.

One msgspec struct, nested as the messages are, has just the fields that the schema reads; all else in a message is
skipped unread. A field that is null, or whose object is missing or null, is a missing field.
"""

from collections.abc import Sequence
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.columns import Column, Wrong, column_of, group_keys, lookup, texts_of, weekdays
from pipeline.events import (
    EDGE,
    LABEL,
    NODE,
    RETRACT,
    SCORE,
    BadEvent,
    EventBatch,
    bad_event,
    check_groups,
    check_names,
    check_ts,
    note,
    note_where,
)
from pipeline.log import Record
from pipeline.schema import Schema, source_of
from pipeline.sections import EVENT_FIELDS, EVENT_TYPES, LARGEST, Scalar, Weekday, text_of, timestamp
from pipeline.texts import NONE, Texts

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


class JsonReader:
    """Reads JSON messages as one schema says; a topic with words of its own has a schema, and a reader, of its own."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        struct, self._get = _message_struct(schema)
        self._decode = msgspec.json.Decoder(struct).decode
        self._field = {name: self._get[schema.path(name)] for name in EVENT_FIELDS}
        self._type = self._get[schema.events.type]
        self._kinds: dict[Any, int] = {word: code for code, word in enumerate(EVENT_TYPES)}
        self._kinds |= {word: EVENT_TYPES.index(ours) for word, ours in schema.events.types.items()}
        self._kinds[None] = EVENT_TYPES.index(schema.events.default_type)
        self._labels = {text_of(word): 1 for word in schema.labels.spam}
        self._labels |= {text_of(word): 0 for word in schema.labels.not_spam}
        self._label_of = lookup(self._labels)
        self._columns: list[tuple[slice, str, Column]] = [
            (schema.own_slices[name], source, column_of(name, feature))
            for name, feature in schema.features.items()
            if (source := source_of(name, feature)) is not None
        ]
        self._weekdays = [schema.own_slices[n] for n, f in schema.features.items() if isinstance(f, Weekday)]
        self._group_paths = sorted({path for _, relation in schema.groups for path in relation.group_by})
        parts = [list(map(self._group_paths.index, relation.group_by)) for _, relation in schema.groups]
        self._group_keys = group_keys(parts)
        self._of_nodes = {p: self._get[p] for p in (*self._group_paths, *(source for _, source, _ in self._columns))}
        self._relation = {name: r for r, name in enumerate(schema.relations) if schema.relations[name].kind == "edge"}

    def read(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        messages, records, bad = self._parse(records)
        wrong: Wrong = {}
        batch = self._batch(messages, records, wrong)
        if wrong:
            bad += [bad_event(records[i], *problem) for i, problem in wrong.items()]
            batch = batch.without(wrong)
        return batch, bad

    def _parse(self, records: Sequence[Record]) -> tuple[list[Any], Sequence[Record], list[BadEvent]]:
        decode = self._decode
        try:
            messages: list[Any] = []
            for start in range(0, len(records), PIECE):
                messages += map(decode, map(_VALUE, records[start : start + PIECE]))
            return messages, records, []
        except (ValueError, RecursionError):
            pass  # one of them is bad: find out which
        messages, good, bad = [], [], []
        for record in records:
            try:
                messages.append(decode(record.value))
                good.append(record)
            except msgspec.ValidationError as error:
                reason = "out_of_range" if "out of range" in str(error) else "wrong_type"
                bad.append(bad_event(record, reason, str(error)))
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_json", str(error)))
        return messages, good, bad

    def _batch(self, messages: list[Any], records: Sequence[Record], wrong: Wrong) -> EventBatch:
        n = len(messages)
        kind = self._kind_column(messages, wrong)
        (nodes,), (linked,) = (kind == NODE).nonzero(), ((kind == EDGE) | (kind == RETRACT)).nonzero()
        ts = self._ts_column(messages, kind, records, wrong)
        edge_event, edge_relation, edge_other = self._edge_columns(messages, kind, linked, wrong)
        features, keys = self._node_columns(messages, nodes, ts, wrong)
        return EventBatch(
            kind=kind,
            id=self._id_column(messages, kind, linked, wrong),
            ts=ts,
            target=self._target_column(messages, kind, wrong),
            label=self._label_column(messages, kind, wrong),
            features=features,
            keys=keys,
            edge_event=edge_event,
            edge_relation=edge_relation,
            edge_other=edge_other,
            position=np.fromiter(map(_POSITION, records), np.int64, n),
            index=np.zeros(n, np.int32),
        )

    def _kind_column(self, messages: list[Any], wrong: Wrong) -> npt.NDArray[np.uint8]:
        words = list(map(self._type, messages))
        try:
            return np.fromiter(map(self._kinds.__getitem__, words), np.uint8, len(words))
        except KeyError:
            for i, word in enumerate(words):
                if word not in self._kinds:
                    expected = ", ".join(word for word in self._kinds if word)
                    wrong[i] = ("unknown_type", f"type is {word!r:.80}, expected one of {expected}")
            return np.array([self._kinds.get(word, RETRACT) for word in words], np.uint8)

    def _ts_column(
        self, messages: list[Any], kind: npt.NDArray[np.uint8], records: Sequence[Record], wrong: Wrong
    ) -> npt.NDArray[np.float64]:
        said = values = list(map(self._field["ts"], messages))
        if self._schema.time.unit == "iso8601":
            values = [timestamp(value) if type(value) is str else np.nan for value in said]
        elif not set(map(type, said)) <= {float, NoneType}:  # a feature or a group reads the same field
            values = [_as_float(value) for value in said]
        ts = np.array(values, np.float64)  # None becomes nan
        if self._schema.time.unit == "milliseconds":
            ts /= 1000.0
        appended_at = np.fromiter(map(_APPENDED_AT, records), np.float64, len(records))
        if self._schema.time.missing == "log":
            ts = np.where([value is None for value in said], appended_at, ts)
        check_ts(self._schema, ts, kind, appended_at, wrong)
        ts[kind == RETRACT] = np.nan
        return ts

    def _id_column(
        self, messages: list[Any], kind: npt.NDArray[np.uint8], linked: npt.NDArray[np.int64], wrong: Wrong
    ) -> Texts:
        ids = list(map(self._field["id"], messages))
        for i in linked.tolist():
            if ids[i] is None or kind[i] == EDGE:
                ids[i] = self._field["src"](messages[i])
        return check_names("id", ids, wrong)

    def _target_column(self, messages: list[Any], kind: npt.NDArray[np.uint8], wrong: Wrong) -> npt.NDArray[np.bool_]:
        default, said = self._schema.nodes.target, list(map(self._field["target"], messages))
        kinds = set(map(type, said))
        if NoneType in kinds:
            said = [default] * len(said) if len(kinds) == 1 else [default if t is None else t for t in said]
        if not kinds <= {bool, NoneType}:  # a feature or a group reads the same field
            loose = np.array([type(t) is not bool for t in said], np.bool_)
            note_where(loose & (kind == NODE), "wrong_type", "target is neither true nor false", wrong)
            said = [t is True for t in said]
        target: npt.NDArray[np.bool_] = (kind == SCORE) | ((kind == NODE) & np.fromiter(said, np.bool_, len(said)))
        return target

    def _label_column(self, messages: list[Any], kind: npt.NDArray[np.uint8], wrong: Wrong) -> npt.NDArray[np.int8]:
        label = np.full(len(messages), -1, np.int8)
        (labels,) = (kind == LABEL).nonzero()
        if not len(labels):
            return label
        words = list(map(self._field["label"], [messages[i] for i in labels.tolist()]))
        label[labels] = found = self._label_of(words)
        for i in np.flatnonzero(found < 0).tolist():
            if words[i] is None:
                wrong.setdefault(int(labels[i]), ("missing_field", "label is missing"))
            else:
                detail = f"label is {words[i]!r:.80}, expected one of {', '.join(self._labels)}"
                wrong.setdefault(int(labels[i]), ("bad_label", detail))
        return label

    def _node_columns(
        self, messages: list[Any], nodes: npt.NDArray[np.int64], ts: npt.NDArray[np.float64], wrong: Wrong
    ) -> tuple[npt.NDArray[np.float32], Texts]:
        schema, n = self._schema, len(messages)
        chosen = messages if len(nodes) == n else [messages[i] for i in nodes.tolist()]
        said = {path: list(map(get, chosen)) for path, get in self._of_nodes.items()}
        channels = np.empty((len(nodes), len(schema.own_channels)), np.float32)
        for place, source, column in self._columns:
            channels[:, place], problems = column(said[source])
            note(problems, nodes, wrong)
        for place in self._weekdays:  # any day does for a time that is bad
            channels[:, place] = weekdays(np.fmax(np.fmin(ts[nodes], schema.ts_range[1]), schema.ts_range[0]))
        if schema.groups:
            keys = self._group_keys(texts_of([said[path] for path in self._group_paths]))
        else:
            keys = Texts.none(0, len(nodes))
        check_groups(schema, keys, nodes, wrong)
        if len(nodes) == n:
            return channels, keys
        features = np.zeros((n, channels.shape[1]), np.float32)
        features[nodes] = channels
        return features, _spread(keys, nodes, n)

    def _edge_columns(
        self, messages: list[Any], kind: npt.NDArray[np.uint8], linked: npt.NDArray[np.int64], wrong: Wrong
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Texts]:
        """Edges of the edge, retract and node events; an edge retract is the one whose `id` is missing."""
        lists = list(map(self._field["edges"], messages))
        if not len(linked) and not any(lists):
            return _NO_EDGES
        events: list[int] = []
        names: list[Any] = []
        others: list[Any] = []
        concerned = np.array(list(map(bool, lists)), np.bool_) & (kind == NODE)
        concerned[linked] = True
        for i in np.flatnonzero(concerned).tolist():
            if kind[i] == NODE:
                pairs = lists[i]
            elif kind[i] == RETRACT and self._field["id"](messages[i]) is not None:
                continue
            else:
                pairs = [(self._field["relation"](messages[i]), self._field["dst"](messages[i]))]
            events += [i] * len(pairs)
            names += [name for name, _ in pairs]
            others += [other for _, other in pairs]
        edge_event = np.array(events, np.int32)
        other = check_names("the other end", others, wrong, edge_event)
        return edge_event, np.array(self._relations(names, events, wrong), np.int32), other

    def _relations(self, names: list[Any], events: list[int], wrong: Wrong) -> list[int]:
        found = [self._relation.get(name, -1) for name in names]
        for i, relation, name in zip(events, found, names, strict=True):
            if name is None:
                wrong.setdefault(i, ("missing_field", "relation is missing"))
            elif relation < 0:
                expected = ", ".join(self._relation) or "none, the schema has no edge relation"
                wrong.setdefault(i, ("unknown_relation", f"relation is {name!r:.80}, expected {expected}"))
        return found


_NO_EDGES = np.zeros(0, np.int32), np.zeros(0, np.int32), Texts.none(0)
_VALUE, _POSITION, _APPENDED_AT = attrgetter("value"), attrgetter("position"), attrgetter("appended_at")


def _spread(keys: Texts, nodes: npt.NDArray[np.int64], n: int) -> Texts:
    """Return the keys of nodes as those of all events.  # (groups, nodes) -> (groups, n)"""
    shape = (len(keys), n)
    spread = Texts(keys.data, np.zeros(shape, np.int64), np.full(shape, NONE, np.int32))
    spread.start[:, nodes], spread.length[:, nodes] = keys.start, keys.length
    return spread


def _as_float(value: Any) -> float:
    """Return a time that was read as any scalar; nan where it is no number, or one far beyond all time."""
    return float(value) if type(value) in (int, float) and abs(value) <= LARGEST else np.nan


def _message_struct(schema: Schema) -> tuple[Any, dict[str, Any]]:
    """Build the struct that a message is decoded into; return it with a getter for each path that the schema reads."""
    forms: dict[str, str] = {}
    for read in schema.reads:  # a place that is read in two forms is read as any scalar, and checked by each reader
        forms[read.path] = read.form if forms.get(read.path, read.form) == read.form else "scalar"
    tree: dict[str, Any] = {}
    for path, form in forms.items():
        *parents, leaf = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = _TYPES[form]
    getters: dict[str, Any] = {}
    return _struct_of(tree, "", "", getters), getters


def _struct_of(tree: dict[str, Any], path: str, attribute: str, getters: dict[str, Any]) -> Any:
    fields: list[Any] = []
    rename: dict[str, str] = {}
    empty: dict[str, Any] = {}  # by attribute, what stands for an object that is missing or null
    for i, (key, wanted) in enumerate(tree.items()):
        name = f"f{i}"
        rename[name] = key
        if isinstance(wanted, dict):
            inner = _struct_of(wanted, f"{path}{key}.", f"{attribute}{name}.", getters)
            empty[name] = inner()
            fields.append((name, inner | None, None))
        else:
            fields.append((name, wanted, None))
            getters[f"{path}{key}"] = attrgetter(f"{attribute}{name}")

    def fill(message: Any) -> None:
        for name, stand_in in empty.items():
            if getattr(message, name) is None:
                setattr(message, name, stand_in)

    namespace = {"__post_init__": fill} if empty else {}
    return msgspec.defstruct("Message", fields, rename=rename, namespace=namespace, gc=False)
