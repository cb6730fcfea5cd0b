"""kafka-python leaves some sockets to the garbage collection, which warns of them in whichever test comes next."""

import asyncio
import gc
import socket
import weakref

import pytest

sockets = pytest.importorskip("pipeline.kafka_log.sockets", reason="needs kafka-python: pip install '.[kafka]'")


class Net:
    """A client's loop that has nothing to wait for: who listens on this machine answers at once."""

    async def wait_write(self, sock: socket.socket, timeout_at: float | None) -> None:
        await asyncio.sleep(0.01)


def connected(net: Net, address: tuple[str, int]) -> socket.socket:
    return asyncio.run(sockets.DirectSocket().sock_connect(net, socket.socket(), address))


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


def test_a_client_that_is_gone_has_closed_its_sockets(address):
    net = Net()
    net.itself, first, second = net, connected(net, address), connected(net, address)  # a cycle, as a client is one
    assert min(first.fileno(), second.fileno()) >= 0

    gone = weakref.ref(net)
    del net
    gc.collect()

    assert gone() is None
    assert (first.fileno(), second.fileno()) == (-1, -1)


def test_what_a_client_has_closed_is_not_held(address):
    net = Net()
    connected(net, address).close()
    second = connected(net, address)

    assert sockets._opened[net] == [second]
