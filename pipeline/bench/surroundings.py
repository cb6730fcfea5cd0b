"""On what a bench ran, and when: told in every report, and looked at before anything is measured."""

import os
import shlex
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from pipeline.experiments.run import code_version
from pipeline.versions import versions

Report = dict[str, Any]  # `ours`, `peers` (name -> figures), `ratio` (name -> ours/peer, above 1 is better), and this


def surroundings(args: Namespace, length: str = "repeats") -> Report:
    """Return the command, the code, versions, processors, and the load that others made in the last minute.

    `length` is the option that says how much is measured.
    """
    words = ["graphsieve", "bench", args.which]
    words += [f"--events {args.events}"] if args.events else []
    words += [f"--{length} {getattr(args, length)}"]
    return {
        "bench": args.which,
        "command": " ".join(shlex.quote(part) for word in words for part in word.split()),
        "commit": code_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }
