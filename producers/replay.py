"""Replay: what a log once held, put on another log as fast as it happened, some times faster, or at once.

    event time   first . . . ts . . .            a message is due  (ts - first) / speed  seconds after the start;
    this replay  start . . . . . due             one without a readable ts goes with the message before it

The order is that of the source.  A message that comes after a later one is overdue and goes at once.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.log import PACKED, Log, Message, Record
from pipeline.packed_codec import encode_packed
from pipeline.schema import Schema

LONGEST_SLEEP_SECONDS = 0.5  # a pause is slept in pieces, so that whoever stops the replay need not wait for its end


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did."""

    events: int
    seconds: float
    end: int  # the topic's position after the last event

    @property
    def events_per_second(self) -> float:
        """Events put on the log a second, pauses included; 0 for a replay of nothing."""
        return self.events / self.seconds if self.seconds else 0.0


def replay(
    source: Iterable[Record],
    log: Log,
    topic: str = "events",
    *,
    speed: float = math.inf,
    ts_of: Callable[[Record], float | None],
    chunk: int = 1000,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], object] = lambda count: None,
) -> ReplayReport:
    """Append the messages of `source` to `log` in their order, with their keys and content types.

    At `speed` 1.0 they come as their event times did, at 60 a minute takes a second, at infinity they come at once and
    `ts_of` is not asked.  `ts_of` returns a message's event time, or None where it has none that is to be believed: one
    far in the future would be waited for.  At most `chunk` messages are appended at once; `progress` is called with the
    number of each append.  Whatever stops a replay, the log has got the first messages of `source` without a gap.
    """
    if not speed > 0:
        raise ConfigError(f"replay speed {speed}: expected a number above 0 (1 = as it happened, 60 = 60 times faster)")
    started = clock()
    due_at = _pacing(started, speed, ts_of)
    waiting: list[Message] = []
    events, end = 0, log.end(topic)

    def append_waiting() -> None:
        nonlocal events, end
        if waiting:
            end = log.append(topic, waiting)
            events += len(waiting)
            progress(len(waiting))
            waiting.clear()

    for record in source:
        due = due_at(record)
        if len(waiting) >= chunk or due > clock():
            append_waiting()
            _sleep_until(due, clock, sleep)
        waiting.append(Message(record.value, record.key, record.content_type, record.headers))
    append_waiting()
    return ReplayReport(events, clock() - started, end)


def _pacing(started: float, speed: float, ts_of: Callable[[Record], float | None]) -> Callable[[Record], float]:
    """Return what tells when a record is due."""
    if math.isinf(speed):
        return lambda record: -math.inf
    first: float | None = None
    due = started

    def due_at(record: Record) -> float:
        nonlocal first, due
        ts = ts_of(record)
        if ts is not None and math.isfinite(ts):
            first = ts if first is None else first
            due = started + (ts - first) / speed
        return due

    return due_at


def _sleep_until(due: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    while (left := due - clock()) > 0:
        sleep(min(left, LONGEST_SLEEP_SECONDS))


def packed(source: Iterable[Record], schema: Schema, size: int) -> Iterator[Record]:
    """Pack the events of `source`, `size` to a message; a run with a bad event among them goes as it is.

    A bad event cannot be packed, and its own bytes belong into the dead letter.
    """
    decoder, records = Decoder(schema), iter(source)
    while run := list(islice(records, size)):
        events, bad = decoder.decode(run)
        if bad:
            yield from run
        else:
            yield run[0]._replace(value=encode_packed(schema, events), content_type=PACKED)
