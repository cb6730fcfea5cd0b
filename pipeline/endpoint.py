"""A small HTTP port for probes, scrapes and a page, which no client can clog or use to slow down the scoring.

    pages   path -> function of the Accept header -> status, content type, body, policy

A thread serves each connection, one request long. Whatever clients send, and however many there are, they cost no more
than this:

    at most `max_connections` are open          another one cuts off the oldest: a probe gets through a silent crowd
    none lasts longer than `request_seconds`    in all, however busily it trickles
    at most `per_second` are accepted           a second's worth at once; the others wait in the kernel
    each page is made once at a time            so scoring competes with a few threads, not with sixteen

Every answer tells browsers to take it for what it says it is, to frame it nowhere, to tell nobody where they come from,
and to load nothing but what the answer's policy names. Threads are daemons: none keeps the process from ending.
"""

import contextlib
import functools
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

STOP_POLL_SECONDS = 0.05  # also how late a client may be cut off
ROOM_SECONDS = 1.0  # to wait until one that was cut off has gone
TURN_SECONDS = 5.0  # to wait while a page is made for somebody else
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes
    policy: str = NOTHING  # Content-Security-Policy


Page = Callable[[str], Answer]


def text_answer(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _one_at_a_time(page: Page) -> Page:
    turn = threading.Lock()

    def answer(accept: str) -> Answer:
        if not turn.acquire(timeout=TURN_SECONDS):
            return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "busy: this page is asked for too often; try again")
        try:
            return page(accept)
        finally:
            turn.release()

    return answer


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
        per_second: float = 50.0,
    ) -> None:
        try:
            self._server = _Server(host, port, pages, max_connections, request_seconds, per_second)
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
    request_queue_size = 32  # in the kernel; more, and a probe would wait behind them for longer than probes do

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        max_connections: int,
        request_seconds: float,
        per_second: float,
    ) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._max_connections, self._request_seconds = max_connections, request_seconds
        self._opened: dict[Any, float] = {}  # connection -> monotonic seconds, oldest first
        self._changed = threading.Condition()  # of _opened
        self._pace = _Pace(per_second)
        pages = {path: _one_at_a_time(page) for path, page in pages.items()}
        super().__init__((host, port), functools.partial(_Handler, pages))

    def process_request(self, request: Any, client_address: Any) -> None:
        time.sleep(self._pace.wait(time.monotonic()))
        if not self._make_room(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread is to be had
            self._forget(request)
            raise

    def _make_room(self, request: Any) -> bool:
        """Note a connection as open, at the cost of the oldest if there are too many; return whether it has room."""
        with self._changed:
            if len(self._opened) >= self._max_connections:
                _cut_off(next(iter(self._opened)))
            free = self._changed.wait_for(lambda: len(self._opened) < self._max_connections, ROOM_SECONDS)
            if free:
                self._opened[request] = time.monotonic()
            return free

    def service_actions(self) -> None:
        """Cut off who takes too long; called at least every STOP_POLL_SECONDS."""
        late = time.monotonic() - self._request_seconds
        with self._changed:
            for request in [request for request, opened in self._opened.items() if opened < late]:
                _cut_off(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        with self._changed:
            self._opened.pop(request, None)
            self._changed.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over what a client did to its own connection; a page's errors are answered in `_Handler`."""


class _Pace:
    """So many a second, and after a quiet second as many at once."""

    def __init__(self, per_second: float) -> None:
        self._seconds = 1 / per_second  # for each
        self._due = 0.0  # monotonic seconds; of the next, if none is late

    def wait(self, now: float) -> float:
        """Return for how long the next one, which is there now, has to wait."""
        self._due = max(self._due, now - 1.0) + self._seconds
        return max(0.0, self._due - now)


def _cut_off(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already closed
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server_version = "graphsieve"
    sys_version = ""
    default_request_version = "HTTP/1.0"  # 0.9 has no headers, and so no policy

    def __init__(self, pages: Mapping[str, Page], *connection: Any) -> None:
        self._pages = pages
        super().__init__(*connection)  # handles the request, too

    def do_GET(self) -> None:
        self._send(self._answer())

    do_HEAD = do_GET

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", answer.policy)
        for name, value in HEADERS:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or none for us; http.server's own words would repeat the client's."""
        self._send(text_answer(HTTPStatus(code), HTTPStatus(code).phrase))

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
            return text_answer(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"cannot answer {path}: {type(error).__name__}; the log says more"
            )
