"""Messages of ours as the client sends them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from kafka import KafkaProducer, TopicPartition

from pipeline.errors import LogError
from pipeline.log import JSON, TOMBSTONE, Headers, Message

CONTENT_TYPE = "content-type"
LINGER_MS = 5  # messages of one commit travel together; a flush does not wait for it


def send_all(producer: Any, topic: str, messages: Sequence[Message], partition: int | None) -> Iterator[Any]:
    """Hand messages to the client, in order; yield a future for each. Without a partition the key decides."""
    quick = partition is not None and isinstance(producer, KafkaProducer)
    send, others = producer.send, partial(_send_another, producer) if quick else producer.send
    for value, key, content_type, headers in messages:
        name = None if key is None else key.encode(errors="surrogateescape")
        body = None if content_type == TOMBSTONE else value
        if body is None and name is None:
            raise LogError(f"a message without key and value cannot go to topic {topic!r}; leave it out")
        yield send(topic, body, name, _headers(content_type, headers), partition)
        send = others


def _send_another(
    producer: KafkaProducer, topic: str, value: bytes | None, key: bytes | None, headers: Any, partition: int
) -> Any:
    """Do what the client's `send` does after its checks, which the first of these messages has passed for all.

    They cost as much again: topic and partition are there, and in the transaction. What is wrong with the producer, or
    a message too large, shows in the futures.
    """
    place = TopicPartition(topic, partition)
    future, is_full, is_new, _ = producer._accumulator.append(place, None, key, value, headers)
    if is_full or is_new:
        producer._sender.wakeup()
    return future


def give_up(producer: Any) -> None:
    """Close a producer at once, with all that it has not sent. A transaction of its ends when the next one begins."""
    if isinstance(producer, KafkaProducer):
        # Its own `close` raises where something is not sent, and goes on trying for ever.
        producer._sender.force_close()
        producer._accumulator.abort_incomplete_batches()
    producer.close(timeout=0)


@lru_cache(maxsize=256)  # the score messages of a run all have the same
def _headers(content_type: str, headers: Headers) -> list[tuple[str, bytes]]:
    """Return all headers; the client demands a list, and changes none."""
    if content_type in (JSON, TOMBSTONE):
        return list(headers)
    return [*headers, (CONTENT_TYPE, content_type.encode())]
