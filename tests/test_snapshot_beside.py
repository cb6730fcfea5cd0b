"""Snapshots that a child process writes: what they hold, what becomes of the child, and that scoring never waits."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import FakeClock, HeldFiles, ListLog, one_megabyte_disk
from worlds import START, random_model, records, world

from consumers.score import ScoreConsumer
from pipeline.config import Config, Score
from pipeline.decoder import Decoder
from pipeline.errors import SnapshotError
from pipeline.log import Message
from pipeline.scorer import Scorer
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_files import LocalFiles
from pipeline.snapshot_store import SnapshotStore, open_store
from pipeline.stats import ServiceStats

MODEL = random_model(world())
BATCH = 8


def nodes(first: int, last: int) -> list[dict]:
    return [
        {"id": f"n{i % 50}", "ts": START + 60.0 * i, "stars": 1 + i % 3, "user": f"u{i % 5}", "embedding": [i % 7, 1]}
        for i in range(first, last)
    ]


def score(scorer: Scorer, first: int, last: int) -> list[float]:
    return scorer.score(Decoder(MODEL.schema).decode(records(nodes(first, last), first))[0]).score.tolist()


@pytest.fixture
def held(tmp_path) -> HeldFiles:
    return HeldFiles(tmp_path / "state", tmp_path / "gate")


@pytest.fixture
def store(held) -> SnapshotStore:
    store = SnapshotStore(held, "", keep=2)
    store.open()
    return store


def begun(store: SnapshotStore, position: int, scorer: Scorer, limit_seconds: int = 60) -> SnapshotBeside:
    return SnapshotBeside(store, position, MODEL.version, scorer.export, 0.0, limit_seconds)


def children() -> list[int]:
    """This process's forks: unlike other children they have its command line."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    own = Path("/proc/self/cmdline").read_bytes()
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes() == own]


def folders(store: SnapshotStore) -> list[str]:
    """The snapshots that are there, unfinished ones too, without what tells writers apart."""
    return sorted(name[:21] for name in store.files.names() if name.startswith("snapshot"))


def name_of(position: int) -> str:
    return f"snapshot-{position:012}"


def restored(store: SnapshotStore, name: str) -> Scorer:
    scorer = Scorer(MODEL)
    scorer.restore(store.read_arrays(name, store.read_manifest(name)))
    return scorer


# ---- what is written ----


def test_a_snapshot_holds_the_state_at_its_position_whatever_is_scored_meanwhile(store, held):
    scorer = Scorer(MODEL)
    score(scorer, 0, 200)
    then = {name: array.copy() for name, array in scorer.export().items()}
    snapshot = begun(store, 200, scorer)
    later = score(scorer, 200, 400)
    assert snapshot.poll() is None
    held.release()
    manifest = snapshot.wait()
    assert manifest.position == 200
    (name,) = store.names()
    assert store.read_manifest(name) == manifest
    arrays = store.read_arrays(name, manifest)
    assert arrays.keys() == then.keys()
    for key, array in then.items():
        np.testing.assert_array_equal(arrays[key], array)
    assert any(not np.array_equal(array, then[key]) for key, array in scorer.export().items())
    assert score(restored(store, name), 200, 400) == later


def test_shards_may_have_snapshots_written_at_once(tmp_path):
    def write(shard: int) -> int:
        store, scorer = open_store(str(tmp_path), f"events-{shard}", keep=2), Scorer(MODEL)
        score(scorer, 0, 10 + shard)
        begun(store, shard, scorer).wait()
        return restored(store, store.names()[0]).graph.row_count

    with ThreadPoolExecutor(8) as shards:
        assert list(shards.map(write, range(16))) == list(range(10, 26))
    assert children() == []


# ---- what becomes of the child ----


def test_a_child_that_is_killed_leaves_nothing_and_is_a_failure(store):
    snapshot = begun(store, 1, Scorer(MODEL))
    store.files.make_folder(snapshot._name)  # as the child does
    os.kill(*children(), signal.SIGKILL)
    with pytest.raises(SnapshotError, match=r"no snapshot written to .*state: its process was killed; if memory was"):
        snapshot.wait()
    assert folders(store) == children() == []


def test_a_child_that_hangs_is_ended_after_its_time(store):
    snapshot = begun(store, 1, Scorer(MODEL), limit_seconds=1)
    with pytest.raises(SnapshotError, match=r"no snapshot written to .*state: it was not done after 1 s; does the"):
        snapshot.wait()
    assert folders(store) == children() == []


def test_one_that_is_given_up_leaves_nothing(store):
    snapshot = begun(store, 1, Scorer(MODEL))
    store.files.make_folder(snapshot._name)
    snapshot.close()
    assert folders(store) == children() == []


def test_a_finished_one_stays_whatever_its_writer_died_of(store):
    snapshot = begun(store, 1, Scorer(MODEL))
    store.write(1, MODEL.version, Scorer(MODEL).export(), 0.0, snapshot._name)
    snapshot.close()
    assert folders(store) == [name_of(1)]


def test_signals_that_are_meant_for_the_parent_are_not_heeded(store, held):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    snapshot = begun(store, 1, Scorer(MODEL))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(*children(), number)
    held.release()
    assert snapshot.wait().position == 1


def test_a_full_disk_is_said_and_the_older_snapshots_stay():
    with one_megabyte_disk() as disk:
        store, scorer = open_store(str(disk), "", keep=2), Scorer(MODEL)
        begun(store, 1, scorer).wait()
        large = {"sums": np.zeros(2**18)}
        snapshot = SnapshotBeside(store, 2, MODEL.version, lambda: large, 0.0, 60)
        with pytest.raises(SnapshotError, match="no snapshot written to .*: No space left on device; free space there"):
            snapshot.wait()
        assert folders(store) == [name_of(1)]
        store.close()


def test_whatever_goes_wrong_in_the_child_is_said(store, tmp_path):
    def export() -> dict:
        raise MemoryError("of a gigabyte")

    snapshot = SnapshotBeside(store, 1, MODEL.version, export, 0.0, 60)
    with pytest.raises(SnapshotError, match="no snapshot written: MemoryError: of a gigabyte"):
        snapshot.wait()
    assert children() == []


PARENT = """
import atexit, socket, sys
from pathlib import Path
from fakes import HeldFiles
from pipeline.snapshot_beside import SnapshotBeside
from pipeline.snapshot_store import SnapshotStore
port = socket.create_server(("127.0.0.1", 0))
store = SnapshotStore(HeldFiles(Path(sys.argv[1]), Path(sys.argv[2])), "", keep=2)
store.open(exclusive=True)
atexit.register(print, "the end")
print("not flushed yet, ", end="")
snapshot = SnapshotBeside(store, 1, "model", dict, 0.0, 60)
if sys.argv[3] == "finishes":
    store.files.release()
    snapshot.wait()
    try:
        SnapshotStore(store.files).open(exclusive=True)
    except Exception as error:
        print("locked, ", end="")
else:
    print(port.getsockname()[1], file=sys.stderr, flush=True)
    snapshot.wait()
"""


def parent(folder: Path, what: str) -> subprocess.Popen:
    words = [sys.executable, "-c", PARENT, folder / "state", folder / "gate", what]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_child_says_nothing_and_unlocks_nothing(tmp_path):
    out, err = parent(tmp_path, "finishes").communicate(timeout=60)
    assert (out, err) == ("not flushed yet, locked, the end\n", "")


def test_an_orphan_keeps_nothing_of_its_parents_and_finishes_a_whole_snapshot(tmp_path):
    process = parent(tmp_path, "is killed")
    port = int(process.stderr.readline())
    process.kill()
    assert process.communicate(timeout=60) == ("", "")  # the child has closed the pipes, or this would wait for it
    socket.create_server(("127.0.0.1", port)).close()
    store = open_store(str(tmp_path / "state"), "", keep=2, exclusive=True)
    assert store.names() == []
    HeldFiles(tmp_path / "state", tmp_path / "gate").release()
    deadline = time.monotonic() + 60
    while not store.names():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert store.read_manifest(store.names()[0]).position == 1
    store.close()


# ---- a consumer ----


class Consumer:
    """One on a log in memory, with a snapshot due at every moment."""

    def __init__(self, store: SnapshotStore) -> None:
        log = self.log = ListLog(FakeClock(START))
        self.said, self.stats = [], ServiceStats()
        config = Config(score=Score(max_batch=BATCH, max_wait="0ms", snapshot_every="0s"))
        self.it = ScoreConsumer(log, store, MODEL, config, self.stats, self.said.append, log.clock, log.clock)
        self.it.recover(threading.Event())

    def append(self, first: int, last: int) -> None:
        self.log.append("events", [Message(msgspec.json.encode(node)) for node in nodes(first, last)])

    def run(self) -> None:
        self.it.run(threading.Event(), self.log.end("events"))

    def run_until(self, counted: str) -> None:
        """Score one more event again and again, until one more is counted."""
        before, deadline = getattr(self.stats, counted), time.monotonic() + 60
        while getattr(self.stats, counted) == before:
            assert time.monotonic() < deadline
            end = self.log.end("events")
            self.append(end, end + 1)
            self.run()
            time.sleep(0.001)

    @property
    def published(self) -> list[float]:
        return [msgspec.json.decode(record.value)["score"] for record in self.log.topics["scores"]]


@pytest.fixture
def consumer(store):
    consumer = Consumer(store)
    consumer.append(0, 100)
    yield consumer
    consumer.it.close()


def test_scoring_goes_on_while_a_snapshot_is_written(consumer, store, held):
    consumer.run()
    assert len(consumer.published) == 100
    assert consumer.stats.snapshots == 0
    held.release()
    consumer.run_until("snapshots")
    (name,) = store.names()
    assert store.read_manifest(name).position == BATCH  # all the rest came after it had begun
    assert consumer.stats.snapshot_bytes == store.read_manifest(name).bytes
    end = consumer.log.end("events")
    assert score(restored(store, name), BATCH, end) == pytest.approx(consumer.published[BATCH:], abs=1e-6)


def test_what_a_kill_of_the_child_costs_is_said_and_the_next_snapshot_is_written(consumer, store, held):
    consumer.run()
    os.kill(*children(), signal.SIGKILL)
    consumer.run_until("snapshot_failures")
    assert "its process was killed" in consumer.said[-1]
    assert "scoring goes on, a start would replay from the last one" in consumer.said[-1]
    consumer.run_until("scores")  # and with it the next one begins
    held.release()
    consumer.run_until("snapshots")
    assert store.read_manifest(store.names()[0]).position >= 100
    assert consumer.stats.snapshot_failures == 1


def test_a_stop_gives_up_what_is_being_written_for_the_last_one(consumer, store):
    consumer.run()
    consumer.it.finish()
    assert folders(store) == [name_of(100)]
    assert children() == []
    assert (consumer.stats.snapshots, consumer.stats.snapshot_failures) == (1, 0)


def test_a_stop_waits_for_one_of_the_last_position(consumer, store, held):
    consumer.it.run(threading.Event(), BATCH)
    release = threading.Timer(0.1, held.release)
    release.start()
    consumer.it.finish()
    release.join()
    assert folders(store) == [name_of(BATCH)]
    assert (consumer.stats.snapshots, consumer.stats.snapshot_failures) == (1, 0)


def test_a_shard_that_is_lost_leaves_no_child_behind(consumer, store):
    consumer.run()
    assert len(children()) == 1
    consumer.it.close()
    assert folders(store) == children() == []


def test_a_store_that_has_vanished_is_said_once_for_every_try(consumer, store, held):
    shutil.rmtree(store.files.where)
    consumer.run()
    held.release()
    consumer.run_until("snapshot_failures")
    assert "it has vanished; the store has gone" in consumer.said[-1]


def test_snapshots_at_a_url_are_written_while_scoring_stands_still():
    """A client of an object store has threads and connections, which do not live on in a child."""
    consumer = Consumer(open_store(f"memory://{uuid.uuid4()}", "", keep=2))
    consumer.append(0, 100)
    consumer.run()
    assert children() == []
    assert consumer.stats.snapshots == 100 // BATCH + 1


def test_a_folder_is_for_children_and_a_url_is_not(tmp_path):
    assert LocalFiles(tmp_path).forkable
    assert not open_store(f"file://{tmp_path}", "", keep=2).files.forkable
