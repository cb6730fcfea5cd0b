"""JSON messages of one application -> events.

Compiled code reads all messages at once, and marks the events of which something is wrong, or may be. Only these are
looked at one by one, in Python, for the reason.
"""

from collections.abc import Iterator
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.columns import Problem, Wrong, problem_of
from pipeline.columns_kernel import Edges, Events, interpret, read_edges
from pipeline.compiled import direct
from pipeline.events import (
    LABEL,
    NODE,
    BadEvent,
    EventBatch,
    bad_event,
    check_groups,
    check_names,
    check_texts,
    check_ts,
)
from pipeline.fields import Fields, Form
from pipeline.fields_kernel import FOUND, MOST_DIGITS
from pipeline.log import Records
from pipeline.meaning import edge_relations, labels_of, meaning_of, types_of
from pipeline.schema import Schema, source_of
from pipeline.sections import EVENT_FIELDS, text_of, timestamp
from pipeline.texts import Texts
from pipeline.texts_kernel import Column

EdgeColumns = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Texts]  # event, relation, other end
_interpret, _read_edges = direct(interpret), direct(read_edges)  # the arrays are all made here


class JsonReader:
    """Reads JSON messages as one schema says; a topic with words of its own has a schema, and a reader, of its own."""

    def __init__(self, schema: Schema) -> None:
        self._schema, self._form = schema, Form(schema)
        self._meaning = meaning_of(schema, self._form)
        self._path = {name: schema.path(name) for name in EVENT_FIELDS}
        joined = (len(relation.group_by) for _, relation in schema.groups if len(relation.group_by) > 1)
        self._joined = sum(joined)  # parts of keys that are written anew
        self._types, self._labels, self._relation = types_of(schema), labels_of(schema.labels), edge_relations(schema)

    def read(self, records: Records) -> tuple[EventBatch, list[BadEvent]]:
        fields, records, bad = self._fields(records)
        wrong: Wrong = {}
        batch = self._batch(fields, records, wrong)
        if wrong:
            bad += [bad_event(records[i], *problem) for i, problem in wrong.items()]
            batch = batch.without(wrong)
        return batch, bad

    def _fields(self, records: Records) -> tuple[Fields, Records, list[BadEvent]]:
        """Return the fields of the messages that are sound, their records, and the others."""
        try:
            return self._form.fields(records.columns.value), records, []
        except (ValueError, RecursionError):
            pass  # one of them is bad: find out which
        good, bad = Records(), []
        for record in records:
            try:
                self._form.decode(record.value)
                good.append(record)
            except msgspec.ValidationError as error:
                reason = "out_of_range" if "out of range" in str(error) else "wrong_type"
                bad.append(bad_event(record, reason, str(error)))
            except (ValueError, RecursionError) as error:
                bad.append(bad_event(record, "malformed_json", str(error)))
        return self._form.fields(good.columns.value), good, bad

    def _batch(self, fields: Fields, records: Records, wrong: Wrong) -> EventBatch:
        n, texts = len(fields), fields.texts
        appended_at = np.array(records.columns.appended_at, np.float64)
        out = self._room(n, fields.text_bytes, self._times(fields))
        doubts, edges, used = _interpret(
            fields.packed, fields.found, texts, fields.text_bytes, self._meaning, appended_at, np.empty(1, FOUND), out
        )
        keys = Texts(out.keys.data[:used], out.keys.start, out.keys.length)
        ids = Texts(keys.data, out.id_start, out.id_length)  # which has the fields' texts too
        doubtful = np.flatnonzero(out.doubtful).tolist() if doubts else []
        if doubtful:
            self._check_types(fields, doubtful, wrong)
            check_ts(self._schema, out.ts, out.kind, appended_at, wrong)
        named = edges or self._relation  # those that may come are read from the first batch on: no event waits for code
        edge_columns = self._edge_columns(fields, out, edges, wrong) if named else _NO_EDGES
        batch = EventBatch(
            kind=out.kind, id=ids, ts=out.ts, target=out.target, label=out.label, features=out.features, keys=keys,
            edge_event=edge_columns[0], edge_relation=edge_columns[1], edge_other=edge_columns[2],
            position=np.array(records.columns.position, np.int64), index=np.zeros(n, np.int32),
        )  # fmt: skip
        if doubtful:
            self._check(fields, batch, doubtful, wrong)
        return batch

    def _room(self, n: int, text_bytes: int, ts: npt.NDArray[np.float64]) -> Events:
        """Return room for what `n` messages say, with texts of so many bytes."""
        groups = len(self._schema.groups)
        key_bytes = (1 + 2 * self._joined) * text_bytes + self._joined * n
        keys = Column(np.empty(key_bytes, np.uint8), np.empty((groups, n), np.int64), np.empty((groups, n), np.int32))
        return Events(
            kind=np.empty(n, np.uint8), ts=ts, target=np.empty(n, np.bool_), label=np.empty(n, np.int8),
            features=np.empty((n, len(self._schema.own_channels)), np.float32),
            id_start=np.empty(n, np.int64), id_length=np.empty(n, np.int32), keys=keys,
            doubtful=np.empty(n, np.bool_), edges=np.empty(n, np.int32),
        )  # fmt: skip

    def _times(self, fields: Fields) -> npt.NDArray[np.float64]:
        """Return room for the times, and where compiled code does not read them, what messages say, in seconds."""
        if self._meaning.per_second:
            return np.empty(len(fields), np.float64)
        said = (fields.value(self._path["ts"], i) for i in range(len(fields)))
        return np.array([timestamp(value) if type(value) is str else np.nan for value in said], np.float64)

    def _check_types(self, fields: Fields, doubtful: list[int], wrong: Wrong) -> None:
        for i in doubtful:
            word = fields.value(self._schema.events.type, i)
            if word is not None and text_of(word) not in self._types:
                wrong[i] = ("unknown_type", f"type is {word!r:.80}, expected one of {', '.join(self._types)}")

    def _check(self, fields: Fields, batch: EventBatch, doubtful: list[int], wrong: Wrong) -> None:
        """Note what is wrong with doubtful events, but for their types, times and edges. The first problem counts."""
        for i in doubtful:
            for problem in self._feature_problems(fields, i) if batch.kind[i] == NODE else ():
                wrong.setdefault(i, problem)
        (nodes,) = (batch.kind == NODE).nonzero()
        check_groups(self._schema, batch.keys[:, nodes], nodes, wrong)
        check_texts("id", batch.id, wrong)
        for i in doubtful:
            for problem in self._other_problems(fields, batch.kind[i], i):
                wrong.setdefault(i, problem)

    def _feature_problems(self, fields: Fields, i: int) -> Iterator[Problem]:
        for name, feature in self._schema.features.items():
            path = source_of(name, feature)
            if path is not None and (problem := problem_of(name, feature, fields.value(path, i))) is not None:
                yield problem

    def _other_problems(self, fields: Fields, kind: int, i: int) -> Iterator[Problem]:
        """Yield what is wrong with whether a node is a target, or with a label."""
        target, word = fields.value(self._path["target"], i), fields.value(self._path["label"], i)
        if kind == NODE and type(target) not in (bool, NoneType):
            yield "wrong_type", "target is neither true nor false"
        elif kind == LABEL and word is None:
            yield "missing_field", "label is missing"
        elif kind == LABEL and text_of(word) not in self._labels:
            yield "bad_label", f"label is {word!r:.80}, expected one of {', '.join(self._labels)}"

    def _edge_columns(self, fields: Fields, said: Events, count: int, wrong: Wrong) -> EdgeColumns:
        """Edges of the edge, retract and node events; an edge retract is the one whose `id` is missing."""
        text_bytes = len(fields.packed) + fields.text_bytes + MOST_DIGITS * count
        other = Column(np.empty(text_bytes, np.uint8), np.empty(count, np.int64), np.empty(count, np.int32))
        out = Edges(np.empty(count, np.int32), np.empty(count, np.int32), other)
        room = np.empty(1, FOUND)
        used = _read_edges(fields.packed, fields.found, fields.texts, self._meaning, said, room, out)
        if used < 0:
            return self._doubtful_edges(fields, said, wrong)
        return out.event, out.relation, Texts(other.data[:used], other.start, other.length)

    def _doubtful_edges(self, fields: Fields, said: Events, wrong: Wrong) -> EdgeColumns:
        """Read all edges one by one, for one of them is wrong, or names a node by a number that is no whole one."""
        path = self._path
        events: list[int] = []
        names: list[Any] = []
        others: list[Any] = []
        for i in np.flatnonzero(said.edges).tolist():
            if said.kind[i] == NODE:
                pairs = fields.value(path["edges"], i)
            else:
                pairs = [(fields.value(path["relation"], i), fields.value(path["dst"], i))]
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


_NO_EDGES: EdgeColumns = np.zeros(0, np.int32), np.zeros(0, np.int32), Texts.none(0)
