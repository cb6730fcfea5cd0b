"""Recorded files: the messages of a topic, one a line, plain or compressed (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`).

    {"type":"node","id":"r17",...}                                     a message and nothing else
    {"graphsieve_record":1,"position":7,"appended_at":1.5,"key":null,  an envelope: a message, byte for byte, with what
        "content_type":"application/json","value":{...}}               its log knew of it
        ... ,"base64":"3q2+7w=="}                                      ... where it is not JSON on one line

A line that starts with `{"graphsieve_record":` is an envelope.  Any other line is itself the message; its position is
the number of messages before it.  Blank lines are nothing.

A compressed file is a sequence of frames, as gzip and zstandard allow: reading streams through them, appending adds
one.  `RecordedWriter` writes under another name and renames at the end, so that nobody meets half a file.
"""

import contextlib
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, NamedTuple, Protocol, Self

import msgspec
import zstandard

from pipeline.errors import DataError, LogError
from pipeline.log import JSON, Headers, Log, Message, Move, Progress, Read, Record

ENVELOPE_START = b'{"graphsieve_record":'
MAX_BRACKETS = 500  # JSON with more could be nested deeper than a reader's stack allows, so it goes as base64
READ_BYTES, WRITE_BYTES = 1 << 16, 1 << 18  # what is read and written at once


def read_messages(path: str | Path) -> Iterator[Record]:
    """Yield the messages of a recorded file in order; memory holds no more than a piece of it.

    A missing, truncated or corrupt file is a DataError that names the file and the line.
    """
    path = Path(path)
    line_number = message_count = 0
    try:
        with path.open("rb") as file:
            for line in _lines(_pieces(file, _codec(path))):
                line_number += 1
                if line.startswith(ENVELOPE_START):
                    yield _unwrap(line)
                elif not line or line.isspace():
                    continue
                else:
                    yield Record(message_count, line, None, JSON, math.nan)
                message_count += 1
    except FileNotFoundError:
        raise DataError(f"no recorded file at {path}: `graphsieve import` and `graphsieve record` make one") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): expected a readable recorded file") from error
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}, line {line_number + 1}: damaged ({error}); copy or make the file again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}, line {line_number}: not a recorded message ({error}); record it again") from error


class RecordedWriter:
    """Writes a recorded file that appears under its name when it is closed: whole, or after an error not at all.

    with RecordedWriter("events.jsonl.zst") as writer:
        writer.write_line(b'{"type":"node","id":"r17"}')
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        self._frame = _codec(self._path).compressor()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        with _one_line_errors(self._path):
            self._file = self._part.open("wb")

    def write_line(self, message: bytes) -> None:
        """Write a message that is JSON on one line as it is, without an envelope."""
        if b"\n" in message:
            raise ValueError(f"a message of several lines needs an envelope: {message[:80]!r}")
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        if self._waiting_bytes > WRITE_BYTES:
            self._write_out()

    def write_record(self, record: Record) -> None:
        """Write any message in an envelope, with its position, key, content type and time."""
        self.write_line(_wrap(record))

    def close(self) -> None:
        """Give the finished file its name, in the place of what had it before."""
        if self._file.closed:
            return
        self._write_out()
        with _one_line_errors(self._path):
            self._file.write(self._frame.flush())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)

    def discard(self) -> None:
        """Drop what was written; what had the name before stays."""
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the file's buffer
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.discard()  # nothing is left to drop if the file has its name

    def _write_out(self) -> None:
        with _one_line_errors(self._path):
            self._file.write(self._frame.compress(_joined(self._waiting)))
        self._waiting.clear()
        self._waiting_bytes = 0


class RecordedFile(Log):
    """A recorded file behind the log contract: one topic, to be read and appended to.

    It keeps no positions of groups, so `commit` refuses.  Positions count its messages from 0, also where the envelopes
    of a part of a topic say otherwise.  It is finished but for what this object appends: others' additions may be
    missed.  Reading on from the last batch streams; reading elsewhere starts over at the top.
    """

    def __init__(
        self, path: str | Path, topic: str = "events", create: bool = True, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = Path(path)
        self._topic = topic
        self._clock = clock
        self._end: int | None = None  # None: not counted yet
        self._reader: Iterator[Record] = iter(())  # stands before the record at _next
        self._next = -1
        if not create and not self._path.exists():
            raise LogError(f"no recorded file at {path}: `graphsieve import` and `graphsieve record` make one")

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        start = self.end(topic)
        now = self._clock()
        lines = [
            _wrap(Record(position, value, key, content_type, now, headers))
            for position, (value, key, content_type, headers) in enumerate(messages, start)
        ]
        if lines:
            # After a blank line, because the last line of a file from elsewhere may lack its end.
            self._append_frame([b"", *lines] if start else lines)
        self._end = start + len(lines)
        return self._end

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        self._check(topic)
        records: list[Record] = []
        if self._end is None or position < self._end:
            records = self._read(position, max_records)
        if not records:
            self.wait({topic: position}, timeout_seconds)
        position += len(records)
        return Read(records, position, max(position, self.end(topic)))

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        if all(position >= self.end(topic) for topic, position in positions.items()):
            time.sleep(timeout_seconds)

    def commit(self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> None:
        raise LogError(
            f"{self._path} is a recorded file and cannot keep the position of group {group!r}: "
            f"`graphsieve replay {self._path} --to sqlite:FILE` copies it to a log that can"
        )

    def committed(self, group: str, topic: str) -> Progress:
        self._check(topic)
        return Progress(0, 0)

    def flush(self) -> None:
        """Nothing: what was appended is written."""

    def end(self, topic: str) -> int:
        self._check(topic)
        if self._end is None:
            self._end = self._count()
        return self._end

    def close(self) -> None:
        self._reader, self._next = iter(()), -1

    def _check(self, topic: str) -> None:
        if topic != self._topic:
            raise LogError(f"{self._path} is a recorded file of the topic {self._topic!r}, it has no topic {topic!r}")

    def _messages(self) -> Iterator[Record]:
        return read_messages(self._path) if self._path.exists() else iter(())

    def _count(self) -> int:
        return sum(1 for _ in self._messages())

    def _read(self, position: int, max_records: int) -> list[Record]:
        if position != self._next:
            self._reader = islice(self._messages(), position, None)
        records = [
            record if record.position == counted else record._replace(position=counted)
            for counted, record in zip(range(position, position + max_records), self._reader, strict=False)
        ]
        # A reader that has come to its end stays there, whatever is appended.
        self._next = position + len(records) if len(records) == max_records else -1
        return records

    def _append_frame(self, lines: Iterable[bytes]) -> None:
        frame = _codec(self._path).compressor()
        left = memoryview(frame.compress(_joined(lines)) + frame.flush())
        with _one_line_errors(self._path), self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)  # all messages or none
                raise


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Decompressor(Protocol):
    """One frame: `eof` once it is complete, and then `unused_data` is what followed it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Plain:
    """Both sides of no compression: frames of any length, complete at any time."""

    eof = True
    unused_data = b""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def decompress(self, data: bytes, /) -> bytes:
        return data


class _Codec(NamedTuple):
    """Makes what writes, and what reads, one frame."""

    compressor: Callable[[], _Compressor]
    decompressor: Callable[[], _Decompressor]


CODECS = {
    # 31: the gzip format, with the largest window; its header holds no time, so equal input makes equal files
    ".gz": _Codec(lambda: zlib.compressobj(wbits=31), lambda: zlib.decompressobj(wbits=31)),
    ".zst": _Codec(
        lambda: zstandard.ZstdCompressor(write_checksum=True).compressobj(),
        lambda: zstandard.ZstdDecompressor().decompressobj(),
    ),
}


def _codec(path: Path) -> _Codec:
    return CODECS.get(path.suffix, _Codec(_Plain, _Plain))


def _pieces(file: BinaryIO, codec: _Codec) -> Iterator[bytes]:
    frame = codec.decompressor()
    while data := file.read(READ_BYTES):
        while data:
            if frame.eof:
                frame = codec.decompressor()
            yield frame.decompress(data)
            data = frame.unused_data
    if not frame.eof:
        raise EOFError("it ends too early")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text that comes in pieces, without their ends."""
    begun: list[bytes] = []  # the pieces of the line that has not ended yet
    for piece in pieces:
        end_of_line, *more = piece.split(b"\n")
        begun.append(end_of_line)
        if more:
            yield b"".join(begun)
            yield from more[:-1]
            begun = more[-1:]
    yield b"".join(begun)


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


class _Envelope(msgspec.Struct, omit_defaults=True):
    graphsieve_record: Literal[1]  # the format; raise it when the fields change
    position: int
    appended_at: float | None
    key: str | None
    content_type: str
    key_base64: bytes | None = None  # instead of `key`, where that is no UTF-8
    headers: Headers = ()  # their values as base64
    topic: str = ""
    offset: int = -1
    value: msgspec.Raw = msgspec.Raw()  # the one
    base64: bytes = b""  # or the other


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def _wrap(record: Record) -> bytes:
    position, value, key, content_type, appended_at, headers, topic, offset = record
    envelope = _Envelope(1, position, appended_at, key, content_type, None, headers, topic, offset)
    if key is not None and not _is_utf8(key):
        envelope.key, envelope.key_base64 = None, key.encode(errors="surrogateescape")
    if _is_json_on_one_line(value):
        envelope.value = msgspec.Raw(value)
    else:
        envelope.base64 = value
    return msgspec.json.encode(envelope)


def _unwrap(line: bytes) -> Record:
    envelope = _envelope_decoder.decode(line)
    value = bytes(envelope.value) or envelope.base64
    key = envelope.key if envelope.key_base64 is None else envelope.key_base64.decode(errors="surrogateescape")
    appended_at = math.nan if envelope.appended_at is None else envelope.appended_at
    place = envelope.headers, envelope.topic, envelope.offset
    return Record(envelope.position, value, key, envelope.content_type, appended_at, *place)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json_on_one_line(value: bytes) -> bool:
    """Tell whether an envelope can hold the value as it is and give it back byte for byte."""
    if b"\n" in value or value.strip() != value or value.count(b"[") + value.count(b"{") > MAX_BRACKETS:
        return False
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): expected a folder with room to write in") from error
