"""How much memory a process may use, as cgroups of both versions tell it."""

from pathlib import Path

import pytest

from pipeline.memory_limit import memory_limit_bytes
from pipeline.metrics import new_registry


def limit_of(folder: Path, groups: str, **limits: str) -> int:
    """The limit where the process is in `groups`, and files of these names hold these limits."""
    (folder / "groups").write_text(groups)
    for name, text in limits.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_limit_bytes(folder, folder / "groups")


def machine(folder: Path) -> int:
    return memory_limit_bytes(folder / "nothing", folder / "nothing")


def test_version_2_has_the_least_limit_of_a_group_and_those_above_it(tmp_path):
    files = {"a/b/memory.max": "max\n", "a/memory.max": "300000000\n", "memory.max": "400000000\n"}
    assert limit_of(tmp_path, "0::/a/b\n", **files) == 300_000_000


def test_version_1_has_a_hierarchy_of_its_own_for_memory(tmp_path):
    files = {"memory/docker/c1/memory.limit_in_bytes": "200000000\n", "memory.max": "1\n"}
    assert limit_of(tmp_path, "7:cpu,cpuacct:/docker/c1\n5:memory:/docker/c1\n", **files) == 200_000_000


def test_a_container_that_does_not_see_its_own_folder_has_the_roots_limit(tmp_path):
    assert limit_of(tmp_path, "0::/../../pod1/c1\n", **{"memory.max": "123456789\n"}) == 123_456_789


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", ""])
def test_without_a_limit_it_is_the_machines_memory(tmp_path, text):
    name = "memory/memory.limit_in_bytes" if text.startswith("9") else "memory.max"
    assert limit_of(tmp_path, "5:memory:/\n0::/\n", **{name: text}) == machine(tmp_path)


def test_without_cgroups_it_is_the_machines_memory(tmp_path):
    pages = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert machine(tmp_path) == pytest.approx(int(pages["MemTotal"].split()[0]) * 1024, rel=0.01)


def test_every_process_of_ours_tells_it_beside_what_it_uses():
    registry = new_registry()
    assert registry.get_sample_value("graphsieve_memory_limit_bytes") == memory_limit_bytes()
    assert registry.get_sample_value("process_resident_memory_bytes") > 0
