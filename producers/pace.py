"""When each message of a replay is due.

    speed  event time   first . . . ts . . .      a message is due  (ts - first) / speed  seconds after the start;
           this replay  start . . . . . due       one without a readable ts goes with the message before it
    rate                                          and no sooner than  1 / rate  seconds after the message before it
    burst                                         but for the first so many: only the speed holds these back

What a slow log has held up is made up for, but for no more than CATCH_UP_SECONDS of it: no stall ends in a flood.
"""

import math
from collections.abc import Callable

import msgspec

from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.log import Record
from pipeline.schema import Schema

CATCH_UP_SECONDS = 1.0

TimeOf = Callable[[Record], float | None]  # a message's event time; None where it has none that is to be believed
DueAt = Callable[[Record], float]  # asked of each message once, in order


def pace(speed: float, rate: float, ts_of: TimeOf, clock: Callable[[], float], burst: int = 0) -> DueAt:
    """Return what tells when a message is due, by `clock`; both infinite: at once, and `ts_of` is not asked."""
    if not speed > 0:
        raise ConfigError(f"replay speed {speed}: expected a number above 0 (1 = as it happened, 60 = 60 times faster)")
    if not rate > 0:
        raise ConfigError(f"replay rate {rate}: expected a number of messages a second above 0")
    due_at = _by_speed(clock(), speed, ts_of)
    return due_at if math.isinf(rate) else _by_rate(due_at, rate, clock, burst)


def time_reader(schema: Schema | None) -> TimeOf:
    """Return what reads a message's event time: as the schema says, or from our own field `ts`."""
    return _own_time if schema is None else _by_schema(Decoder(schema))


def _by_speed(started: float, speed: float, ts_of: TimeOf) -> DueAt:
    if math.isinf(speed):
        return lambda record: started
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


def _by_rate(due_by_speed: DueAt, rate: float, clock: Callable[[], float], burst: int) -> DueAt:
    free = -math.inf  # from then on the next message may go

    def due_at(record: Record) -> float:
        nonlocal free, burst
        if burst > 0:
            burst -= 1
            return due_by_speed(record)
        due = max(due_by_speed(record), free)
        free = max(due, clock() - CATCH_UP_SECONDS) + 1 / rate
        return due

    return due_at


class _Timed(msgspec.Struct):
    ts: float | None = None


_decode_timed = msgspec.json.Decoder(_Timed).decode


def _own_time(record: Record) -> float | None:
    try:
        return _decode_timed(record.value).ts
    except (ValueError, RecursionError):
        return None


def _by_schema(decoder: Decoder) -> TimeOf:
    def ts_of(record: Record) -> float | None:
        batch, _ = decoder.decode([record])
        return float(batch.ts[0]) if len(batch) and batch.ts[0] > 0 else None

    return ts_of
