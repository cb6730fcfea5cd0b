"""confluent-kafka in the place of kafka-python, where messages move: `kafka.client = "confluent"`.

librdkafka fetches and sends on threads of its own, outside of Python: several times the messages a second. What moves
no messages (groups, positions, topics) stays with kafka-python. Both classes have those methods of kafka-python's
consumer and producer that `reader`, `writer` and `early_writer` call, and raise its errors.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from kafka import TopicPartition
from kafka import errors as kafka_errors

from pipeline.config import Kafka
from pipeline.kafka_log.receiving import make_record
from pipeline.log import Record

FETCH_WAIT_MS = 200
FETCH_BYTES = 4 * 2**20
QUEUED_KILOBYTES = 32 * 2**10  # what librdkafka may fetch ahead of us
MOST_RECORDS = 5000  # at once
ANY_PARTITION = -1  # the key decides
OPEN_SECONDS = 30.0  # for what opens and closes a transaction, unless the broker has stalled

_SILENT = logging.getLogger("confluent_kafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def connection(servers: str, settings: Kafka) -> dict[str, Any]:
    """Return librdkafka's names for the [kafka] knobs."""
    options: dict[str, Any] = {
        "bootstrap.servers": servers,
        "client.id": "graphsieve",
        "security.protocol": settings.security,
        "reconnect.backoff.max.ms": 1000,
        "allow.auto.create.topics": False,
        "logger": _SILENT,
    }
    files = {
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    options |= {option: path for option, path in files.items() if path}
    if settings.security.startswith("sasl"):
        options["sasl.mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            options["oauth_cb"] = _token_reader(Path(settings.token_file))
        else:
            options |= {"sasl.username": settings.username, "sasl.password": settings.password}
    return options


TOKEN_SECONDS = 60.0  # until the file is read again


def _token_reader(path: Path) -> Callable[[str], tuple[str, float]]:
    return lambda _: (path.read_text(encoding="utf-8").strip(), time.time() + TOKEN_SECONDS)


class ConfluentConsumer:
    """Polls assigned partitions from given positions."""

    def __init__(self, servers: str, settings: Kafka) -> None:
        self._consumer = confluent_kafka.Consumer(
            connection(servers, settings)
            | {
                "group.id": "graphsieve-reader",  # demanded, and never joined: partitions are assigned
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,  # tells where a partition ends in the marks of transactions
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.message.max.bytes": FETCH_BYTES,
                "queued.max.messages.kbytes": QUEUED_KILOBYTES,
                "fetch.queue.backoff.ms": 5,
            }
        )
        self._next: dict[TopicPartition, int] = {}
        self._moved = False  # positions that librdkafka has not been told

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self._next = {place: self._next.get(place, 0) for place in places}
        self._moved = True

    def seek(self, place: TopicPartition, position: int) -> None:
        self._next[place] = position
        self._moved = True

    def pause(self, *places: TopicPartition) -> None:
        if places:
            self._consumer.pause([_place(place) for place in places])

    def resume(self, *places: TopicPartition) -> None:
        if places:
            self._consumer.resume([_place(place) for place in places])

    def position(self, place: TopicPartition) -> int:
        return self._next[place]

    def highwater(self, place: TopicPartition) -> int | None:
        _, high = self._consumer.get_watermark_offsets(_place(place), cached=True)
        return int(high) if high >= 0 else None

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        """Wait for a message, then return it and what has been fetched besides."""
        if self._moved:
            self._consumer.assign([_place(place, position) for place, position in self._next.items()])
            self._moved = False
        first = self._consumer.poll(timeout_ms / 1000)
        if first is None:
            return {}
        polled: dict[TopicPartition, list[Any]] = {}
        for message in [first, *self._consumer.consume(min(max_records, MOST_RECORDS) - 1, 0)]:
            place = TopicPartition(message.topic(), message.partition())
            if (error := message.error()) is not None:
                self._take_error(place, message, error)
                continue
            polled.setdefault(place, []).append(message)
            self._next[place] = (message.offset() or 0) + 1
        return polled

    def close(self, autocommit: bool = False, timeout_ms: int = 0) -> None:
        self._consumer.close()

    def _take_error(self, place: TopicPartition, message: Any, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._next[place] = message.offset()
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise kafka_errors.OffsetOutOfRangeError({place: self._next[place]})
        elif error.fatal() or error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNKNOWN_PARTITION):
            raise _translated(error)
        # Whatever else is told of, such as a broker that is away, librdkafka mends by itself.


def record_of(message: Any) -> Record:
    """Return what librdkafka polled as a record."""
    _, timestamp_ms = message.timestamp()
    return make_record(message.offset(), message.key(), message.value(), message.headers(), timestamp_ms)


class ConfluentProducer:
    """Sends, alone or in transactions."""

    def __init__(self, servers: str, settings: Kafka, transactional_id: str | None, linger_ms: int) -> None:
        self._settings = settings
        self._connection = connection(servers, settings)
        options = self._connection | {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "retry.backoff.ms": 5,  # a transaction waits for the broker to finish the one before: some milliseconds
            "retry.backoff.max.ms": 50,
            "message.max.bytes": 32 * 2**20,
            "delivery.timeout.ms": 24 * 3600 * 1000,
            "queue.buffering.max.messages": 1_000_000,
            "partitioner": "murmur2_random",  # that of every other client
        }
        if transactional_id is not None:
            stall_ms = round(settings.stall_seconds * 1000)
            options |= {"transactional.id": transactional_id, "transaction.timeout.ms": stall_ms}
            options |= {"delivery.timeout.ms": stall_ms}  # which librdkafka bounds by that of the transaction
        self._transactional = transactional_id is not None
        self._groups: dict[str, Any] = {}  # what librdkafka wants to know of a group, by name
        with _kafka_errors():
            self._producer = confluent_kafka.Producer(options)

    def send(self, topic: str, value: Any, key: Any, headers: Any, partition: int | None) -> "Sent":
        sent = Sent(self._producer)
        place = ANY_PARTITION if partition is None else partition
        while True:
            try:
                with _kafka_errors():
                    self._producer.produce(topic, value, key, place, headers=headers, on_delivery=sent.deliver)
                return sent
            except BufferError:
                self._producer.poll(0.01)

    def flush(self, timeout: float) -> None:
        with _kafka_errors():
            if self._producer.flush(timeout):
                raise kafka_errors.KafkaTimeoutError(f"no acknowledgement for {timeout:.0f} s")

    def init_transactions(self) -> None:
        with _kafka_errors():
            self._producer.init_transactions(self._settings.stall_seconds)

    def begin_transaction(self) -> None:
        with _kafka_errors():
            self._producer.begin_transaction()

    def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, Any], group: str) -> None:
        places = [_place(place, offset.offset, offset.metadata) for place, offset in offsets.items()]
        with _kafka_errors():
            self._producer.send_offsets_to_transaction(places, self._group(group), self._settings.stall_seconds)

    def commit_transaction(self) -> None:
        with _kafka_errors():
            self._producer.commit_transaction(self._settings.stall_seconds)

    def close(self, timeout: float = 0) -> None:
        """Drop what is not sent; the object's end closes the connections."""
        self._producer.purge(blocking=False)
        self._producer.flush(timeout)

    def _group(self, group: str) -> Any:
        if group not in self._groups:
            consumer = confluent_kafka.Consumer(self._connection | {"group.id": group})
            self._groups[group] = consumer.consumer_group_metadata()
            consumer.close()
        return self._groups[group]


class Sent:
    """One message on its way: what kafka-python's future of it tells."""

    __slots__ = ("_done", "_producer", "exception", "value")

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._done = False
        self.exception: Exception | None = None
        self.value: Any = None  # with the `offset` it got

    @property
    def is_done(self) -> bool:
        if not self._done:
            self._producer.poll(0)
        return self._done

    def failed(self) -> bool:
        return self._done and self.exception is not None

    def deliver(self, error: KafkaError | None, message: Any) -> None:
        """What librdkafka calls."""
        self._done = True
        if error is not None:
            self.exception = _translated(error)
        else:
            self.value = _Delivered(message.offset())


class _Delivered:
    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset


def _place(place: TopicPartition, position: int = -1001, metadata: str | None = None) -> Any:
    if metadata is None:
        return confluent_kafka.TopicPartition(place.topic, place.partition, position)
    return confluent_kafka.TopicPartition(place.topic, place.partition, position, metadata)


@contextlib.contextmanager
def _kafka_errors() -> Iterator[None]:
    """Raise kafka-python's errors in the place of confluent's."""
    try:
        yield
    except KafkaException as error:
        raise _translated(error.args[0]) from error


_LOCAL: dict[int, type[Exception]] = {
    KafkaError._FENCED: kafka_errors.ProducerFencedError,
    KafkaError._AUTHENTICATION: kafka_errors.SaslAuthenticationFailedError,
    KafkaError._UNKNOWN_TOPIC: kafka_errors.UnknownTopicOrPartitionError,
    KafkaError._UNKNOWN_PARTITION: kafka_errors.UnknownTopicOrPartitionError,
}


def _translated(error: KafkaError) -> Exception:
    kind: type[Exception] = kafka_errors.KafkaTimeoutError
    if error.code() in _LOCAL:
        kind = _LOCAL[error.code()]
    elif error.code() > 0:  # the broker's own
        kind = kafka_errors.for_code(error.code())
    return kind(error.str())
