"""Which versions of what this process runs on: the first that whoever helps will ask."""

import platform
from importlib import metadata

PACKAGES = ("graphsieve", "numpy", "numba", "kafka-python", "confluent-kafka")


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
