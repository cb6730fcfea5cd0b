"""Benches in miniature."""

import argparse
import json
from types import ModuleType


def told(bench: ModuleType, **given: object) -> dict:
    """Return the bench's report, of which its tables are made."""
    name = bench.__name__.rpartition(".")[2]
    options = {"which": name, "events": None, "repeats": 1, "plot": None, "config": None} | given
    report = json.loads(json.dumps(bench.run(argparse.Namespace(**options))))
    assert all(len(line) == len(table.header) for table in bench.tables(report) for line in table.cells)
    assert {"ours", "peers", "ratio", "cpus", "load_before", "versions"} <= set(report)
    assert set(report["ratio"]) == set(report["peers"])
    assert all(ratio > 0 for ratio in report["ratio"].values())
    return report
