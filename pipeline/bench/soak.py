"""`graphsieve bench soak`: does a stream without end run in flat memory, and do the running sums hold?

Ten million synthetic events with a ttl go through decoding and all four stages, in one process, without a log. The
process's memory is read at each tenth of the way; the stream is warm once every node that will expire has begun to.
At the end every list's sums are compared with a rebuild from its members' rows.
"""

import argparse
import math
import time
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.bench.models import some_model, synthetic_schema
from pipeline.decoder import Decoder
from pipeline.graph_state import LIVE
from pipeline.log import JSON, Record
from pipeline.memory_limit import resident_bytes
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

EVENTS = 10_000_000
BATCH = 512
WARM_SHARE = 0.3


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stream; return memory along the way and the largest difference from a rebuild."""
    schema = synthetic_schema()
    total = args.events or EVENTS
    scorer, decoder = Scorer(some_model(schema)), Decoder(schema)
    stream = enumerate(synthetic_events(seed=0, limit=total))
    memory: list[tuple[int, float]] = []
    done = bad = 0
    began = time.perf_counter()
    with tqdm(total=total, desc="soak", unit="event", unit_scale=True, disable=None) as bar:
        while chunk := [Record(i, line, None, JSON, float("nan")) for i, line in islice(stream, BATCH)]:
            events, wrong = decoder.decode(chunk)
            scored = scorer.score(events)
            if not np.isfinite(scored.score).all():
                raise FloatingPointError(f"a score is not finite, events {done} to {done + len(chunk)}")
            bad += len(wrong)
            if done * 10 // total != (done + len(chunk)) * 10 // total:
                memory.append((done + len(chunk), (resident_bytes() or math.nan) / 2**20))
            done += len(chunk)
            bar.update(len(chunk))
    seconds = time.perf_counter() - began
    return _report(scorer, done, bad, seconds, memory)


def largest_drift(scorer: Scorer) -> float:
    """Compare all means that the running sums give with a rebuild; return the largest difference.

    A mean of transformed inputs or hidden features is of the order of 1, so the difference is absolute.
    """
    arrays: dict[str, Any] = scorer.export()
    links, lists = arrays["graph.links"], arrays["graph.lists"]
    entered = links[: int(arrays["graph.meta"]["links_used"][0])]
    entered = entered[(entered["row"] >= 0) & (arrays["graph.rows"]["state"][entered["row"]] == LIVE)]
    half_life = np.array(scorer.model.schema.half_lives)[lists["relation"][entered["list"]]]
    ts = arrays["graph.rows"]["ts"][entered["row"]]  # the stream has no edges
    weight = np.exp2((ts - lists["landmark"][entered["list"]]) / half_life)
    total = np.bincount(entered["list"], weight, len(lists))
    filled = lists["count"] > 0
    worst = 0.0
    for values in (scorer.inputs.values, scorer.hidden.values):
        for c in range(values.rows.shape[1]):
            sums = np.bincount(entered["list"], weight * values.rows[entered["row"], c], len(lists))[filled]
            mean, kept = sums / total[filled], values.sums[: len(lists), c][filled] / lists["weight"][filled]
            worst = max(worst, float(np.abs(mean - kept).max(initial=0.0)))
    return worst


def _report(scorer: Scorer, done: int, bad: int, seconds: float, memory: list[tuple[int, float]]) -> dict[str, Any]:
    warm = [mb for events, mb in memory if events >= WARM_SHARE * done]
    return {
        "events": done,
        "bad": bad,
        "seconds": round(seconds, 1),
        "events_per_s": round(done / seconds),
        "rows": scorer.graph.row_count,
        "lists": scorer.graph.list_count,
        "expired": scorer.graph.expired_count,
        "memory_mb": [round(mb, 1) for _, mb in memory],
        "growth_after_warm_up": round(max(warm) / warm[0], 4),
        "largest_difference_from_rebuild": largest_drift(scorer),
    }
