"""The compiled code of columns: fields of messages -> events, as one schema means them.

An event of which something is wrong, or may be, is marked as doubtful; what it says has neutral values then, where it
has any. `columns` says what is wrong with it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined
from pipeline.fields_kernel import FALSE, LIST, MISSING, TRUE, head, note, read_vector, write_text
from pipeline.graph_state import EDGE, LABEL, NODE, RETRACT, SCORE
from pipeline.names_kernel import LONGEST_NAME, Table, find, hash_of
from pipeline.texts_kernel import Column, Data, Parts, copy, join

NUMERIC, LOG1P, ONE_HOT, VECTOR, WEEKDAY = range(5)
FEATURE = np.dtype(
    [
        ("kind", "i4"),
        ("first", "i4"),  # of its channels
        ("width", "i4"),  # how many they are
        ("place", "i4"),  # that it is read from
        ("row", "i4"),  # among the texts, of a ONE_HOT
        ("space", "i4"),  # of its words, of a ONE_HOT; any other word has the last channel
        ("other", "?"),  # whether one may have another word
        ("default", "f8"),  # nan where a number must be there
        ("lowest", "f8"),
        ("largest", "f8"),
    ],
    align=True,
)
OF_TYPES, OF_LABELS, OF_RELATIONS, OF_FEATURES = range(4)  # spaces of words; a feature has one of its own, from then on


class Meaning(NamedTuple):
    """What one schema means by fields."""

    words: Table  # of types, labels, edge relations and one-hot values
    codes: npt.NDArray[np.int32]  # what each stands for: a type's or a label's code, a relation, the place of a value
    features: npt.NDArray[np.void]  # FEATURE
    parts: Parts  # of group keys, rows among the texts
    optional: npt.NDArray[np.bool_]  # of each group relation, whether a node may be without a key
    type: int  # of these six the rows among the texts
    id: int
    src: int
    label: int
    relation: int
    dst: int
    ts: int  # of these three the places
    target: int
    edges: int
    default_type: int
    default_target: bool
    per_second: float  # of the unit of times; 0: they are read by others
    late: bool  # whether the log's time stands for one that is missing
    earliest: float  # seconds since the epoch
    latest: float
    max_ahead: float  # seconds after the log's time


class Events(NamedTuple):
    """Columns of n events, as in `EventBatch`."""

    kind: npt.NDArray[np.uint8]
    ts: npt.NDArray[np.float64]  # where they are read by others, so on the way in
    target: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int8]
    features: npt.NDArray[np.float32]
    id_start: npt.NDArray[np.int64]
    id_length: npt.NDArray[np.int32]
    keys: Column
    doubtful: npt.NDArray[np.bool_]
    edges: npt.NDArray[np.int32]  # how many it names: an edge event and a retract without `id` one


class Edges(NamedTuple):
    """Columns of m edges, as in `EventBatch`."""

    event: npt.NDArray[np.int32]
    relation: npt.NDArray[np.int32]
    other: Column


@compiled
def interpret(
    packed: Data, found: npt.NDArray[np.void], texts: Column, text_bytes: int, say: Meaning,
    appended_at: npt.NDArray[np.float64], room: npt.NDArray[np.void], out: Events,
) -> tuple[bool, int, int]:  # fmt: skip
    """Write what the events say; return whether one is doubtful, how many edges they name, and the bytes of the keys.

    packed, found, texts, text_bytes  as `fields_kernel` gives them
    room                  (1,) FOUND
    """
    doubts, edges, used = False, 0, join(texts, text_bytes, say.parts, out.keys)
    for i in range(len(found)):
        doubtful = False
        kind = _code(say, OF_TYPES, texts, say.type, i)
        if kind < 0:
            doubtful = texts.length[say.type, i] >= 0
            kind = RETRACT if doubtful else say.default_type
        out.kind[i] = kind
        out.features[i, :] = 0.0
        is_node = kind == NODE
        is_edge = kind == EDGE or (kind == RETRACT and texts.length[say.id, i] < 0)
        doubtful |= _read_time(found[i, say.ts], say, appended_at[i], kind, out, i)
        doubtful |= not _read_name(texts, say.src if is_edge else say.id, out, i)
        target = found[i, say.target].kind
        wanted = target == TRUE or (target == MISSING and say.default_target)
        out.target[i] = kind == SCORE or (is_node and wanted)
        doubtful |= is_node and target not in (TRUE, FALSE, MISSING)
        out.label[i] = _code(say, OF_LABELS, texts, say.label, i) if kind == LABEL else -1
        doubtful |= kind == LABEL and out.label[i] < 0
        if is_node:
            for f in range(len(say.features)):
                doubtful |= not _read_feature(packed, found[i], texts, say, say.features[f], room, out, i)
            doubtful |= not _keys_are_sound(say, out.keys, i)
        else:
            out.keys.length[:, i] = -1
        named = found[i, say.edges].length if is_node else int(is_edge)
        out.edges[i] = named
        out.doubtful[i] = doubtful
        doubts |= doubtful
        edges += named
    return doubts, edges, used


@inlined
def _code(say: Meaning, space: int, texts: Column, row: int, i: int) -> int:
    """Return what a word stands for, -1 for another one or none."""
    length = texts.length[row, i]
    return _code_of(say, space, texts.data, texts.start[row, i], length) if length >= 0 else -1


@inlined
def _code_of(say: Meaning, space: int, data: Data, start: int, length: int) -> int:
    tag = hash_of(data, start, length, space, say.words.meta[0].key)
    slot = find(say.words, data, start, length, space, tag)
    return say.codes[say.words.slots[slot].index] if slot >= 0 else -1


@inlined
def _read_time(one: Any, say: Meaning, appended_at: float, kind: int, out: Events, i: int) -> bool:
    """Write an event's time; return whether it is missing or not to be believed. Only a retract needs none."""
    if kind == RETRACT:
        out.ts[i] = np.nan
        return False
    if say.per_second > 0.0:
        out.ts[i] = one.number / say.per_second
    if one.kind == MISSING and say.late:
        out.ts[i] = appended_at
    latest = appended_at + say.max_ahead
    if not latest < say.latest:  # or the log knows no time
        latest = say.latest
    return not say.earliest <= out.ts[i] <= latest


@inlined
def _read_name(texts: Column, row: int, out: Events, i: int) -> bool:
    """Write which node it is of; return whether that is a name."""
    out.id_start[i], out.id_length[i] = texts.start[row, i], texts.length[row, i]
    return bool(1 <= out.id_length[i] <= LONGEST_NAME)


@inlined
def _read_feature(
    packed: Data, fields: Any, texts: Column, say: Meaning, feature: Any, room: npt.NDArray[np.void], out: Events,
    i: int,
) -> bool:  # fmt: skip
    """Write the channels of a feature; return whether it could be read."""
    kind, first, one = feature.kind, feature.first, fields[feature.place]
    if kind == WEEKDAY:
        out.features[i, first + weekday(min(max(out.ts[i], say.earliest), say.latest))] = 1.0
        return True
    if kind == ONE_HOT:
        value = _code(say, feature.space, texts, feature.row, i)
        if value < 0 and feature.other:
            value = feature.width - 1
        if value >= 0:
            out.features[i, first + value] = 1.0
        return value >= 0
    if kind == VECTOR:
        values = out.features[i, first : first + feature.width]
        return one.kind == LIST and read_vector(packed, one, feature.largest, room, values)
    number = feature.default if one.kind == MISSING else one.number
    if not feature.lowest <= number <= feature.largest:
        return False
    out.features[i, first] = math.log1p(number) if kind == LOG1P else number
    return True


@inlined
def weekday(ts: float) -> int:
    """Return the day of the week in UTC, Monday is 0; the epoch began on a Thursday. nan is any day."""
    return int(math.floor(ts / 86400.0) + 3) % 7 if ts == ts else 0


@inlined
def _keys_are_sound(say: Meaning, keys: Column, i: int) -> bool:
    """Is every key there that must be, and none too long?"""
    sound = True
    for r in range(len(say.optional)):
        sound &= (-1 if say.optional[r] else 0) <= keys.length[r, i] <= LONGEST_NAME
    return sound


@compiled
def read_edges(
    packed: Data, found: npt.NDArray[np.void], texts: Column, say: Meaning, said: Events, room: npt.NDArray[np.void],
    out: Edges,
) -> int:  # fmt: skip
    """Write the edges that events name; return the bytes of the names at their other ends, -1 if one is not sound.

    room  (1,) FOUND
    """
    m, used, sound = 0, 0, True
    for i in range(len(found)):
        at, in_list = found[i, say.edges].start, said.kind[i] == NODE
        for _ in range(said.edges[i]):
            if in_list:
                _, _, at = head(packed, at)
                _, length, at = head(packed, at)
                relation = _code_of(say, OF_RELATIONS, packed, at, length)
                at = note(packed, at + length, room[0])
                end = write_text(packed, room[0], out.other.data, used)
            else:
                relation = _code(say, OF_RELATIONS, texts, say.relation, i)
                end = copy(texts.data, texts.start[say.dst, i], texts.length[say.dst, i], out.other.data, used)
            out.event[m], out.relation[m] = i, relation
            out.other.start[m], out.other.length[m] = used, end - used
            sound &= relation >= 0 and 1 <= end - used <= LONGEST_NAME
            m, used = m + 1, max(used, end)
    return used if sound else -1
