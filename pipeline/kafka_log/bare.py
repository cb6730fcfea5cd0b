"""kafka-python by itself, for benches: what a loop reaches that looks at no message, and messages at a steady pace."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from pipeline.kafka_log.client import Cluster
from pipeline.kafka_log.sending import send_all
from pipeline.log import Message

POLL_MS = 1000
MAX_UNACKNOWLEDGED = 10_000  # messages; a broker that is slower slows the pace
WAIT_SECONDS = 0.001  # between two looks at what is not acknowledged


def echo(
    cluster: Cluster, topic: str, to: str, group: str, batch: int, share: float, like: Message
) -> tuple[int, float]:
    """Poll `topic` from its start to its present end, at most `batch` messages at once, and count the seconds.

    For each batch, `share` as many messages like `like` go to `to`, in one transaction with the position. Returns how
    many messages were polled, and in how many seconds. The settings are those that were the fastest of all that were
    tried: no linger, no flush, and no more records polled than a batch holds.
    """
    place = TopicPartition(topic, 0)
    consumer, producer = cluster.consumer(max_poll_records=batch), cluster.sender(0, f"bare-{group}")
    key, headers = None if like.key is None else like.key.encode(), list(like.headers)
    end, position, count = consumer.end_offsets([place])[place], 0, 0
    consumer.assign([place])
    consumer.seek(place, 0)
    producer.init_transactions()
    began = time.perf_counter()
    while position < end:
        for polled in consumer.poll(timeout_ms=POLL_MS).values():
            count, position = count + len(polled), polled[-1].offset + 1
            producer.begin_transaction()
            for _ in range(max(1, round(len(polled) * share))):
                producer.send(to, like.value, key, headers, 0)
            producer.send_offsets_to_transaction({place: OffsetAndMetadata(position, "", -1)}, group)
            producer.commit_transaction()
    seconds = time.perf_counter() - began
    producer.close(timeout=1)
    consumer.close(autocommit=False, timeout_ms=1000)
    return count, seconds


def paced(cluster: Cluster, topic: str, messages: Iterable[Message], per_second: float) -> Iterator[float]:
    """Send the messages to partition 0 at a steady pace, each by itself; yield the instant at which each was sent.

    The pace begins once the first is acknowledged: its client asks around for half a second before it sends anything.
    """
    producer = cluster.sender(0)
    waiting: deque[Any] = deque()
    began = time.monotonic()
    try:
        for number, message in enumerate(messages):
            if (left := began + number / per_second - time.monotonic()) > 0:  # sleep(0) takes 0.1 ms
                time.sleep(left)
            at = time.time()
            waiting.extend(send_all(producer, topic, [message], 0))
            if number == 0:
                _wait_for(waiting[0])
                began = time.monotonic()
            while waiting and (waiting[0].is_done or len(waiting) > MAX_UNACKNOWLEDGED):
                _wait_for(waiting.popleft())
            yield at
        for sent in waiting:
            _wait_for(sent)
    finally:
        producer.close(timeout=1)


def _wait_for(sent: Any) -> None:
    """Return once a message is acknowledged; raise what kept it from that."""
    while not sent.is_done:
        time.sleep(WAIT_SECONDS)
    if sent.failed():
        raise sent.exception
