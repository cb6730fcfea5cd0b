"""Messages of ours as the client sends them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pipeline.errors import LogError
from pipeline.log import JSON, TOMBSTONE, Headers, Message

CONTENT_TYPE = "content-type"
LINGER_MS = 5  # messages of one commit travel together; a flush does not wait for it


def send_all(producer: Any, topic: str, messages: Sequence[Message], partition: int | None) -> Iterator[Any]:
    """Hand messages to the client, in order; yield a future for each. Without a partition the key decides."""
    for value, key, content_type, headers in messages:
        name = None if key is None else key.encode(errors="surrogateescape")
        body = None if content_type == TOMBSTONE else value
        if body is None and name is None:
            raise LogError(f"a message without key and value cannot go to topic {topic!r}; leave it out")
        yield producer.send(topic, body, name, _headers(content_type, headers), partition)


@lru_cache(maxsize=256)  # the score messages of a run all have the same
def _headers(content_type: str, headers: Headers) -> list[tuple[str, bytes]]:
    """Return all headers; the client demands a list, and changes none."""
    if content_type in (JSON, TOMBSTONE):
        return list(headers)
    return [*headers, (CONTENT_TYPE, content_type.encode())]
