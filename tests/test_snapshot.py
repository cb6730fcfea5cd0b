"""Snapshots: whole or not there, the newest two, every byte checked; in a folder and wherever fsspec reaches."""

import gc
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fakes import one_megabyte_disk

from pipeline.config import Config, Score, Topics
from pipeline.errors import ConfigError, SnapshotError, UnsoundSnapshot
from pipeline.graph import META
from pipeline.room import Room
from pipeline.snapshot import read_array, write_array
from pipeline.snapshot_files import Address, open_files
from pipeline.snapshot_store import SnapshotStore, open_shard_store, open_store, shards_of

RECORD = np.dtype([("ts", "f8"), ("state", "i1")])
ARRAYS = {
    "graph.rows": np.zeros(3, RECORD),
    "graph.owner": np.zeros((0, 5), np.int32),
    "hidden.rows": np.arange(6.0).reshape(3, 2),
    "hidden.sums": np.random.default_rng(0).random((1000, 400)),  # more than is read at a time
}
PLACES = ("folder", "file", "memory")


def address(kind, folder):
    """A state of its own: a folder, one that fsspec sees, or one in its memory."""
    return {"folder": str(folder), "file": f"file://{folder}", "memory": f"memory://{uuid.uuid4()}/a/b"}[kind]


@pytest.fixture(params=PLACES)
def where(request, tmp_path):
    return address(request.param, tmp_path / "state")


@pytest.fixture
def store(where):
    store = open_store(where, "events-3", keep=2)
    yield store
    store.close()


@pytest.fixture
def local(tmp_path):
    """The store of an embedded log."""
    store = open_store(str(tmp_path / "state"), "", keep=2, exclusive=True)
    yield store
    store.close()


@pytest.fixture
def busy_collector():
    """Garbage is collected, and threads take turns, all the time."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-5)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def positions(store):
    return [store.read_manifest(name).position for name in store.names()]


def newest(store):
    name = store.names()[0]
    return store.read_arrays(name, store.read_manifest(name))


def unfinished(store, position):
    """What a writer leaves that is killed before its manifest."""
    name = f"snapshot-{position:012}-0123abcd"
    store.files.make_folder(name)
    with store.files.create(f"{name}/rows.npy") as file:
        file.write(b"half")
    return name


def wherever_it_is(store, name):
    """The folder of a snapshot; of a store in memory there is none."""
    return Path(store.files.where.removeprefix("file://")) / name


# ---- what is written ----


def test_a_snapshot_comes_back_as_it_was_written(store):
    written = store.write(4711, "model", ARRAYS, now=1.5)
    (name,) = store.names()
    manifest = store.read_manifest(name)
    assert manifest == written
    assert (manifest.position, manifest.model, manifest.written_at) == (4711, "model", 1.5)
    assert manifest.bytes > sum(array.nbytes for array in ARRAYS.values())
    arrays = store.read_arrays(name, manifest)
    assert arrays.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[key], array)
        assert arrays[key].dtype == array.dtype


def test_what_was_read_can_grow_in_place(store):
    store.write(1, "model", ARRAYS, now=0.0)
    for array in newest(store).values():
        grown = Room.of(array, len(array) + 1, array.dtype).array
        assert grown.flags.writeable
        assert grown.ctypes.data == array.ctypes.data or not len(array)  # nothing lies nowhere


def test_an_array_is_a_file_that_numpy_reads(local):
    local.write(1, "model", ARRAYS, now=0.0)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(np.load(wherever_it_is(local, local.names()[0]) / f"{key}.npy"), array)


def test_the_newest_two_stay(store):
    for position in (5, 50, 500, 5000):
        store.write(position, "model", ARRAYS, now=0.0)
    assert positions(store) == [5000, 500]
    assert sorted(name[:21] for name in store.files.names() if name.startswith("snapshot")) == [
        "snapshot-000000000500",
        "snapshot-000000005000",
    ]


def test_a_snapshot_of_the_previous_version_is_read(local):
    """Its folder is named by the position alone, its manifest names no shard."""
    local.write(7, "model", ARRAYS, now=0.0)
    folder = wherever_it_is(local, local.names()[0])
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(',\n  "shard": ""', ""))
    assert "shard" not in manifest.read_text()
    folder.rename(folder.with_name("snapshot-000000000007"))
    assert local.names() == ["snapshot-000000000007"]
    np.testing.assert_array_equal(newest(local)["hidden.rows"], ARRAYS["hidden.rows"])
    for position in (8, 9):
        local.write(position, "model", ARRAYS, now=0.0)
    assert positions(local) == [9, 8]


# ---- many shards, many writers ----


def test_a_state_holds_many_shards(where):
    for partition in (0, 1):
        with_shard = open_store(where, f"events-{partition}", keep=2)
        with_shard.write(10 + partition, "model", ARRAYS, now=0.0)
        with_shard.close()
    assert shards_of(where) == ["events-0", "events-1"]
    assert [positions(open_store(where, shard, keep=2)) for shard in shards_of(where)] == [[10], [11]]


def test_the_log_tells_which_shard_a_store_is_for(tmp_path):
    config = Config(topics=Topics(events="reviews"), score=Score(group="us/one"))
    for url, partition, shard in (("kafka://broker:9092", 3, "reviews-3@us%2Fone"), ("sqlite:events.db", 0, "")):
        store = open_shard_store(str(tmp_path), url, config, partition)
        store.write(1, "model", ARRAYS, now=0.0)
        store.close()
        assert store.read_manifest(store.names()[0]).shard == shard
        assert Path(store.files.where) == tmp_path / shard


def test_a_snapshot_of_another_shard_is_refused(where):
    store = open_store(where, "events-3", keep=2)
    store.write(1, "model", ARRAYS, now=0.0)
    mixed_up = SnapshotStore(store.files, "events-4")
    with pytest.raises(UnsoundSnapshot, match="is of shard 'events-3', not of 'events-4'"):
        mixed_up.read_manifest(store.names()[0])


def test_a_state_that_is_somebodys_alone_refuses_a_second_consumer(local, tmp_path):
    with pytest.raises(SnapshotError, match="is in use by another consumer; give each its own --state"):
        open_store(str(tmp_path / "state"), "", keep=2, exclusive=True)


def test_two_consumers_share_a_store_and_either_copy_of_a_position_will_do(where):
    one, other = (open_store(where, "events-3", keep=2) for _ in range(2))
    one.write(5, "model", ARRAYS, now=0.0)
    one.write(6, "model", ARRAYS, now=0.0)
    other.write(6, "model", ARRAYS, now=0.0)
    assert positions(one) == positions(other) == [6, 6, 5]
    other.write(7, "model", ARRAYS, now=0.0)
    assert positions(one) == [7, 6, 6]


def test_one_that_writes_an_old_position_removes_nothing_newer(store):
    for position in (8, 9):
        store.write(position, "model", ARRAYS, now=0.0)
    store.write(3, "model", ARRAYS, now=0.0)
    assert positions(store) == [9, 8, 3]
    store.write(4, "model", ARRAYS, now=0.0)
    assert positions(store) == [9, 8, 4]


def test_what_another_has_not_finished_stays_until_newer_ones_are_there(store):
    unfinished(store, 6)
    for position, stays in ((5, True), (6, True), (7, True), (8, False)):
        store.write(position, "model", ARRAYS, now=0.0)
        assert ("snapshot-000000000006-0123abcd" in store.files.names()) == stays


def test_what_is_unfinished_is_never_seen_and_removed_by_who_has_the_state_alone(tmp_path):
    store = open_store(str(tmp_path), "", keep=2)
    name = unfinished(store, 9)
    assert store.names() == []
    store.close()
    open_store(str(tmp_path), "", keep=2).close()
    assert (tmp_path / name).exists()
    open_store(str(tmp_path), "", keep=2, exclusive=True).close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


WRITER = """
import sys
import numpy as np
from pipeline.errors import SnapshotError
from pipeline.snapshot_store import open_store
store = open_store(sys.argv[1], "events-3", keep=2)
for position in range(int(sys.argv[2]), int(sys.argv[3])):
    try:
        store.write(position, "model", {f"array{i}": np.full(50_000, position) for i in range(8)}, now=0.0)
    except SnapshotError as error:  # the other is further on
        assert "it has vanished" in str(error), error
    print(position, flush=True)
"""


def writer(where, first, last):
    line = [sys.executable, "-c", WRITER, where, str(first), str(last)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def assert_sound(store, name):
    manifest = store.read_manifest(name)
    arrays = store.read_arrays(name, manifest)
    assert len(arrays) == 8
    assert all((array == manifest.position).all() for array in arrays.values())
    return manifest.position


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_writer_killed_at_any_instant_leaves_whole_snapshots_only(kind, tmp_path):
    where = address(kind, tmp_path)
    store, first = open_store(where, "events-3", keep=2), 1
    for attempt in range(10):
        process = writer(where, first, 10**6)
        for _ in range(3):
            process.stdout.readline()
        time.sleep(attempt * 0.002)
        process.send_signal(signal.SIGKILL)
        written = process.communicate()[0].split()
        found = [assert_sound(store, name) for name in store.names()]
        assert 2 <= len(found) <= 3  # it may have died before it removed the oldest
        assert found[0] >= (int(written[-1]) if written else first + 2)
        first = found[0] + 1


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_two_that_write_the_same_positions_at_once_leave_sound_ones(kind, tmp_path):
    where = address(kind, tmp_path)
    store = open_store(where, "events-3", keep=2)
    store.write(0, "model", {f"array{i}": np.zeros(10) for i in range(8)}, now=0.0)
    with writer(where, 1, 60) as one, writer(where, 1, 60) as other:
        last = 0
        while one.poll() is None or other.poll() is None:
            position = newest_sound(store)
            assert position >= last
            last = position
    assert one.returncode == other.returncode == 0
    found = [assert_sound(store, name) for name in store.names()]
    assert found[:4] == [59, 59, 58, 58]


def newest_sound(store):
    """What a consumer finds that starts now: one that is removed while it is read makes room for newer ones."""
    while True:
        for name in store.names():
            try:
                return assert_sound(store, name)
            except UnsoundSnapshot as error:
                assert "is missing" in str(error) or "No such file" in str(error)


# ---- what is damaged ----


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("name", ["graph.rows.npy", "hidden.rows.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut off", "prolonged", "a flipped bit", "missing"])
def test_any_damage_is_refused_and_named(kind, name, damage, tmp_path):
    store = open_store(address(kind, tmp_path), "", keep=2)
    store.write(1, "model", ARRAYS, now=0.0)
    (snapshot,) = store.names()
    path = wherever_it_is(store, snapshot) / name
    data = bytearray(path.read_bytes())
    manifest = store.read_manifest(snapshot)
    if damage == "cut off":
        path.write_bytes(data[:-1])
    elif damage == "prolonged":
        path.write_bytes(data + b"?")
    elif damage == "missing":
        path.unlink()
    else:
        data[0] ^= 0x40
        path.write_bytes(data)
    with pytest.raises(UnsoundSnapshot, match=rf"{snapshot} is damaged: {name}"):
        store.read_manifest(snapshot)
        store.read_arrays(snapshot, manifest)


def test_not_a_bit_of_an_array_can_flip_unseen(local):
    local.write(1, "model", {"rows": np.zeros(3, RECORD)}, now=0.0)
    (name,) = local.names()
    manifest = local.read_manifest(name)
    path = wherever_it_is(local, name) / "rows.npy"
    sound = path.read_bytes()
    for bit in range(len(sound) * 8):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert local.read_array(name, "rows", manifest.arrays["rows"]) == "does not match its checksum"


def test_threads_read_headers_at_once_while_garbage_is_collected(busy_collector):
    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            sum(range(50))  # Python code, in which another thread may have its turn

    def read(_: int) -> bool:
        Garbage()
        return read_array(BytesIO(data.getvalue()), stored) is not None

    data = BytesIO()
    stored = write_array(data, np.zeros(1, META))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(4000)))


def test_a_snapshot_of_another_format_is_refused(local):
    local.write(1, "model", ARRAYS, now=0.0)
    (name,) = local.names()
    manifest = wherever_it_is(local, name) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 99').replace("crc32c", "checksum"))
    with pytest.raises(UnsoundSnapshot, match="has format 99, this version reads 3"):
        local.read_manifest(name)


# ---- what cannot be reached ----


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_full_disk_is_said_and_the_older_snapshots_stay(kind):
    with one_megabyte_disk() as disk:
        store = open_store(address(kind, disk), "events-3", keep=2)
        small, large = {"rows": np.zeros(1000)}, {"rows": np.zeros(1000), "sums": np.zeros(2**18)}
        store.write(1, "model", small, now=0.0)
        with pytest.raises(
            SnapshotError, match=r"no snapshot written to .*: No space left on device; free space there"
        ):
            store.write(2, "model", large, now=0.0)
        assert positions(store) == [1]
        assert len([name for name in store.files.names() if name.startswith("snapshot")]) == 1
        store.write(3, "model", small, now=0.0)
        assert positions(store) == [3, 1]
        store.close()


@pytest.mark.parametrize(("kind", "hint"), [("folder", "name a folder"), ("file", "check the address")])
def test_a_store_that_cannot_be_written_to_is_refused_at_once(kind, hint):
    refused = pytest.raises(SnapshotError, match=f"cannot be used: Read-only file system; {hint}")
    with one_megabyte_disk(read_only=True) as disk, refused:
        open_store(address(kind, disk), "events-3", keep=2)


def test_a_store_that_is_gone_is_not_one_without_snapshots(where, store):
    store.write(1, "model", ARRAYS, now=0.0)
    (name,) = store.names()
    if where.startswith("memory"):
        fsspec.filesystem("memory").rm(where, recursive=True)
    else:
        shutil.rmtree(where.removeprefix("file://"))
    with pytest.raises(SnapshotError, match="the snapshots in .* cannot be listed") as refusal:
        store.names()
    assert not isinstance(refusal.value, UnsoundSnapshot)
    with pytest.raises(SnapshotError, match="no snapshot written to .*: it has vanished; the store has gone"):
        store.write(2, "model", ARRAYS, now=0.0)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_file_that_cannot_be_read_is_no_damage(kind, tmp_path):
    """A volume that has gone away: replaying from the start instead could take hours."""
    store = open_store(address(kind, tmp_path), "", keep=2)
    store.write(1, "model", ARRAYS, now=0.0)
    (name,) = store.names()
    for file in ("manifest.json", "hidden.rows.npy"):
        manifest = store.read_manifest(name) if file != "manifest.json" else None
        path = tmp_path / name / file
        path.rename(tmp_path / "aside")
        path.mkdir()  # reading a folder fails with an error that is not "no such file"
        with pytest.raises(SnapshotError, match="cannot be read: Is a directory; mend that") as refusal:
            store.read_arrays(name, manifest) if manifest else store.read_manifest(name)
        assert not isinstance(refusal.value, UnsoundSnapshot)
        path.rmdir()
        (tmp_path / "aside").rename(path)
    assert positions(store) == [1]


def test_a_server_that_does_not_answer_is_said_without_the_password(unused_port):
    told = rf"state ftp://127.0.0.1:{unused_port}/x cannot be used: .*refused; check the address"
    with pytest.raises(SnapshotError, match=told) as refusal:
        open_store(f"ftp://somebody:geheim@127.0.0.1:{unused_port}/x", "events-3", keep=2)
    assert "geheim" not in str(refusal.value)


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_url_that_nothing_serves_is_refused():
    with pytest.raises(ConfigError, match=r"state gopher://x: Protocol not known.*expected a folder, or a URL"):
        open_files("gopher://x")


def test_without_fsspec_the_extra_is_named(tmp_path):
    (tmp_path / "fsspec.py").write_text("raise ImportError")
    code = "from pipeline.snapshot_files import open_files; open_files('s3://user:geheim@bucket/x')"
    line = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    said = subprocess.run(line, capture_output=True, text=True, check=False).stderr
    assert "ConfigError: state s3://bucket/x: a URL needs fsspec: pip install 'graphsieve[store]'" in said
    assert "geheim" not in said


# ---- what is not told ----


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("sftp://user:ge%2Fheim@host:22/prefix", "sftp://host:22/prefix"),
        ("s3://KEY:ge/heim@bucket/prefix", "s3://bucket/prefix"),
        ("az://store/prefix?sv=1&sig=ge/heim", "az://store/prefix"),
        ("https://host/prefix#ge/heim", "https://host/prefix"),
        ("ftp://user:what?ge/heim@host/prefix", "ftp://***"),
        ("simplecache::s3://KEY:ge/heim@bucket/prefix", "simplecache::s3://bucket/prefix"),
    ],
)
def test_the_secrets_of_a_url_are_not_shown(url, shown):
    told = Address(url)
    assert told.shown == shown
    text = told.without_secrets(f"cannot open\n  {url}: no 'ge/heim' there")
    assert "\n" not in text
    if "heim" in url:
        assert "heim" not in text.replace("***", "")
        assert "cannot open" in text
