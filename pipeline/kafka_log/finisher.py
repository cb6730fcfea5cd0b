"""A thread that finishes what another one has begun: mostly waiting, one thing at a time."""

import queue
import threading
from collections.abc import Callable


class Finisher:
    """Its thread is a daemon: a process that must end does not wait for a broker that is away."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Do `work` beside the caller, who has waited for the one before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)
            self._thread.start()
        self._idle.clear()
        self._work.put(work)

    def wait(self) -> None:
        """Return when nothing is under way; raise what the last one failed of, once."""
        self._idle.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Let the thread end once it has nothing under way."""
        if self._thread is not None:
            self._work.put(_end)

    def _run(self) -> None:
        while (work := self._work.get()) is not _end:
            try:
                work()
            except Exception as error:
                self._failure = error
            self._idle.set()


def _end() -> None:
    """What ends the thread."""
