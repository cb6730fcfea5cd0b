"""The port against clients that are slow, many, or hostile; what it serves, and what it does not."""

import contextlib
import json
import re
import socket
import threading
import time
from http import HTTPStatus
from pathlib import Path

import pytest
from live import serving
from worlds import random_model

from pipeline.endpoint import HEADERS, NOTHING, Answer, Endpoint, text_answer
from pipeline.schema import load_schema
from producers.synthetic import synthetic_events

LOCALHOST = "127.0.0.1"
SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
PATIENCE_SECONDS = 30.0


def hello(accept: str) -> Answer:
    return text_answer(HTTPStatus.OK, "hello")


@contextlib.contextmanager
def endpoint(pages=None, **bounds):
    with contextlib.closing(Endpoint(pages or {"/": hello}, LOCALHOST, 0, **bounds)) as one:
        yield one.port


def connect(port):
    return socket.create_connection((LOCALHOST, port), timeout=PATIENCE_SECONDS)


def answer_to(port, request):
    """What the port says to these bytes, until it closes."""
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(request)
        return received(connection)
    return b""


def received(connection):
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def is_served(port, path="/"):
    """Is a well-meant request answered, in the end?"""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if answer_to(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).startswith(b"HTTP/1.0 200"):
                return True
        time.sleep(0.05)
    return False


# ---- what every answer says ----


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", 200),
        ("GET /nowhere HTTP/1.1", 404),
        ("GET /broken HTTP/1.1", 500),
        ("POST / HTTP/1.1", 501),
        ("<script>alert(1)</script> / HTTP/1.1", 501),
        ("GET / HTTP/9.9", 505),
        ("GET / <script>", 400),
        ("GET", 400),
        ("GET /" + "a" * 70_000 + " HTTP/1.1", 414),
    ],
)
def test_every_answer_is_plain_text_that_no_browser_takes_for_anything_else(request_line, status):
    def broken(accept):
        raise RuntimeError("password=tops3cret")

    with endpoint({"/": hello, "/broken": broken}) as port:
        head, _, body = answer_to(port, f"{request_line}\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")
    said = head.decode().split("\r\n")
    assert said[0].startswith(f"HTTP/1.0 {status} ")
    assert {f"{name}: {value}" for name, value in HEADERS} <= set(said)
    assert f"Content-Security-Policy: {NOTHING}" in said
    assert "Content-Type: text/plain; charset=utf-8" in said
    assert b"script" not in body  # nothing that the client sent comes back
    assert b"tops3cret" not in body


def test_huge_headers_are_refused():
    with endpoint() as port:
        assert b" 431 " in answer_to(port, b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n")[:20]
        assert b" 431 " in answer_to(port, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n")[:20]
        assert is_served(port)


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/%2e%2e/",
        "//",
        "/./",
        "/metrics/..",
        "\\",
        "/\x00",
        "/page.html",
        "/__init__.py",
        "http://x/",
    ],
)
def test_tricks_with_paths_find_nothing(path):
    with endpoint({"/metrics": hello}) as port:
        assert answer_to(port, f"GET {path} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.0 40")


def test_nothing_can_be_written():
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        with endpoint() as port:
            assert b" 501 " in answer_to(port, f"{method} / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())[:20]


# ---- bounds ----


def test_a_crowd_of_silent_clients_keeps_nobody_out():
    with endpoint(max_connections=4, request_seconds=600) as port, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(connect(port)) for _ in range(40)]
        assert is_served(port)
        assert [received(one) for one in crowd[:30]] == [b""] * 30  # the oldest were cut off


def test_one_that_trickles_is_cut_off_however_busily():
    with endpoint(request_seconds=0.3) as port, connect(port) as connection:
        connection.settimeout(0.02)
        deadline, ended = time.monotonic() + PATIENCE_SECONDS, False
        while not ended and time.monotonic() < deadline:
            try:
                connection.sendall(b"G")
                ended = connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended
        assert is_served(port)


def test_one_that_does_not_read_its_answer_is_cut_off():
    def large(accept):
        return Answer(HTTPStatus.OK, "text/plain", b"x" * 50_000_000)

    pages = {"/": large, "/small": hello}
    with endpoint(pages, max_connections=1, request_seconds=0.3) as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connection.recv(1)
        assert is_served(port, "/small")
        assert len(received(connection)) < 50_000_000


def test_a_page_is_made_once_at_a_time():
    at_once, most, counting = 0, 0, threading.Lock()

    def slow(accept):
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with counting:
            at_once -= 1
        return hello(accept)

    with endpoint({"/": slow, "/healthz": hello}) as port:
        threads = [threading.Thread(target=is_served, args=(port,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_page_that_hangs_hangs_no_other():
    hanging = threading.Event()

    def hangs(accept):
        hanging.wait(PATIENCE_SECONDS)
        return hello(accept)

    with endpoint({"/": hangs, "/healthz": hello}) as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert is_served(port, "/healthz")
        hanging.set()
        assert received(connection).endswith(b"hello\n")


def test_requests_that_come_too_fast_wait_for_their_turn():
    from pipeline.endpoint import _Pace

    pace = _Pace(per_second=50)
    waits = [pace.wait(now=100.0) for _ in range(100)]
    assert waits[:50] == [0.0] * 50  # a second's worth at once
    assert waits[99] == pytest.approx(1.0)
    assert pace.wait(now=200.0) == 0.0


# ---- the real thing ----


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=4).save(folder)
    return folder


def test_scores_keep_coming_while_two_hundred_hostile_connections_are_open(model, tmp_path):
    lines = list(synthetic_events(seed=5, limit=9000))
    with serving(tmp_path, model, lines[:1000]) as live, hostile_clients(live.port, 200) as crowd:
        live.wait_until_scored()
        for start in range(1000, 9000, 1000):
            live.append(lines[start : start + 1000])
            live.wait_until_scored()
        assert is_served(live.port, "/healthz")
        assert is_served(live.port, "/metrics")
        assert crowd.attempts > 250  # those that were cut off came again
        assert live.status()["scores"] > 4000
    assert is_closed(live.port)


def is_closed(port):
    try:
        connect(port).close()
    except OSError:
        return True
    return False


class Crowd:
    """Clients that connect again whenever they are cut off."""

    BEHAVIOURS = (
        b"",  # silent
        b"GET /metrics HTTP/1.1\r\n",  # never ends its headers
        b"GET /metrics HTTP/1.1\r\n\r\n",  # asks, and reads nothing
        b"GET /status.json HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 200,  # TLS, or so
        b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n",
    )

    def __init__(self, port, count):
        self.attempts, self._port, self._stop = 0, port, threading.Event()
        self._open = [self._connected() for _ in range(count)]
        self._left = [self.BEHAVIOURS[i % len(self.BEHAVIOURS)] for i in range(count)]  # to be said
        self._thread = threading.Thread(target=self._pester)
        self._thread.start()

    def _connected(self):
        """A connection under way: the port may let it wait for as long as it likes."""
        self.attempts += 1
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((LOCALHOST, self._port))
        return connection

    def _pester(self):
        while not self._stop.wait(0.01):
            for i, connection in enumerate(self._open):
                try:
                    self._left[i] = self._left[i][connection.send(self._left[i] or b"x") :]
                except BlockingIOError:
                    continue  # not connected yet, or nobody reads
                except OSError:  # cut off
                    connection.close()
                    self._open[i] = self._connected()
                    self._left[i] = self.BEHAVIOURS[i % len(self.BEHAVIOURS)]

    def leave(self):
        self._stop.set()
        self._thread.join()
        for connection in self._open:
            connection.close()


@contextlib.contextmanager
def hostile_clients(port, count):
    crowd = Crowd(port, count)
    try:
        yield crowd
    finally:
        crowd.leave()


def test_the_port_tells_no_secret_and_no_place_of_this_machine(model, tmp_path):
    lines = list(synthetic_events(seed=5, limit=500))
    secrets = {"GRAPHSIEVE_KAFKA_PASSWORD": "tops3cret", "GRAPHSIEVE_KAFKA_USERNAME": "alice-the-admin"}
    with serving(tmp_path, model, lines, **secrets) as live:
        live.wait_until_scored()
        answers = {path: live.get(path) for path in ("", "status.json", "metrics", "healthz", "readyz", "nowhere")}
    said = b"\n".join(str(headers).encode() + body for _, headers, body in answers.values())
    assert [status for status, _, _ in answers.values()] == [200, 200, 200, 200, 200, 404]
    for secret in (*secrets.values(), str(tmp_path), str(model), str(Path.home())):
        assert secret.encode() not in said, secret
    ids = set(re.findall(rb'"id":("n\d+")', b"\n".join(lines)))
    assert ids
    assert not [one for one in ids if one in answers["metrics"][2]]


def test_without_the_page_no_name_is_served(model, tmp_path):
    lines = list(synthetic_events(seed=5, limit=500))
    with serving(tmp_path, model, lines, GRAPHSIEVE_METRICS_PAGE="false") as live:
        live.wait_until_scored()
        assert live.get("")[0] == live.get("status.json")[0] == 404
        assert live.get("")[2] == b"no page here: there are /metrics, /healthz, /readyz\n"
        assert live.get("metrics")[0] == 200


def test_the_document_is_json_that_is_never_cached(model, tmp_path):
    with serving(tmp_path, model, list(synthetic_events(seed=5, limit=500))) as live:
        live.wait_until_scored()
        _, headers, body = live.get("status.json?x=1")
    assert (headers["Content-Type"], headers["Cache-Control"]) == ("application/json", "no-store")
    assert json.loads(body)["events"] == 500
