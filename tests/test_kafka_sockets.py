"""kafka-python leaves some sockets to the garbage collection, which warns of them in whichever test comes next."""

import asyncio
import gc
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

sockets = pytest.importorskip("pipeline.kafka_log.sockets", reason="needs kafka-python: pip install '.[kafka]'")

Address = tuple[str, int]


class Net:
    """A client's loop that has nothing to wait for: who listens on this machine answers at once."""

    async def wait_write(self, sock: socket.socket, timeout_at: float | None) -> None:
        await asyncio.sleep(0.01)


async def connected(address: Address) -> socket.socket:
    inet = sockets.KafkaNetSocket(sockets.DIRECT)  # by its name, as the clients come to it
    return await inet.connect(Net(), (socket.AF_INET, socket.SOCK_STREAM, 0, "", address))


def plain(address: Address, certificates: Path) -> socket.socket:
    return asyncio.run(connected(address))


def tls(address: Address, certificates: Path) -> socket.socket:
    context = sockets.Tls(str(certificates / "ca.pem"), "", "")
    return context.wrap_socket(plain(address, certificates), server_hostname="a", do_handshake_on_connect=False)


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@pytest.mark.parametrize("opened", [plain, tls])
def test_a_socket_that_nobody_holds_is_closed_without_a_warning(
    opened: Callable[[Address, Path], socket.socket], address: Address, certificates: Path
):
    sock = opened(address, certificates)
    number, cycle = sock.fileno(), [sock]
    cycle.append(cycle)  # as a client is one
    os.fstat(number)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del sock, cycle
        gc.collect()

    assert warned == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_connection_that_fails_is_closed_at_once(monkeypatch: pytest.MonkeyPatch):
    made: list[socket.socket] = []
    monkeypatch.setattr(sockets, "_Closing", lambda *how: made.append(socket.socket(*how)) or made[-1])
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = server.getsockname()

    with pytest.raises(Exception, match="ECONNREFUSED|111"):
        plain(nobody, Path())

    assert [sock.fileno() for sock in made] == [-1]


def test_tls_reads_its_files_at_each_connection(address: Address, certificates: Path, tmp_path: Path):
    authority = tmp_path / "ca.pem"
    context = sockets.Tls(str(authority), "", "")
    authority.write_text("not yet\n")
    with pytest.raises(OSError, match="NO_CERTIFICATE_OR_CRL_FOUND"):
        context.wrap_socket(plain(address, certificates), server_hostname="a", do_handshake_on_connect=False)

    authority.write_bytes((certificates / "ca.pem").read_bytes())
    context.wrap_socket(plain(address, certificates), server_hostname="a", do_handshake_on_connect=False).close()
