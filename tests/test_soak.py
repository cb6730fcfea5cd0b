"""A stream without end: flat memory, and running sums that hold. `make trials` runs ten million events."""

import argparse

import pytest

from pipeline.bench.soak import run


def assert_flat(report: dict, events: int) -> None:
    assert report["events"] == events
    assert report["bad"] == 0
    assert report["expired"] > 0.2 * events  # the stream outlived its nodes' ttl many times over
    assert report["growth_after_warm_up"] < 1.05
    assert report["largest_difference_from_rebuild"] < 1e-4


@pytest.mark.trial
def test_ten_million_events_run_in_flat_memory_and_the_sums_hold():
    assert_flat(run(argparse.Namespace(events=None)), 10_000_000)


def test_a_stream_many_times_its_ttl_runs_in_flat_memory_and_the_sums_hold():
    assert_flat(run(argparse.Namespace(events=600_000)), 600_000)
