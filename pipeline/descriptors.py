"""The file descriptors of this process."""

from pathlib import Path


def open_descriptors() -> list[int]:
    """Return those that are open; the last one is the look's own, and closed by now."""
    return [int(path.name) for path in Path("/dev/fd").iterdir()]  # the limit may be a thousand million
