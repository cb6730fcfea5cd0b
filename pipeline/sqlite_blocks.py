"""Blocks: how messages lie in the embedded log, many in one row.

    last           position of its last message: the first block with last >= p holds p, where there is p
    appended_at    of all its messages, and so are
    content_type
    headers        msgpack, NULL where there are none
    messages       msgpack: keys, odd keys, values, a list each. Keys are texts, or nil where none has one; where one
                   of them is no UTF-8, all are odd keys, which are bytes, and nil stands for the keys

To SQLite and its module a row costs two microseconds, whatever it holds. A block is what one transaction appended
at once, but for messages of several kinds, which have blocks of their own; and no more than BLOCK_MESSAGES or, with
more than one message, BLOCK_BYTES: who wants one message decodes all of its block.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, repeat

import msgspec

from pipeline.log import Headers, Message, Record

COLUMNS = (
    "last INTEGER PRIMARY KEY, appended_at REAL NOT NULL, content_type TEXT NOT NULL, headers BLOB,"
    " messages BLOB NOT NULL"
)
BLOCK_MESSAGES = 512
BLOCK_BYTES = 64 << 10  # of values

Block = tuple[int, str, bytes | None, bytes]  # how many messages, and the row's last three columns
Row = tuple[int, float, str, bytes | None, bytes]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[str | None] | None, list[bytes | None] | None, list[bytes]]).decode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode
_new = tuple.__new__


def blocks_of(messages: Sequence[Message]) -> list[Block]:
    """Return the blocks that hold `messages`: they need no position yet, and are made before the log is locked."""
    return [
        block
        for start in range(0, len(messages), BLOCK_MESSAGES)
        for block in _blocks(messages[start : start + BLOCK_MESSAGES])
    ]


def rows_of(blocks: Iterable[Block], position: int, appended_at: float) -> Iterator[Row]:
    """Yield the rows of `blocks`, the first message of which gets `position`."""
    for count, content_type, headers, messages in blocks:
        position += count
        yield position - 1, appended_at, content_type, headers, messages


def _blocks(messages: Sequence[Message]) -> Iterator[Block]:
    values, keys, content_types, headers = zip(*messages, strict=True)
    count, content_type, said = len(messages), content_types[0], headers[0]
    alike = content_types.count(content_type) == headers.count(said) == count
    if count > 1 and not (alike and sum(map(len, values)) <= BLOCK_BYTES):
        yield from _blocks(messages[: count // 2])
        yield from _blocks(messages[count // 2 :])
    else:
        yield count, content_type, _pack_headers(said), _packed(keys, values)


def _packed(keys: Sequence[str | None], values: Sequence[bytes]) -> bytes:
    known = None if keys[0] is None and keys.count(None) == len(keys) else keys
    try:
        return _encode((known, None, values))
    except UnicodeEncodeError:
        odd = [None if key is None else key.encode(errors="surrogateescape") for key in keys]
        return _encode((None, odd, values))


def records_of(row: Row, position: int, most: int) -> list[Record]:
    """Return the records in a row from `position` on, at most so many; ValueError where it is damaged."""
    last, appended_at, content_type, packed_headers, messages = row
    keys, odd, values = _decode(messages)
    if odd is not None:
        keys = [None if key is None else key.decode(errors="surrogateescape") for key in odd]
    if keys is not None and len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys, {len(values)} values")
    first, headers = last + 1 - len(values), _unpacked(packed_headers)
    if first == last:  # appended alone: what is below would take three times as long
        key = None if keys is None else keys[0]
        return [_new(Record, (last, values[0], key, content_type, appended_at, headers, "", -1))]
    same = (repeat(content_type), repeat(appended_at), repeat(headers), repeat(""), repeat(-1))
    fields = zip(range(first, last + 1), values, repeat(None) if keys is None else keys, *same)  # noqa: B905
    start = max(0, position - first)
    # As Record._make does, without a step in Python for each.
    return list(map(_new, repeat(Record), islice(fields, start, start + most)))


@lru_cache(maxsize=256)  # the score messages of a run all have the same
def _pack_headers(headers: Headers) -> bytes | None:
    return msgspec.msgpack.encode(headers) if headers else None


@lru_cache(maxsize=256)
def _unpacked(headers: bytes | None) -> Headers:
    return _decode_headers(headers) if headers else ()
