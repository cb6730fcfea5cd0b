"""How a consumer ends: in order, within a bound, and at once if it is told twice.

    SIGTERM, Ctrl-C     finish what was read, commit, write snapshots: at most `score.stop`; exit code 0
    the same again      end at once, as that signal ends any process: nothing is lost, the next start reads it again
    still not gone      GRACE_SECONDS after the bound something hangs that has no limit of its own: exit code 2

By the one rule none of these loses or repeats a score: what is not finished is read again.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.logs import ERROR, Say, line
from pipeline.signals import setter

GRACE_SECONDS = 5.0  # for leaving the group, closing the port, the report


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set: the loop then finishes its batch. A second one ends the process."""
    stop = threading.Event()
    set_stop = setter(stop)
    numbers = (signal.SIGTERM, signal.SIGINT)

    def heed(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        set_stop()

    before = {number: signal.signal(number, heed) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        set_stop()


@contextmanager
def bounded(stop: threading.Event, seconds: float, say: Say) -> Iterator[None]:
    """End the process GRACE_SECONDS after `seconds` since `stop`, unless this block has ended by then."""
    ended = threading.Event()

    def watch() -> None:
        stop.wait()
        if not ended.wait(seconds + GRACE_SECONDS):
            say(line(f"not ended {seconds + GRACE_SECONDS:g} s after the signal: something hangs; ending now", ERROR))
            os._exit(2)

    threading.Thread(target=watch, name="bound", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        stop.set()  # the watcher ends, too
