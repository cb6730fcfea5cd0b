"""kafka-python's clients with our settings, and its errors in one line each.

    Cluster      where the brokers are and how to speak to them; makes consumers, producers and admin clients
    one_line     turns whatever a client raises into a LogError that says what to do

Passwords and tokens are in the clients' settings only: no message of ours holds one.
"""

import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as kafka_errors
from kafka.net.sasl.oauth import AbstractTokenProvider

from pipeline.config import Kafka
from pipeline.errors import ConfigError, LogError
from pipeline.kafka_log.answers import compile_one_at_a_time
from pipeline.kafka_log.receiving import record_of
from pipeline.kafka_log.sockets import DIRECT, Tls
from pipeline.log import Record

BOOTSTRAP_MS = 15_000  # for the first answer of any broker
FETCH_WAIT_MS = 200  # the broker answers earlier as soon as there is a message
FETCH_BYTES = 4 * 2**20  # of a partition at once
BATCH_BYTES = 256 * 1024  # messages of one partition in one request; a larger message goes alone
REQUEST_MS = 30_000
NEVER_MS = 24 * 3600 * 1000  # a batch that expires in the client wedges its producer for good: let none expire
RETRY_BACKOFF_MS = 5  # a transaction must wait for the broker to finish the one before: some milliseconds
MAX_MESSAGE_BYTES = 32 * 2**20  # the broker's own limit decides, and its refusal says what to raise

# The client tells of every reconnection as a warning; what an operator must know is said by us, in one line.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

compile_one_at_a_time()


@dataclass(frozen=True)
class Cluster:
    """The brokers of `kafka://HOST:PORT[,HOST:PORT]`."""

    servers: str
    settings: Kafka = Kafka()
    _options: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_options", _connection_options(self.servers, self.settings))

    def consumer(self, **options: Any) -> Any:
        """Return a consumer of committed records that commits nothing by itself."""
        ours = {
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "max_partition_fetch_bytes": FETCH_BYTES,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        with self._bootstrapping():
            return KafkaConsumer(**{**self._options, **ours, **options})

    def producer(self, **options: Any) -> Any:
        """Return an idempotent producer that waits for all replicas."""
        ours = {
            "acks": "all",
            "enable_idempotence": True,
            "batch_size": BATCH_BYTES,
            "max_request_size": MAX_MESSAGE_BYTES,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        with self._bootstrapping():
            return KafkaProducer(**{**self._options, **ours, **options})

    def fetcher(self, consumer: Any) -> tuple[Any, Callable[[Any], Record]]:
        """Return what polls messages, and what makes records of them; `consumer` itself unless confluent-kafka does."""
        if self.settings.client == "kafka-python":
            return consumer, record_of
        confluent = _confluent()
        with one_line(self.servers):
            return confluent.ConfluentConsumer(self.servers, self.settings), confluent.record_of

    def sender(self, linger_ms: int, transactional_id: str | None = None) -> Any:
        """Return an idempotent producer with our settings, for transactions if it has an id for them."""
        if self.settings.client == "confluent":
            confluent = _confluent()
            with one_line(self.servers):
                return confluent.ConfluentProducer(self.servers, self.settings, transactional_id, linger_ms)
        options: dict[str, Any] = {"delivery_timeout_ms": NEVER_MS, "linger_ms": linger_ms}
        if transactional_id is not None:
            stall_ms = round(self.settings.stall_seconds * 1000)
            options |= {"transactional_id": transactional_id, "transaction_timeout_ms": stall_ms}
            options |= {"max_block_ms": stall_ms, "retry_backoff_ms": RETRY_BACKOFF_MS}
            # A producer is lost with the first transactional request that gets no answer for so long.
            options |= {"request_timeout_ms": max(REQUEST_MS, stall_ms)}
        return self.producer(**options)

    def admin(self) -> Any:
        with self._bootstrapping():
            return KafkaAdminClient(**self._options)

    def check_that_something_listens(self) -> None:
        """LogError at once, where a client would try for BOOTSTRAP_MS."""
        if not any(map(_listens, self.servers.split(","))):
            raise LogError(f"kafka {self.servers}: {self._why_no_answer()}")

    @contextlib.contextmanager
    def _bootstrapping(self) -> Iterator[None]:
        """Say why no broker answers: the client itself only tells that none did."""
        with one_line(self.servers):
            try:
                yield
            except kafka_errors.KafkaTimeoutError as error:
                gc.collect()  # a client that cannot start leaves files open, and whoever waits for a broker tries often
                failure = LogError(f"kafka {self.servers}: {self._why_no_answer()}")
                failure.retriable = True
                raise failure from error

    def _why_no_answer(self) -> str:
        if not any(map(_listens, self.servers.split(","))):
            return "nothing listens there; start a broker (`make kafka` for a first try), or name another HOST:PORT"
        if self.settings.security == "plaintext":
            return "what listens there does not answer as a broker without encryption does; see kafka.security"
        return (
            "a broker listens there, but lets nobody in with these credentials or trusts another authority; "
            "see kafka.security, kafka.ca_file, kafka.sasl_mechanism, kafka.username and kafka.password"
        )


def _confluent() -> Any:
    try:
        from pipeline.kafka_log import confluent
    except ModuleNotFoundError as error:
        message = f"kafka.client = 'confluent' needs the module {error.name}: pip install 'graphsieve[kafka,confluent]'"
        raise ConfigError(message) from None
    return confluent


def _listens(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


def _connection_options(servers: str, settings: Kafka) -> dict[str, Any]:
    options: dict[str, Any] = {"bootstrap_servers": servers.split(","), "client_id": "graphsieve"}
    options |= {"security_protocol": settings.security.upper(), "bootstrap_timeout_ms": BOOTSTRAP_MS}
    options |= {"reconnect_backoff_max_ms": 1000, "proxy_url": DIRECT}
    for knob in ("ca_file", "certificate_file", "key_file"):
        path = getattr(settings, knob)
        if path and not Path(path).is_file():
            raise ConfigError(f"kafka.{knob}: no file {path}; name a PEM file that can be read")
    options["ssl_context"] = Tls(settings.ca_file, settings.certificate_file, settings.key_file)
    if settings.security.startswith("sasl"):
        options |= _sasl_options(settings)
    return options


def _sasl_options(settings: Kafka) -> dict[str, Any]:
    if settings.sasl_mechanism == "OAUTHBEARER":
        if not settings.token_file:
            raise ConfigError("kafka.token_file: empty, OAUTHBEARER needs a file that holds the token")
        provider = _TokenFile(Path(settings.token_file))
        return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": provider}
    if not settings.username or not settings.password:
        raise ConfigError(
            f"kafka.username, kafka.password: {settings.sasl_mechanism} needs both; "
            "set GRAPHSIEVE_KAFKA_USERNAME and GRAPHSIEVE_KAFKA_PASSWORD"
        )
    user = {"sasl_plain_username": settings.username, "sasl_plain_password": settings.password}
    return {"sasl_mechanism": settings.sasl_mechanism, **user}


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # the client ships no types
    """Reads the token anew for each connection, so that whoever renews the file need not restart us."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        return self._path.read_text(encoding="utf-8").strip()

    def extensions(self) -> dict[str, str]:
        return {}


# What a client raises -> what happened and what to do about it; the first that fits counts.
_LINES: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError),
        "the broker no longer accepts these credentials",
        "see kafka.sasl_mechanism, kafka.username and kafka.password",
    ),
    (
        (kafka_errors.AuthorizationError,),
        "this user may not do that",
        "let its ACLs grant: read on events and group, write on the outputs and the transactional id (graphsieve-...)",
    ),
    (
        (kafka_errors.UnknownTopicOrPartitionError,),
        "there is no such topic or partition",
        "make it: graphsieve topics create kafka://HOST:PORT/TOPIC --partitions N",
    ),
    (
        (kafka_errors.InvalidTopicError,),
        "that is no name of a topic",
        "use letters, digits, '.', '_' and '-', at most 249 of them",
    ),
    (
        (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError),
        "the broker refuses a message for its size",
        "raise the topic's max.message.bytes, or lower score.max_batch",
    ),
    (
        (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError, kafka_errors.RetriableError),
        "no answer in time",
        "see whether a broker runs and can be reached there, with the kafka.security that it expects",
    ),
)  # fmt: skip


@contextlib.contextmanager
def one_line(place: str) -> Iterator[None]:
    """Turn the client's errors into LogError; `place` says whose answer it was."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        failure = LogError(f"kafka {place}: {explain(error)}")
        failure.retriable = isinstance(error, kafka_errors.RetriableError)
        raise failure from error
    except (OSError, ValueError, AssertionError) as error:  # files that are no PEM, a HOST:PORT that is none
        raise LogError(f"kafka {place}: {type(error).__name__}: {error}; see the [kafka] knobs") from error


def explain(error: BaseException) -> str:
    """Return what happened and what to do about it, in one line without secrets."""
    for kinds, what, fix in _LINES:
        if isinstance(error, kinds):
            return f"{what} ({type(error).__name__}); {fix}"
    return f"{type(error).__name__}: {error}; see https://kafka.apache.org/protocol.html#protocol_error_codes"
