"""Fixtures that several test modules use."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import settings

from pipeline.broker import Broker, Security
from pipeline.broker_jars import missing

# Machines differ and are busy: how long an example takes says nothing about whether it is right.
settings.register_profile("graphsieve", deadline=None)
settings.load_profile("graphsieve")

REPOSITORY = Path(__file__).resolve().parents[1]

# The files that take a minute and more. A process that came to one of them last would leave the others idle.
LONGEST_FIRST = (
    "test_kafka_faults", "test_bench_kafka", "test_bench", "test_stack", "test_service", "test_broker",
    "test_follow_kafka", "test_twin", "test_kafka_security", "test_docs_kafka", "test_docs", "test_demo",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data; a test that needs it skips where the folder is absent."""
    folder = Path(os.environ.get("GRAPHSIEVE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "reviews").is_dir():
        pytest.skip(f"no real data at {folder}: set GRAPHSIEVE_DATA to the folder that holds reviews/ and networks/")
    return folder


# Who may log in at the secure listener of `broker`.
USERS = {"alice": "wonderland", "bob": "builder"}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, which clients trust, and `broker.pem`, which the broker shows."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    pkcs8 = key.private_bytes(  # the only form that Kafka reads
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "broker.pem").write_bytes(pkcs8 + b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return folder


@pytest.fixture(scope="session")
def broker(certificates: Path) -> Iterator[Broker]:
    """A Kafka broker that all tests of a process share: each has topics and groups of its own names."""
    need_a_broker()
    security = Security(certificates / "broker.pem", USERS)
    with (
        tempfile.TemporaryDirectory(prefix="graphsieve-broker-") as folder,
        Broker.start(Path(folder), security=security) as broker,
    ):
        yield broker


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A Kafka broker for one test, which may kill it."""
    need_a_broker()
    with tempfile.TemporaryDirectory(prefix="graphsieve-broker-") as folder, Broker.start(Path(folder)) as broker:
        yield broker


@pytest.fixture(scope="module")
def pausable_broker() -> Iterator[Broker]:
    """A Kafka broker for the tests of a module, which may stop it for a while."""
    need_a_broker()
    with tempfile.TemporaryDirectory(prefix="graphsieve-broker-") as folder, Broker.start(Path(folder)) as broker:
        yield broker


def need_a_broker() -> None:
    """Skip the test where no broker can run, and say why; under CI=true, where Java and Maven are installed, fail."""
    if reason := missing():
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(reason)
