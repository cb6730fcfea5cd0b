"""`graphsieve bench train`: seconds from recorded messages to the final checkpoint, and where they go.

    ours     read and replayed, trained, pruned 4x: the checkpoint that is served
    peer     boosted trees on what layer 1 reads, the replay that makes these inputs not counted

New York's reviews where the data is there (359,052 of them, and as many labels), else a synthetic stream.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.bench.surroundings import Report, surroundings
from pipeline.errors import DataError
from pipeline.experiments.recordings import Recording, open_recording
from pipeline.history import History
from pipeline.page import Table
from pipeline.prune import PruneOptions, prune_on
from pipeline.train import TrainOptions, check_samples, train_on


def run(args: argparse.Namespace) -> Report:
    """Measure; return the report."""
    around = surroundings(args)
    name, schema, records = _recording(args.events)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - began, 2)

    options = TrainOptions()
    with timed("replay"):
        history = History(schema, records)
        split = check_samples(history, options.shares)
    del records  # the command reads a file, and holds none
    with timed("train"):
        trained = train_on(history, split, options)
    with timed("prune"):
        prune_on(trained, history, split, PruneOptions())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own, means = (values[history.sample_entry[split.train]] for values in trained.inputs)
    reads = np.concatenate([own, means.reshape(len(means), -1)], axis=1)
    with timed("boosted trees"):
        HistGradientBoostingClassifier(max_iter=100, early_stopping=False).fit(reads, history.truth[split.train])
    trees = seconds.pop("boosted trees")
    total = round(sum(seconds.values()), 2)
    return {
        "data": name,
        "events": history.events,
        **around,
        "peak_memory_mb": round(peak / 1024),
        "ours": {"seconds": total, "by_part": seconds},
        "peers": {"boosted trees": {"seconds": trees}},
        "ratio": {"boosted trees": round(trees / total, 2)},
    }


def tables(report: Report) -> list[Table]:
    ours = report["ours"]
    rows = ours["by_part"] | {
        "all": ours["seconds"],
        "peer: boosted trees": report["peers"]["boosted trees"]["seconds"],
    }
    cells = [[name, f"{seconds:.1f}"] for name, seconds in rows.items()]
    return [Table("seconds", [f"{report['data']}, {report['events']:,} events", "seconds"], cells)]


def _recording(events: int | None) -> Recording:
    if events is None:
        try:
            return open_recording("yelpnyc", "30d", seed=0)
        except DataError as error:
            print(error)
    recording = open_recording("synthetic", "own", seed=0)
    return recording._replace(records=recording.records[:events])
