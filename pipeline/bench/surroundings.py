"""On what a bench ran: told in every report, and looked at before anything is measured."""

import os
from typing import Any

from pipeline.versions import versions


def surroundings() -> dict[str, Any]:
    """Return versions, processors, and the load that others made in the last minute."""
    return {"cpus": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2), "versions": versions()}
