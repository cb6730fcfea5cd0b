"""A process that works step by step, and whose memory is read from outside between two steps."""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from pipeline.memory_limit import resident_bytes

Step = dict[str, Any]
Tell = Callable[[Step], None]  # returns once the memory has been read
Work = Callable[..., None]  # of a module: given a Tell, and what else it is to have


def steps_of(work: Work, *given: Any) -> Iterator[tuple[Step, float]]:
    """Run `work` in a new process; yield each step that it tells, with its resident bytes as of then."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, work, given), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            try:
                step = here.recv()
            except EOFError:
                return
            yield step, resident_bytes(process.pid or 0) or math.nan
            here.send(None)
    finally:
        here.close()
        process.join()


def _work(there: Connection, work: Work, given: tuple[Any, ...]) -> None:
    def tell(step: Step) -> None:
        there.send(step)
        there.recv()

    work(tell, *given)
