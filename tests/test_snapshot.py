"""Snapshots: whole or not there, the newest two, every byte checked."""

import numpy as np
import pytest

from pipeline.errors import SnapshotError
from pipeline.snapshot import SnapshotStore, read_manifest, read_snapshot

ARRAYS = {"graph.rows": np.zeros(3, np.dtype([("ts", "f8"), ("state", "i1")])), "hidden.rows": np.arange(6.0)}


@pytest.fixture
def store(tmp_path):
    store = SnapshotStore(tmp_path / "state")
    store.open()
    yield store
    store.close()


def test_a_snapshot_comes_back_as_it_was_written(store):
    written = store.write(4711, "model", ARRAYS, now=1.5)
    manifest, arrays = read_snapshot(store.paths()[0])
    assert manifest == written
    assert (manifest.position, manifest.model, manifest.written_at) == (4711, "model", 1.5)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_the_newest_two_stay(store):
    for position in (5, 50, 500, 5000):
        store.write(position, "model", ARRAYS, now=0.0)
    assert [read_manifest(path).position for path in store.paths()] == [5000, 500]


def test_what_a_crash_left_half_written_is_never_seen_and_removed(store):
    (store.folder / ".snapshot-000000000009").mkdir()
    assert store.paths() == []
    store.close()
    store.open()
    assert [path.name for path in store.folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["graph.rows.npy", "hidden.rows.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut off", "a flipped bit", "missing"])
def test_any_damage_is_refused_and_named(store, name, damage):
    store.write(1, "model", ARRAYS, now=0.0)
    path = store.paths()[0] / name
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(data[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        data[0] ^= 0x40
        path.write_bytes(data)
    with pytest.raises(SnapshotError, match=rf"damaged: {name}"):
        read_snapshot(store.paths()[0])


def test_a_snapshot_of_another_format_is_refused(store):
    store.write(1, "model", ARRAYS, now=0.0)
    manifest = store.paths()[0] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(SnapshotError, match="has format 99, this version reads 1"):
        read_snapshot(store.paths()[0])
