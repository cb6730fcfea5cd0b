"""Kafka's messages as records of ours."""

import math
from typing import Any

from pipeline.kafka_log.sending import CONTENT_TYPE
from pipeline.log import JSON, TOMBSTONE, Headers, Record


def record_of(polled: Any) -> Record:
    """Return what kafka-python polled as a record."""
    value, key, timestamp_ms = polled.value, polled.key, polled.timestamp
    if polled.headers or value is None or timestamp_ms < 0:
        return make_record(polled.offset, key, value, polled.headers, timestamp_ms)
    name = None if key is None else key.decode(errors="surrogateescape")
    return Record(polled.offset, value, name, JSON, timestamp_ms / 1000)  # as nearly all are: half the time


def make_record(offset: int, key: bytes | None, value: bytes | None, headers: Any, timestamp_ms: int) -> Record:
    """Return a record; a message without a value is a tombstone."""
    name = None if key is None else key.decode(errors="surrogateescape")
    if value is None:  # it keeps a content type among its headers, as it came
        value, content_type, others = b"", TOMBSTONE, tuple((n, v or b"") for n, v in headers or ())
    else:
        content_type, others = _split(headers) if headers else (JSON, ())
    appended_at = timestamp_ms / 1000 if timestamp_ms >= 0 else math.nan  # -1: the broker knows none
    return Record(offset, value, name, content_type, appended_at, others)


def _split(headers: list[tuple[str, bytes]]) -> tuple[str, Headers]:
    """Return the content type and the other headers; JSON that says so itself stays among them, as it came."""
    for i, (name, value) in enumerate(headers):
        if name == CONTENT_TYPE and value is not None and value != JSON.encode():
            rest = (*headers[:i], *headers[i + 1 :])
            return value.decode(errors="replace"), tuple((n, v or b"") for n, v in rest)
    return JSON, tuple((name, value or b"") for name, value in headers)
