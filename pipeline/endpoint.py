"""A small HTTP port for probes and scrapes that no client can clog.

    pages   path -> function of the Accept header -> status, content type, body

A thread serves each connection, one request long. At most `max_connections` are open, more are closed at once; one that
takes longer than `request_seconds` in all is cut off, however busily it trickles. Threads are daemons: none keeps the
process from ending.
"""

import contextlib
import functools
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

STOP_POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


Page = Callable[[str], Answer]


def text_answer(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


class Endpoint:
    """Serves `pages` until it is closed. Port 0 takes a free one; `port` says which."""

    def __init__(
        self,
        pages: Mapping[str, Page],
        host: str,
        port: int,
        *,
        max_connections: int = 16,
        request_seconds: float = 10.0,
    ) -> None:
        try:
            self._server = _Server(host, port, functools.partial(_Handler, pages), max_connections, request_seconds)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot serve metrics on {host} port {port}: {reason}; "
                "choose another port with --metrics-port (0 takes a free one)"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_SECONDS,), name="endpoint", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not http.server's, which looks its own name up in the DNS before it listens."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        handler: Callable[[Any, Any, Any], BaseHTTPRequestHandler],
        max_connections: int,
        request_seconds: float,
    ) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._free = threading.BoundedSemaphore(max_connections)
        self._request_seconds = request_seconds
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is to be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A timeout of the socket would start anew with every byte.
        deadline = threading.Timer(self._request_seconds, _cut_off, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over what a client did to its own connection; a page's errors are answered in `_Handler`."""


def _cut_off(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already closed
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server_version = "graphsieve"
    sys_version = ""

    def __init__(self, pages: Mapping[str, Page], *connection: Any) -> None:
        self._pages = pages
        super().__init__(*connection)  # handles the request, too

    def do_GET(self) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""

    def _answer(self) -> Answer:
        path = self.path.partition("?")[0]
        page = self._pages.get(path)
        if page is None:
            return text_answer(HTTPStatus.NOT_FOUND, f"no page here: there are {', '.join(self._pages)}")
        try:
            return page(self.headers.get("Accept", ""))
        except Exception as error:
            logger.exception("cannot answer %s", path)
            return text_answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"cannot answer {path}: {error!r}")
