"""Messages of ours as the client sends them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka import errors as kafka_errors

from pipeline.errors import LogError
from pipeline.log import JSON, TOMBSTONE, Headers, Message

CONTENT_TYPE = "content-type"
END_SECONDS = 5.0  # for the client's thread, which a wakeup reaches wherever it waits
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


def look_up(producer: Any, topics: Sequence[str]) -> None:
    """Have the client ask where the topics are: else the first message to each waits for the answer, 0.1 s or more."""
    if isinstance(producer, KafkaProducer):
        for topic in topics:
            producer.partitions_for(topic)


def commit_transaction(
    producer: Any, sent: Sequence[Any], offsets: Mapping[TopicPartition, Any], group: str, stall_seconds: float
) -> None:
    """Commit what was `sent`, with the group's positions; KafkaTimeoutError where the broker stalls for so long."""
    try:
        if isinstance(producer, KafkaProducer):
            _commit_at_once(producer, offsets, group, stall_seconds)
        else:
            producer.flush(stall_seconds)
            producer.send_offsets_to_transaction(offsets, group)
            producer.commit_transaction()
    finally:
        for future in sent:
            if future.failed():
                raise future.exception  # why the transaction failed


def _commit_at_once(
    producer: KafkaProducer, offsets: Mapping[TopicPartition, Any], group: str, stall_seconds: float
) -> None:
    """Ask for all that is left of a transaction, and wait once.

    The client's public calls do it one after the other and wake this thread after each; and those that add positions
    and commit wait for a stalled broker until it is back.
    """
    manager = producer._transaction_manager
    manager.send_offsets_to_transaction(offsets, group)
    committed = manager.begin_commit()
    producer._sender.wakeup()
    if not committed.wait(stall_seconds * 1000):
        raise kafka_errors.KafkaTimeoutError(f"no answer for {stall_seconds:g} s")


def give_up(producer: Any) -> None:
    """Close a producer at once, with all that it has not sent. A transaction of its ends when the next one begins."""
    if isinstance(producer, KafkaProducer):
        # Its own `close` raises where something is not sent, and goes on trying for ever. The client's thread aborts
        # that as its last deed: nobody else may, for two that abort the same batch meet an error.
        producer._sender.force_close()
        producer._sender.join(END_SECONDS)
    with contextlib.suppress(kafka_errors.KafkaTimeoutError):  # a thread that hangs ends whenever it can
        producer.close(timeout=0)


@lru_cache(maxsize=256)  # the score messages of a run all have the same
def _headers(content_type: str, headers: Headers) -> list[tuple[str, bytes]]:
    """Return all headers; the client demands a list, and changes none."""
    if content_type in (JSON, TOMBSTONE):
        return list(headers)
    return [*headers, (CONTENT_TYPE, content_type.encode())]
