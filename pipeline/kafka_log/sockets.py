"""Connections leave no socket behind: kafka-python 3.0 leaves it to the garbage collection to close some.

Those that fail: a consumer whose broker is away tries again and again and makes little garbage, and in a quarter of an
hour would have no file left to open. And those that a client still writes to when it is closed; but for TLS, which
takes the socket over: these stay with the garbage collection.
"""

import socket
import weakref
from typing import Any

from kafka.net.inet import KafkaNetSocket

DIRECT = "direct://"  # as the clients' `proxy_url`: without a proxy, through the class below

# By the loop of a client, its open sockets: held here, or they would be collected together with it and not be closed.
_opened: weakref.WeakKeyDictionary[Any, list[socket.socket]] = weakref.WeakKeyDictionary()


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # the client ships no types
    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: socket.socket, address: Any, timeout_at: float | None = None) -> Any:
        try:
            connected = await super().sock_connect(net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
        _close_with(net, sock)
        return connected


def _close_with(net: Any, sock: socket.socket) -> None:
    """See to it that `sock` is closed once `net` is gone."""
    opened = _opened.get(net)
    if opened is None:
        opened = _opened[net] = []
        weakref.finalize(net, _close_all, opened)
    opened[:] = [one for one in opened if one.fileno() >= 0] + [sock]


def _close_all(opened: list[socket.socket]) -> None:
    for one in opened:
        one.close()
