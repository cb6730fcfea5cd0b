"""The fast path against the slow twin, on random event sequences of every type."""

from itertools import cycle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import START, decoded, event_sequences, random_model, world

from pipeline.events import EventBatch
from pipeline.graph_kernel import run
from pipeline.scorer import Advanced, Scorer
from pipeline.snapshot_store import open_store
from pipeline.stats import OUTCOMES
from pipeline.twin import Twin, _mean

MODELS = {
    "whole": random_model(world()),
    "pruned": random_model(world(), seed=1, pruned=True),
    "short half-life": random_model(world(half_life="1s"), seed=2),
    "no ttl": random_model(world(ttl="36500d"), seed=3),
}
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pieces(events: EventBatch, sizes: list[int]) -> list[EventBatch]:
    """Cut events into micro-batches of the given sizes, over and over."""
    cut, start = [], 0
    while start < len(events):
        stop = start + sizes[len(cut) % len(sizes)]
        cut.append(events.part(start, stop))
        start = stop
    return cut


def run_fast(
    scorer: Scorer, events: EventBatch, sizes: list[int], waits: list[bool]
) -> tuple[list[str], list[float | None]]:
    """Score in micro-batches; of those that wait, hidden features and scores are made when the next one is applied."""
    outcomes: list[str] = []
    scores: list[float | None] = []

    def finish(piece: EventBatch, advanced: Advanced) -> None:
        scorer.settle(advanced)
        scored = scorer.classify(advanced)
        outcomes.extend(OUTCOMES[o] for o in scored.outcome.tolist())
        by_event = dict(zip(scored.event.tolist(), scored.score.tolist(), strict=True))
        scores.extend(by_event.get(i) for i in range(len(piece)))

    waiting: list[tuple[EventBatch, Advanced]] = []
    for piece, waits_for_next in zip(pieces(events, sizes), cycle(waits), strict=False):
        waiting.append((piece, scorer.advance(piece)))
        while len(waiting) > waits_for_next:
            finish(*waiting.pop(0))
    for one in waiting:
        finish(*one)
    return outcomes, scores


def assert_same_scores(fast: list[float | None], slow: list[float | None]) -> None:
    assert [s is None for s in fast] == [s is None for s in slow]
    np.testing.assert_allclose([s for s in fast if s is not None], [s for s in slow if s is not None], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@SETTINGS
@given(
    events=event_sequences(),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    waits=st.lists(st.booleans(), min_size=1, max_size=3),
)
def test_the_fast_path_agrees_with_the_slow_twin_however_events_are_batched(name, events, sizes, waits):
    model = MODELS[name]
    batch = decoded(model.schema, events)
    scorer, twin = Scorer(model), Twin(model)
    fast_outcomes, fast_scores = run_fast(scorer, batch, sizes, waits)
    slow_outcomes, slow_scores = zip(*twin.run(batch), strict=True)
    assert fast_outcomes == list(slow_outcomes)
    assert_same_scores(fast_scores, list(slow_scores))
    assert_same_state(scorer, twin)


def assert_same_state(scorer: Scorer, twin: Twin) -> None:
    """Rows, lists and sums hold just what the twin's graph holds."""
    graph, state = scorer.graph, scorer.graph._state
    assert graph.row_count == len(twin.nodes)
    lists = [node for node in twin.graph if node[0] == "list"]
    assert graph.list_count == len(lists)
    for name, node in twin.nodes.items():
        row = graph.rows_of([name])[0]
        assert graph.is_live(row) == node.live
        if not node.live:
            continue
        np.testing.assert_allclose(scorer.inputs.values.rows[row], node.x, atol=1e-4)
        np.testing.assert_allclose(scorer.hidden.values.rows[row], node.h, atol=1e-4)
        for r, (about, own_list, members) in enumerate(twin._lists_of(name)):
            own = state.owner[row, r]
            assert (own >= 0) == twin.graph.has_node(own_list)
            if own >= 0:
                assert state.lists["count"][own] == len(members)
            if members:
                mean = _mean(about, members, lambda m: m.h)
                weight = state.lists["weight"][own]
                np.testing.assert_allclose(scorer.hidden.values.sums[own] / weight, mean, atol=1e-4)


def test_a_state_from_disk_runs_the_same_machine_code(tmp_path):
    """A record type that came from a file equals ours, yet numba would compile for it once more: half a minute."""
    model = MODELS["whole"]
    batch = decoded(model.schema, [{"id": "n", "ts": START, "stars": 1, "user": "u", "embedding": [0, 0]}])
    scorer, store = Scorer(model), open_store(str(tmp_path), "", keep=2)
    scorer.score(batch)
    before = len(run.signatures)
    manifest = store.write(1, "model", scorer.export(), now=0.0)
    store.close()
    restored = Scorer(model)
    restored.restore(store.read_arrays(store.names()[0], manifest))
    restored.score(batch)
    assert len(run.signatures) == before
