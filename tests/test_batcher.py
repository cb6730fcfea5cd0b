import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batcher import MicroBatcher


def test_a_batch_waits_until_its_oldest_record_is_old_enough():
    batcher = MicroBatcher[str](max_records=100, max_wait_seconds=0.020)
    batcher.add_all(["a"], now=1.000)

    assert batcher.due_at() == 1.020
    assert batcher.take_if_due(now=1.019) == []
    assert batcher.take_if_due(now=1.020) == ["a"]


def test_company_does_not_extend_the_wait_of_the_oldest_record():
    batcher = MicroBatcher[str](max_records=100, max_wait_seconds=0.020)
    batcher.add_all(["a"], now=1.000)
    batcher.add_all(["b"], now=1.015)

    assert batcher.take_if_due(now=1.020) == ["a", "b"]


def test_a_full_batch_is_due_at_once():
    batcher = MicroBatcher[str](max_records=2, max_wait_seconds=60)
    batcher.add_all(["a", "b"], now=1.0)

    assert batcher.due_at() == -math.inf
    assert batcher.take_if_due(now=1.0) == ["a", "b"]


def test_nothing_is_never_due():
    batcher = MicroBatcher[str](max_records=2, max_wait_seconds=0)
    batcher.add_all([], now=1.0)

    assert batcher.due_at() == math.inf
    assert batcher.take_if_due(now=1e9) == []
    assert batcher.take_all() == []


def test_the_next_batch_starts_its_own_wait():
    batcher = MicroBatcher[str](max_records=2, max_wait_seconds=1.0)
    batcher.add_all(["a", "b"], now=1.0)
    batcher.take_all()
    batcher.add_all(["c"], now=5.0)

    assert batcher.due_at() == 6.0


def test_take_all_takes_what_is_not_due():
    batcher = MicroBatcher[str](max_records=2, max_wait_seconds=60)
    batcher.add_all(["a"], now=1.0)

    assert batcher.take_all() == ["a"]
    assert batcher.room() == 2


def test_more_records_than_there_is_room_for_are_refused_and_none_is_lost():
    batcher = MicroBatcher[str](max_records=2, max_wait_seconds=60)
    batcher.add_all(["a"], now=1.0)

    with pytest.raises(ValueError, match=r"2 records, but there is room for 1: read no more than room\(\)"):
        batcher.add_all(["b", "c"], now=1.0)
    assert batcher.take_all() == ["a"]


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5)), max_size=40))
def test_every_record_leaves_once_in_order_and_in_time(max_records, arrivals):
    """A loop that wakes whenever a batch is due never keeps a record longer than the wait."""
    batcher = MicroBatcher[int](max_records, max_wait_seconds=1.0)
    now, next_record, arrived_at, left = 0.0, 0, {}, []
    for pause, count in arrivals:
        while batcher.due_at() <= now + pause:
            now = max(now, batcher.due_at())
            batch = batcher.take_if_due(now)
            assert batch
            assert len(batch) <= max_records
            assert all(now - arrived_at[record] <= 1.0 + 1e-9 for record in batch)
            left += batch
        now += pause
        records = range(next_record, next_record + min(count, batcher.room()))
        arrived_at |= dict.fromkeys(records, now)
        batcher.add_all(records, now)
        next_record = records.stop
    assert left + batcher.take_all() == list(range(next_record))
