"""What a consumer counts of a micro-batch, beside the same counted score by score."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from worlds import world

from consumers.intake import MicroBatch
from consumers.tally import Tally
from pipeline.events import REASONS, plain_nodes
from pipeline.histogram import LATENCY_BUCKETS, LatencyHistogram
from pipeline.log import Move
from pipeline.scorer import Scored
from pipeline.stats import ServiceStats

SCHEMA = world()


@given(reads=st.lists(st.tuples(st.integers(1, 4), st.floats(0.0, 50.0)), min_size=1, max_size=5), data=st.data())
def test_a_score_is_as_old_as_the_read_that_gave_its_event(reads, data):
    sizes, read_at = zip(*reads, strict=True)
    n, committed_at = sum(sizes), 60.0
    scored_events = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    stats, slow = ServiceStats(REASONS), LatencyHistogram()
    read_of = np.repeat(np.arange(len(sizes)), sizes)
    for event in scored_events:
        slow.observe_one(committed_at - read_at[read_of[event]])

    read_from = np.cumsum([0, *sizes[:-1]]).tolist()
    batch = MicroBatch([], Move(0, n), read_from, list(read_at), plain_nodes(SCHEMA, n), [], 0.0)
    count = len(scored_events)
    scored = Scored(
        np.array(scored_events, np.int64), np.zeros(count, np.int32), np.zeros(count, np.float32),
        np.zeros(n, np.uint8), {},
    )  # fmt: skip
    Tally(stats).expect(None, 59.0, batch, scored, lambda: committed_at)

    assert stats.score_latency.cumulative(LATENCY_BUCKETS) == slow.cumulative(LATENCY_BUCKETS)
    assert abs(stats.score_latency.sum - slow.sum) < 1e-9 * max(1.0, slow.sum)
    assert stats.stage_seconds["commit"].count == 1
