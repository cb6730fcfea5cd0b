"""Work that a thread does while its owner goes on."""

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Meanwhile(Generic[T]):
    """One piece of work, begun at once; leaving the block waits for its end, `result` is of it then.

    with Meanwhile(work) as other:
        ...
    gave = other.result()

    Not `concurrent.futures`: the end of a process waits for its threads, and one may hang at a log that is away.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._gave: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="meanwhile", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._gave.append(self._work())
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> T:
        """Return what the work gave, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._gave[0]
