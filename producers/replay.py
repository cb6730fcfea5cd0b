"""Replay: what a log once held, put on another log as fast as it happened, some times faster, or at once.

The order is that of the source.  A message that comes after a later one is overdue and goes at once.  Packing by groups
keeps the order within each group.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.decoder import Decoder
from pipeline.log import PACKED, Log, Message, Record
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema
from producers.pace import TimeOf, pace

# Between two appends that nothing but the pace divides: one costs some 100 µs, and a log that is appended to without a
# pause keeps those waiting who commit to it.
STEP_SECONDS = 0.001
LONGEST_SLEEP_SECONDS = 0.5  # a pause is slept in pieces, so that whoever stops the replay need not wait for its end


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did."""

    events: int
    seconds: float

    @property
    def events_per_second(self) -> float:
        """Events put on the log a second, pauses included; 0 for a replay of nothing."""
        return self.events / self.seconds if self.seconds else 0.0


def replay(
    source: Iterable[Record],
    log: Log,
    topic: str = "events",
    *,
    ts_of: TimeOf,
    speed: float = math.inf,
    rate: float = math.inf,
    burst: int = 0,
    chunk: int = 1000,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], object] = lambda count: None,
) -> ReplayReport:
    """Append the messages of `source` to `log` in their order, with their keys, content types and headers.

    At `speed` 1.0 they come as their event times did, at 60 a minute takes a second, at infinity they come at once; and
    never more than `rate` messages a second, once the first `burst` have gone.  What is due within a millisecond is
    appended at once, and at most `chunk` messages are; `progress` is called with the number of each append.  Whatever
    stops a replay, the log has got the first messages of `source` without a gap.
    """
    started = clock()
    due_at = pace(speed, rate, ts_of, clock, burst)
    waiting: list[Message] = []
    events = 0

    def append_waiting() -> None:
        nonlocal events
        if waiting:
            log.append(topic, waiting)
            events += len(waiting)
            progress(len(waiting))
            waiting.clear()

    for record in source:
        due = due_at(record)
        now = clock()
        if due > now:
            append_waiting()
            _sleep_until(max(due, now + STEP_SECONDS), clock, sleep)
        elif len(waiting) >= chunk:
            append_waiting()
        waiting.append(Message(record.value, record.key, record.content_type, record.headers))
    append_waiting()
    return ReplayReport(events, clock() - started)


def _sleep_until(due: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    while (left := due - clock()) > 0:
        sleep(min(left, LONGEST_SLEEP_SECONDS))


def packed(
    source: Iterable[Record], schema: Schema, size: int, group_of: Callable[[Record], int] = lambda record: 0
) -> Iterator[Record]:
    """Pack the events of `source`, `size` to a message; a run with a bad event among them goes as it is.

    Events that `group_of` tells apart, say by the partition that their keys lead to, are never packed together, and a
    pack has the key of its first event.  A bad event cannot be packed, and its own bytes belong into the dead letter.
    """
    decoder = Decoder(schema)
    runs: dict[int, list[Record]] = {}
    for record in source:
        run = runs.setdefault(group_of(record), [])
        run.append(record)
        if len(run) == size:
            yield from _packed_run(run, decoder, schema)
            run.clear()
    for run in runs.values():
        if run:
            yield from _packed_run(run, decoder, schema)


def _packed_run(run: list[Record], decoder: Decoder, schema: Schema) -> Iterator[Record]:
    events, bad = decoder.decode(run)
    if bad:
        yield from run
    else:
        yield run[0]._replace(value=encode_packed(schema, events), content_type=PACKED, headers=())
