"""Connections leave no socket behind: kafka-python 3.0 leaves it to the garbage collection to close some.

Those that fail: a consumer whose broker is away tries again and again and makes little garbage, and in a quarter of an
hour would have no file left to open. Such a socket is closed at once. And those that a client still writes to when it
is closed: these close themselves when they are collected, for Python warns of one that does not.
"""

import socket
import ssl
from dataclasses import dataclass
from typing import Any

from kafka.net.inet import KafkaNetSocket

DIRECT = "direct://"  # as the clients' `proxy_url`: without a proxy, through `_DirectSocket`


class _Closing(socket.socket):
    def __del__(self) -> None:
        self.close()


class _ClosingTls(ssl.SSLSocket):
    def __del__(self) -> None:
        self.close()


class _DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # the client ships no types
    SCHEMES = ("direct",)

    def socket(self, *how: int) -> _Closing:
        return _Closing(*how)

    async def sock_connect(self, net: Any, sock: _Closing, address: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super().sock_connect(net, sock, address, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


@dataclass(frozen=True)
class Tls:
    """As the clients' `ssl_context`: PEM files, read anew for each connection, so that they can be renewed meanwhile.

    Without `ca_file` the authorities count that the system trusts.
    """

    ca_file: str
    certificate_file: str
    key_file: str

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _ClosingTls
        if self.ca_file:
            context.load_verify_locations(self.ca_file)
        else:
            context.load_default_certs()
        if self.certificate_file:
            context.load_cert_chain(self.certificate_file, self.key_file or None)
        return context.wrap_socket(sock, **options)
