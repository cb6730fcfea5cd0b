"""What a signal may do to a process that waits: set an event, by way of a thread."""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue


def setter(event: threading.Event) -> Callable[[], None]:
    """Return what a signal's handler calls to have `event` set; whoever has it set ends a thread by that.

    The handler must not do so itself. It runs in the main thread, between any two of its instructions: where these are
    those of a wait for the event, that thread holds the event's lock, and `set` would wait for it for ever.
    """
    told: SimpleQueue[None] = SimpleQueue()  # the only one that Python promises may interrupt itself

    def wait() -> None:
        told.get()
        event.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return partial(told.put, None)
