"""How much memory a process may use, and how much it does.

It may use its cgroup's limit, as a container has one, else the machine's memory:

    v2   /proc/self/cgroup  0::/kubepods/pod1/c1        ->  memory.max there, and in every folder above it
    v1   /proc/self/cgroup  5:memory:/docker/c1         ->  memory.limit_in_bytes, likewise

A container often sees itself as the root of its own hierarchy: what /proc says is then no folder, and the root's file
counts. The least of all limits holds.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def memory_limit_bytes(cgroups: Path = CGROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """Return the limit as it is now, in bytes; it may be raised while a process runs."""
    return min([_machine_bytes(), *_limits(cgroups, own_groups)])


def resident_bytes(process: int | str = "self") -> int | None:
    """Return the memory that a process has in use; None where the system does not say it in Linux's way."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(cgroups: Path, own_groups: Path) -> Iterator[int]:
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number == "0":
            yield from _upwards(cgroups, place, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(cgroups / "memory", place, "memory.limit_in_bytes")


def _upwards(root: Path, place: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of all that it is part of; without one, a file says `max` or a huge number."""
    inside = PurePosixPath(place.lstrip("/"))
    for group in (inside, *inside.parents):
        with contextlib.suppress(OSError, ValueError):
            yield int((root / group / name).read_text(encoding="ascii"))
