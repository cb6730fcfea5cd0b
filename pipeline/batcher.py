"""Group records into micro-batches by size or age, whichever comes first.

    read = log.read_batch(topic, position, batcher.room(), timeout)
    batcher.add_all(read.records, now)
    batch = batcher.take_if_due(now)   # [] until the batch is due

The age limit runs from the oldest waiting record, so none waits for company longer than `max_wait_seconds`. Never more
than `max_records` wait: whoever reads asks for no more than there is room. The batcher never reads a clock and never
sleeps: the caller passes `now` (monotonic seconds) and blocks on the log until `due_at()` at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class MicroBatcher(Generic[T]):
    max_records: int
    max_wait_seconds: float

    _waiting: list[T] = field(default_factory=list, init=False)
    _oldest_at: float = field(default=math.inf, init=False)  # arrival of _waiting[0]

    def room(self) -> int:
        """Return how many more records fit; 0 if the batch is full."""
        return self.max_records - len(self._waiting)

    def add_all(self, records: Sequence[T], now: float) -> None:
        """Queue `records`; they leave at `now + max_wait_seconds` at the latest."""
        if len(records) > self.room():
            raise ValueError(f"{len(records)} records, but there is room for {self.room()}: read no more than room()")
        if records and not self._waiting:
            self._oldest_at = now
        self._waiting.extend(records)

    def due_at(self) -> float:
        """Return when the waiting batch must go: infinity if nothing waits, minus infinity if it is full."""
        if len(self._waiting) >= self.max_records:
            return -math.inf
        return self._oldest_at + self.max_wait_seconds

    def take_if_due(self, now: float) -> list[T]:
        """Remove and return the waiting records if they are due, else []."""
        return self.take_all() if now >= self.due_at() else []

    def take_all(self) -> list[T]:
        """Remove and return whatever waits, due or not: the last batch before a stop."""
        batch, self._waiting, self._oldest_at = self._waiting, [], math.inf
        return batch
