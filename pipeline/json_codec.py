"""JSON messages of one application: one msgspec struct with just the fields that the schema reads."""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.columns import Column, Wrong, column_of, group_keys, weekdays
from pipeline.events import (
    EDGE,
    LABEL,
    NODE,
    RETRACT,
    SCORE,
    BadEvent,
    EventBatch,
    bad_event,
    check_names,
    check_ts,
    note,
)
from pipeline.log import Record
from pipeline.schema import EVENT_FIELDS, EVENT_TYPES, OneHot, Scalar, Schema, Vector, Weekday


class JsonReader:
    """Reads JSON messages as one schema says."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        types, paths = _field_types(schema), {name: schema.path(name) for name in (*EVENT_FIELDS, "type")}
        struct, self._get = _message_struct(types)
        self._decode = msgspec.json.Decoder(struct).decode
        self._field = {name: self._get[path] for name, path in paths.items() if path in self._get}
        self._field["type"] = self._get[schema.events.type]
        self._kinds: dict[Any, int] = {word: code for code, word in enumerate(EVENT_TYPES)}
        self._kinds |= {word: EVENT_TYPES.index(ours) for word, ours in schema.events.types.items()}
        self._kinds[None] = EVENT_TYPES.index(schema.events.default_type)
        self._labels = dict.fromkeys(schema.labels.spam, 1) | dict.fromkeys(schema.labels.not_spam, 0)
        self._columns: list[tuple[slice, Any, Column]] = [
            (schema.own_slices[name], self._get[_source(name, feature)], column_of(name, feature))
            for name, feature in schema.features.items()
            if not isinstance(feature, Weekday)
        ]
        self._relation = {name: r for r, name in enumerate(schema.relations) if schema.relations[name].kind == "edge"}

    def read(self, records: Sequence[Record]) -> tuple[EventBatch, list[BadEvent]]:
        messages, records, bad = self._parse(records)
        wrong: Wrong = {}
        batch = self._batch(messages, records, wrong)
        if wrong:
            bad += [bad_event(records[i], *problem) for i, problem in wrong.items()]
            keep = np.ones(len(messages), np.bool_)
            keep[list(wrong)] = False
            batch = batch.take(keep)
        return batch, bad

    def _parse(self, records: Sequence[Record]) -> tuple[list[Any], Sequence[Record], list[BadEvent]]:
        decode = self._decode
        try:
            return [decode(record.value) for record in records], records, []
        except (ValueError, RecursionError):
            pass  # one of them is bad: find out which
        messages, good, bad = [], [], []
        for record in records:
            try:
                messages.append(decode(record.value))
                good.append(record)
            except msgspec.ValidationError as error:
                bad.append(bad_event(record, "wrong_type", str(error)))
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_json", str(error)))
        return messages, good, bad

    def _batch(self, messages: list[Any], records: Sequence[Record], wrong: Wrong) -> EventBatch:
        kind = self._kind_column(messages, wrong)
        ts = self._ts_column(messages, kind, records, wrong)
        edges = self._edge_columns(messages, kind, wrong)
        nodes = np.flatnonzero(kind == NODE)
        features, keys = self._node_columns(messages, nodes, ts, wrong)
        return EventBatch(
            kind=kind,
            id=self._id_column(messages, kind, wrong),
            ts=ts,
            target=self._target_column(messages, kind),
            label=self._label_column(messages, kind, wrong),
            features=features,
            keys=keys,
            edge_event=np.array(edges[0], np.int32),
            edge_relation=np.array(edges[1], np.int32),
            edge_other=edges[2],
            position=np.array([record.position for record in records], np.int64),
            index=np.zeros(len(messages), np.int32),
        )

    def _kind_column(self, messages: list[Any], wrong: Wrong) -> npt.NDArray[np.uint8]:
        words = list(map(self._field["type"], messages))
        try:
            return np.array([self._kinds[word] for word in words], np.uint8)
        except KeyError:
            for i, word in enumerate(words):
                if word not in self._kinds:
                    wrong[i] = ("unknown_type", f"type is {word!r:.80}, expected one of {', '.join(EVENT_TYPES)}")
            return np.array([self._kinds.get(word, RETRACT) for word in words], np.uint8)

    def _ts_column(
        self, messages: list[Any], kind: npt.NDArray[np.uint8], records: Sequence[Record], wrong: Wrong
    ) -> npt.NDArray[np.float64]:
        values = list(map(self._field["ts"], messages))
        if self._schema.time.unit == "iso8601":
            values = [_from_iso(value) for value in values]
        ts = np.array(values, np.float64)  # None becomes nan
        if self._schema.time.unit == "milliseconds":
            ts /= 1000.0
        check_ts(self._schema, ts, kind, np.array([record.appended_at for record in records]), wrong)
        return ts

    def _id_column(self, messages: list[Any], kind: npt.NDArray[np.uint8], wrong: Wrong) -> list[str]:
        ids = list(map(self._field["id"], messages))
        for i in np.flatnonzero((kind == EDGE) | (kind == RETRACT)).tolist():
            if ids[i] is None or kind[i] == EDGE:
                ids[i] = self._field["src"](messages[i])
        return check_names("id", ids, wrong)

    def _target_column(self, messages: list[Any], kind: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        default = self._schema.nodes.target
        said = [default if t is None else t for t in map(self._field["target"], messages)]
        return (kind == SCORE) | ((kind == NODE) & np.array(said, np.bool_))

    def _label_column(self, messages: list[Any], kind: npt.NDArray[np.uint8], wrong: Wrong) -> npt.NDArray[np.int8]:
        label = np.full(len(messages), -1, np.int8)
        for i in np.flatnonzero(kind == LABEL).tolist():
            word = self._field["label"](messages[i])
            found = self._labels.get(word)
            if found is None:
                wrong.setdefault(i, ("missing_field" if word is None else "bad_label", f"label is {word!r:.80}"))
            else:
                label[i] = found
        return label

    def _node_columns(
        self, messages: list[Any], nodes: npt.NDArray[np.int64], ts: npt.NDArray[np.float64], wrong: Wrong
    ) -> tuple[npt.NDArray[np.float32], list[list[str | None]]]:
        schema, n = self._schema, len(messages)
        features = np.zeros((n, len(schema.own_channels)), np.float32)
        chosen = messages if len(nodes) == n else [messages[i] for i in nodes.tolist()]
        for place, get, column in self._columns:
            channels, problems = column(list(map(get, chosen)))
            features[nodes, place] = channels
            note(problems, nodes, wrong)
        for name, feature in schema.features.items():
            if isinstance(feature, Weekday):
                features[nodes, schema.own_slices[name]] = weekdays(np.nan_to_num(ts[nodes], posinf=0, neginf=0))
        keys = []
        for _, relation in schema.groups:
            fields = [list(map(self._get[path], chosen)) for path in relation.group_by]
            found, problems = group_keys(fields, relation.optional)
            note(problems, nodes, wrong)
            keys.append(_spread(found, nodes, n))
        return features, keys

    def _edge_columns(
        self, messages: list[Any], kind: npt.NDArray[np.uint8], wrong: Wrong
    ) -> tuple[list[int], list[int], list[str]]:
        """Edges of the edge, retract and node events; an edge retract is the one whose `id` is missing."""
        events: list[int] = []
        names: list[str | None] = []
        others: list[Any] = []
        lists = list(map(self._field["edges"], messages)) if "edges" in self._field else []
        alone = (kind == EDGE) | (kind == RETRACT)
        has_list = np.array([bool(edges) for edges in lists], np.bool_) & (kind == NODE) if lists else alone & False
        for i in np.flatnonzero(alone | has_list).tolist():
            if alone[i]:
                if kind[i] == RETRACT and self._field["id"](messages[i]) is not None:
                    continue
                pairs = [(self._field["relation"](messages[i]), self._field["dst"](messages[i]))]
            else:
                pairs = lists[i]
            events += [i] * len(pairs)
            names += [name for name, _ in pairs]
            others += [other for _, other in pairs]
        return events, self._relations(names, events, wrong), check_names("edge", others, wrong, events)

    def _relations(self, names: list[str | None], events: list[int], wrong: Wrong) -> list[int]:
        found = [self._relation.get(name or "", -1) for name in names]
        for i, relation, name in zip(events, found, names, strict=True):
            if relation < 0:
                expected = ", ".join(self._relation) or "none, the schema has no edge relation"
                wrong.setdefault(i, ("unknown_relation", f"relation is {name!r:.80}, expected {expected}"))
        return found


def _spread(values: list[str | None], places: npt.NDArray[np.int64], n: int) -> list[str | None]:
    if len(places) == n:
        return values
    spread: list[str | None] = [None] * n
    for place, value in zip(places.tolist(), values, strict=True):
        spread[place] = value
    return spread


def _from_iso(value: str | None) -> float:
    try:
        moment = datetime.fromisoformat(value or "")
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _source(name: str, feature: Any) -> str:
    return feature.field or name


def _field_types(schema: Schema) -> dict[str, Any]:
    """Dotted path -> the type that msgspec is to demand there; a path with two uses gets the wider one."""
    number_or_text = Scalar | None
    ts_type: Any = str | None if schema.time.unit == "iso8601" else float | None
    name: Any = str | int | None
    ours: dict[str, Any] = {"id": name, "ts": ts_type, "label": number_or_text, "relation": str | None, "src": name}
    ours |= {"dst": name, "target": bool | None, "edges": list[tuple[str, str | int]] | None}
    types: dict[str, Any] = {schema.events.type: str | None}

    def add(path: str, wanted: Any) -> None:
        types[path] = wanted if types.get(path, wanted) == wanted else number_or_text

    for field_name, wanted in ours.items():
        add(schema.path(field_name), wanted)
    for feature_name, feature in schema.features.items():
        if isinstance(feature, Vector):
            add(_source(feature_name, feature), list[float] | None)
        elif not isinstance(feature, Weekday):
            add(_source(feature_name, feature), number_or_text if isinstance(feature, OneHot) else float | None)
    for _, relation in schema.groups:
        for path in relation.group_by:
            add(path, number_or_text)
    return types


def _message_struct(types: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build a (nested) struct for dotted paths; return it with a getter for each path."""
    tree: dict[str, Any] = {}
    for path, wanted in types.items():
        *parents, leaf = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = wanted
    getters: dict[str, Any] = {}
    return _struct_of(tree, "", "", getters), getters


def _struct_of(tree: dict[str, Any], path: str, attribute: str, getters: dict[str, Any]) -> Any:
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for i, (key, wanted) in enumerate(tree.items()):
        name = f"f{i}"
        rename[name] = key
        if isinstance(wanted, dict):
            inner = _struct_of(wanted, f"{path}{key}.", f"{attribute}{name}.", getters)
            fields.append((name, inner, msgspec.field(default_factory=inner)))
        else:
            fields.append((name, wanted, None))
            getters[f"{path}{key}"] = attrgetter(f"{attribute}{name}")
    return msgspec.defstruct("Message", fields, rename=rename, gc=False)
