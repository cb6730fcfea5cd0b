"""Connections that fail leave no socket behind: kafka-python 3.0 leaves it to the garbage collection to close those.

A consumer whose broker is away tries again and again and makes little garbage: in a quarter of an hour it would have no
file left to open.
"""

import socket
from typing import Any

from kafka.net.inet import KafkaNetSocket

DIRECT = "direct://"  # as the clients' `proxy_url`: without a proxy, through the class below


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # the client ships no types
    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: socket.socket, address: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
