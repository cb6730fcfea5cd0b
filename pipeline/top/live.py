"""`graphsieve top`: what consumers do, live in a terminal, from their `/metrics` alone.

The picture is drawn anew in the terminal's other page, so what was on the screen is there again at the end, however it
comes. A consumer that does not answer is shown as away, and keeps nobody waiting.
"""

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pipeline.doctor.report import is_coloured
from pipeline.errors import ConfigError
from pipeline.top.scrape import Reading, Seen, metrics_url, read, seen
from pipeline.top.view import frame

ANSWER_SECONDS = 2.0  # the longest that one consumer may take
LOOK_SECONDS = 0.2  # between two looks at the keyboard and the window's size
FIRST_SECONDS = 1.0  # until there are rates
QUIT = "q"

OTHER_PAGE, OWN_PAGE = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"  # without a cursor, and back
HOME, REST_OF_LINE, REST_OF_PAGE = "\033[H", "\033[K", "\033[J"


class Watch:
    """Reads all consumers at once, again and again."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [metrics_url(url) for url in urls]
        self._before: dict[str, Reading] = {}
        self._pool = ThreadPoolExecutor(len(self._urls))

    def look(self) -> list[Seen]:
        """Return what each does now, and what it did since the last look."""
        readings = list(self._pool.map(lambda url: read(url, ANSWER_SECONDS), self._urls))
        found = [seen(self._before.get(reading.url), reading) for reading in readings]
        self._before = {reading.url: reading for reading in readings}
        return found


def once(urls: Sequence[str], every: float) -> list[Seen]:
    """Return what consumers did in the next `every` seconds."""
    watch = Watch(urls)
    watch.look()
    time.sleep(every)
    return watch.look()


def as_report(consumers: Sequence[Seen]) -> dict[str, Any]:
    """Return what --json prints."""
    return {"consumers": [asdict(one) for one in consumers]}


def picture(consumers: Sequence[Seen], every: float) -> list[str]:
    """Return one picture for this terminal, of any height."""
    return frame(consumers, _heading(every), shutil.get_terminal_size((100, 0)).columns, 10**6, is_coloured(sys.stdout))


def live(urls: Sequence[str], every: float) -> None:
    """Draw until `q` or Ctrl-C."""
    if not sys.stdout.isatty():
        raise ConfigError("graphsieve top draws on a terminal, and this is none: use --once, or --json")
    watch = Watch(urls)
    with _screen():
        wait = min(every, FIRST_SECONDS)
        while not _shown_for(watch.look(), every, wait):
            wait = every


def _shown_for(consumers: Sequence[Seen], every: float, seconds: float) -> bool:
    """Show a picture for so long, anew whenever the window changes; return whether the reader has had enough."""
    deadline, size, heading = time.monotonic() + seconds, None, _heading(every)
    while (left := deadline - time.monotonic()) > 0:
        if size != (size := _window()):
            lines = frame(consumers, heading, size.columns, size.lines, is_coloured(sys.stdout))
            drawn = f"{REST_OF_LINE}\n".join(lines)
            sys.stdout.write(f"{HOME}{drawn}{REST_OF_LINE}{REST_OF_PAGE}")
            sys.stdout.flush()
        if _key(min(left, LOOK_SECONDS)) == QUIT:
            return True
    return False


def _window() -> os.terminal_size:
    """Return the window's size now. COLUMNS, where it is set, is what it was when a shell began."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return size if all(size) else os.terminal_size((80, 24))  # a terminal that was never told


def _heading(every: float) -> str:
    return f"{time.strftime('%H:%M:%S')}   every {every:g} s"


def _key(seconds: float) -> str:
    """Return a key that was pressed, or nothing when the time is up."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""


@contextmanager
def _screen() -> Iterator[None]:
    """The terminal's other page, keys without Enter; as it was at the end, also of SIGTERM and Ctrl-C."""
    keys = sys.stdin.isatty()
    before = termios.tcgetattr(sys.stdin) if keys else None
    terminated = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if keys:
            tty.setcbreak(sys.stdin)
        sys.stdout.write(OTHER_PAGE)
        yield
    finally:
        sys.stdout.write(OWN_PAGE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, terminated)
