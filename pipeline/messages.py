"""What the scorer publishes: scores, single or packed, and dead letters.

    single        JSON, a message a score, keyed by the node's id         {"id":"r17","score":0.93,"is_spam":true,...}
    packed        msgpack, a message a micro-batch, numbers as little-endian buffers; no key, for it is of many nodes
    dead letter   JSON, keyed as the event was, with the event's bytes: as text where they are UTF-8, else as base64

Both forms of a score say the same to the last bit: a packed message holds the exact float32 score, and whoever reads it
makes of it what a single one says, the verdict first and then the score rounded to 8 digits.

Where scores are explained, those that are spam say why (`explain`), the largest contribution first.

Id, position, index and model name a score, so readers can drop repeats. Headers tell model, schema and reason, so that
readers can choose without decoding.
"""

import base64
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from pipeline.events import REASONS, BadEvent, EventBatch
from pipeline.log import JSON, Headers, Message, Record
from pipeline.scorer import Scored
from pipeline.texts import Texts

Form = Literal["single", "packed"]
PACKED_SCORES = "application/x-graphsieve-scores"

MAX_BYTES = 900_000  # of a message: a broker refuses those beyond 1 MiB, unless told otherwise
MAX_RAW_BYTES = 2**19  # of a dead letter's event; a longer one is cut, and stands whole in the log at its position


class ScoreMessage(msgspec.Struct, frozen=True, gc=False):
    id: str
    score: float  # 0 to 1
    is_spam: bool  # score >= threshold
    threshold: float
    model: str  # version
    ts: float  # event time, seconds since the epoch
    position: int  # of the event's message in the events topic
    index: int  # of the event in a packed message
    scored_at: float  # seconds since the epoch
    # Of spam, where scores are explained: what `self` and each relation added to the log-odds, the largest first.
    why: tuple[tuple[str, float], ...] | UnsetType = UNSET


class DeadLetter(msgspec.Struct, omit_defaults=True):
    position: int
    index: int
    reason: str  # one of events.REASONS
    detail: str
    bytes: int  # of the whole message
    text: str | None = None
    base64: str | None = None
    topic: str = ""  # and the message's position in it, where the log is merged from several
    offset: int = -1


class _Packed(msgspec.Struct):
    """The scores of a micro-batch on the wire."""

    model: str
    schema: str  # its fingerprint
    threshold: float
    scored_at: float
    id: list[str]
    score: bytes  # as _BUFFERS says
    ts: bytes
    position: bytes
    index: bytes
    # Where scores are explained: who adds to them, and for each that is spam, in order, what each of these adds.
    players: list[str] | UnsetType = UNSET
    why: bytes | UnsetType = UNSET  # <f4


_BUFFERS = {"score": "<f4", "ts": "<f8", "position": "<i8", "index": "<i4"}

_encode = msgspec.json.Encoder().encode
_encode_packed = msgspec.msgpack.Encoder().encode
_decode = msgspec.json.Decoder(ScoreMessage).decode
_decode_packed = msgspec.msgpack.Decoder(_Packed).decode


@dataclass
class _Columns:
    """The scores of a micro-batch."""

    id: list[str] | Texts  # texts where they are to be packed
    score: npt.NDArray[np.float32]
    ts: npt.NDArray[np.float64]
    position: npt.NDArray[np.int64]
    index: npt.NDArray[np.int32]
    players: Sequence[str] = ()
    why: npt.NDArray[np.float32] | None = None  # (B, P) in the order of `players`, nan where it is no spam

    def __len__(self) -> int:
        return len(self.id)

    def part(self, start: int, stop: int) -> "_Columns":
        columns = {name: column[start:stop] for name, column in vars(self).items() if name in ("id", *_BUFFERS)}
        return _Columns(**columns, players=self.players, why=None if self.why is None else self.why[start:stop])

    def each(self, threshold: float, model: str, scored_at: float) -> Iterator[ScoreMessage]:
        """What a single message says of each score: the one place where the two forms meet."""
        score = self.score.astype(np.float64).round(8).tolist()
        spam, ts = is_spam(self.score, threshold).tolist(), self.ts.tolist()
        position, index = self.position.tolist(), self.index.tolist()
        same = repeat(threshold), repeat(model)
        said = (self.id, score, spam, *same, ts, position, index, repeat(scored_at))
        return map(ScoreMessage, *said) if self.why is None else map(ScoreMessage, *said, self._reasons(spam))

    def _reasons(self, spam: list[bool]) -> Iterator[tuple[tuple[str, float], ...] | UnsetType]:
        assert self.why is not None
        order = np.argsort(-np.abs(self.why), axis=1, kind="stable").tolist()
        added = (self.why.astype(np.float64).round(4) + 0.0).tolist()  # no -0.0
        for one, places, told in zip(added, order, spam, strict=True):
            yield tuple((self.players[place], one[place]) for place in places) if told else UNSET


def is_spam(score: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """Tell which scores are.  # (B,) -> (B,)"""
    return score.astype(np.float64) >= threshold


class ScoreWriter:
    """Writes the scores of one model."""

    def __init__(
        self,
        model: str,
        schema: str,
        threshold: float,
        form: Form,
        players: Sequence[str] = (),  # who adds to scores that are explained
    ) -> None:
        self._model, self._schema, self._threshold, self._players = model, schema, threshold, list(players)
        self._packs = form == "packed"
        about = (("model", model.encode()), ("schema", schema.encode()))
        # One object in all messages, so that a log need not translate it for each.
        self._headers: Headers = about if self._packs else (("content-type", JSON.encode()), *about)
        self._write = self._packed if self._packs else self._single

    def write(self, events: EventBatch, scored: Scored, now: float) -> list[Message]:
        """Return the messages for the scores of `events`."""
        ids, ts, position, index = events.id, events.ts, events.position, events.index
        if len(scored.event) < len(events):
            at = scored.event
            ids, ts, position, index = ids[at], ts[at], position[at], index[at]
        names = ids if self._packs else ids.known()
        columns = _Columns(names, scored.score, ts, position, index, self._players, scored.why)
        return list(self._write(columns, now))

    def _single(self, columns: _Columns, now: float) -> Iterator[Message]:
        values = map(_encode, columns.each(self._threshold, self._model, now))
        fields = zip(values, columns.id, repeat(JSON), repeat(self._headers))
        return map(tuple.__new__, repeat(Message), fields)  # as Message._make does, without a step in Python for each

    def _packed(self, columns: _Columns, now: float) -> Iterator[Message]:
        count = len(columns)
        if not count:
            return
        buffers = {name: getattr(columns, name).astype(form).tobytes() for name, form in _BUFFERS.items()}
        assert isinstance(columns.id, Texts)
        ids: Any = msgspec.Raw(columns.id.msgpack())
        packed = _Packed(self._model, self._schema, self._threshold, now, ids, **buffers)
        if columns.why is not None:
            packed.players = self._players
            packed.why = columns.why[is_spam(columns.score, self._threshold)].astype("<f4").tobytes()
        value = _encode_packed(packed)
        if count > 1 and len(value) > MAX_BYTES:
            yield from self._packed(columns.part(0, count // 2), now)
            yield from self._packed(columns.part(count // 2, count), now)
        else:
            yield Message(value, None, PACKED_SCORES, self._headers)


class ScoreReader:
    """Reads score messages of either form."""

    def __init__(self) -> None:
        self.unreadable = 0  # messages that were none

    def read(self, records: Iterable[Record]) -> Iterator[ScoreMessage]:
        """Yield the scores of `records` in order; what is no score message is counted and passed over."""
        for record in records:
            try:
                scores = _unpacked(record.value) if record.content_type == PACKED_SCORES else (_decode(record.value),)
            except (ValueError, RecursionError):
                self.unreadable += 1
                continue
            yield from scores


def _unpacked(value: bytes) -> Iterator[ScoreMessage]:
    """Return the scores in a packed message; ValueError where it is none."""
    packed = _decode_packed(value)
    numbers: dict[str, Any] = {name: np.frombuffer(getattr(packed, name), form) for name, form in _BUFFERS.items()}
    columns = _Columns(packed.id, **numbers)
    if {len(column) for column in numbers.values()} != {len(columns)} or not np.isfinite(columns.score).all():
        raise ValueError("columns of different lengths, or a score that is no number")
    if packed.why and packed.players:
        _read_why(columns, packed.players, np.frombuffer(packed.why, "<f4"), packed.threshold)
    return columns.each(packed.threshold, packed.model, packed.scored_at)


def _read_why(columns: _Columns, players: list[str], why: npt.NDArray[np.float32], threshold: float) -> None:
    """Give each score that is spam its reasons; ValueError where they are not as many."""
    spam = is_spam(columns.score, threshold)
    columns.players, columns.why = players, np.full((len(columns), len(players)), np.nan, np.float32)
    columns.why[spam] = why.reshape(int(spam.sum()), len(players))
    if not np.isfinite(columns.why[spam]).all():
        raise ValueError("a reason that is no number")


_REASON_HEADERS: dict[str, Headers] = {reason: (("reason", reason.encode()),) for reason in REASONS}


def dead_letters(bad: Sequence[BadEvent]) -> Iterator[Message]:
    """Yield a dead letter for each bad event."""
    return (Message(_dead_letter(event), event.key, JSON, _REASON_HEADERS[event.reason]) for event in bad)


def _dead_letter(event: BadEvent) -> bytes:
    raw = event.raw[:MAX_RAW_BYTES]
    letter = DeadLetter(event.position, event.index, event.reason, event.detail[:500], len(event.raw))
    letter.topic, letter.offset = event.topic, event.offset
    with contextlib.suppress(UnicodeDecodeError):
        letter.text = raw.decode()
        if len(value := _encode(letter)) <= MAX_BYTES:
            return value
        letter.text = None  # text of control characters, six bytes each in JSON
    letter.base64 = base64.b64encode(raw).decode()
    return _encode(letter)
