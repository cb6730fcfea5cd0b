"""`graphsieve inspect`: what it tells of each thing that it knows, and of what it does not know."""

import contextlib
import json
import sqlite3

import numpy as np
import pytest
from worlds import random_model, world

from pipeline.cli import main
from pipeline.errors import CheckpointError, ConfigError, LogError, SnapshotError
from pipeline.inspect import inspect
from pipeline.log import Message, Move, Record
from pipeline.recorded import RecordedWriter
from pipeline.snapshot_store import open_store
from pipeline.sqlite_log import SqliteLog


@pytest.fixture
def log(tmp_path):
    """A log of three events that group `one` has read two of, with a score."""
    with contextlib.closing(SqliteLog(tmp_path / "log.db", clock=lambda: 86400.0)) as log:
        log.append("events", [Message(b"{}"), Message(b"{}")])
        log.commit("one", {"events": Move(0, 2)}, {"scores": [Message(b'{"score":1}')]})
    with contextlib.closing(SqliteLog(tmp_path / "log.db", clock=lambda: 86460.0)) as log:
        log.append("events", [Message(b"{}")])
        log.append("empty", [])
    return tmp_path / "log.db"


@pytest.fixture
def state(tmp_path):
    """Two snapshots of two arrays each, at positions 5 and 9."""
    store = open_store(str(tmp_path / "state"), "", keep=2)
    for position in (5, 9):
        store.write(position, "abc", {"rows": np.arange(4), "sums": np.zeros(3)}, now=0.0)
    store.close()
    return tmp_path / "state"


def folder_of(state, position):
    (folder,) = state.glob(f"snapshot-{position:012}*")
    return folder


def test_a_checkpoint_tells_its_model_and_what_each_branch_reads(tmp_path):
    model = random_model(world(), seed=0)
    model.save(tmp_path)
    found = inspect(str(tmp_path))
    assert (found["kind"], found["model"], found["schema"]) == ("checkpoint", model.version, "world")
    assert found["multiply_adds"] == model.multiply_adds
    assert list(found["layer1"]) == ["self", *model.schema.relation_names]
    branch = model.layers[0].branches[0]
    assert found["layer1"]["self"] == {"reads": len(branch.keep), "gives": len(branch.bias)}


def test_a_pruned_checkpoint_tells_what_was_kept_and_how_good_it_is(tmp_path):
    model = random_model(world(), seed=0)
    model.report = {
        "pruning": {"budget": 4, "kept": {"inputs": {"self": ["rating"]}}},
        "metrics": {"test": {"ap": 0.5}},
    }
    model.save(tmp_path)
    found = inspect(str(tmp_path))
    assert found["pruning"]["kept"]["inputs"] == {"self": ["rating"]}
    assert found["metrics"]["test"]["ap"] == 0.5


def test_a_checkpoint_that_lacks_a_file_is_one_line(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        inspect(str(tmp_path))


def test_a_state_lists_its_snapshots_newest_first(state):
    found = inspect(str(state))
    assert found["kind"] == "state"
    assert [one["position"] for one in found["snapshots"].values()] == [9, 5]
    newest = found["snapshots"][folder_of(state, 9).name]
    assert (newest["model"], newest["files"], newest["sound"]) == ("abc", 2, True)
    assert newest["written_at"] == "1970-01-01T00:00:00+00:00"
    assert newest["bytes"] == sum(path.stat().st_size for path in folder_of(state, 9).glob("*.npy"))


def test_a_damaged_snapshot_is_told_file_by_file(state):
    folder = folder_of(state, 9)
    (folder / "rows.npy").write_bytes(b"\0" * 100)
    (folder / "sums.npy").unlink()
    found = inspect(str(folder))
    assert (found["kind"], found["sound"]) == ("snapshot", False)
    assert found["damaged"] == {"rows.npy": "does not match its checksum", "sums.npy": "is missing"}


def test_a_snapshot_whose_manifest_is_damaged_does_not_hide_the_others(state):
    newest, older = folder_of(state, 9), folder_of(state, 5)
    (newest / "manifest.json").write_text("{")
    found = inspect(str(state))["snapshots"]
    assert "damaged: manifest.json" in found[newest.name]["error"]
    assert found[older.name]["sound"]
    with pytest.raises(SnapshotError, match="manifest.json"):
        inspect(str(newest))


def test_without_a_manifest_it_is_no_snapshot_yet(state):
    newest, older = folder_of(state, 9), folder_of(state, 5)
    (newest / "manifest.json").unlink()
    assert list(inspect(str(state))["snapshots"]) == [older.name]


def test_the_shards_of_a_state_are_told_apart_in_a_folder_and_at_a_url(tmp_path):
    for shard, position in (("events-0", 3), ("events-1", 4)):
        store = open_store(str(tmp_path), shard, keep=2)
        store.write(position, "abc", {"rows": np.arange(4)}, now=0.0)
        store.close()
    moved = folder_of(tmp_path / "events-1", 4)
    moved.rename(tmp_path / "events-0" / moved.name)
    for where in (str(tmp_path), f"local://{tmp_path}"):
        found = inspect(where)
        assert (found["kind"], found["snapshots"], found["shards"]["events-1"]) == ("state", {}, {})
        first, second = found["shards"]["events-0"].values()
        assert "is of shard 'events-1', not of 'events-0'" in first["error"]
        assert (second["position"], second["sound"]) == (3, True)


def test_a_state_without_a_snapshot_yet_is_a_state(tmp_path):
    open_store(str(tmp_path), "", keep=2).close()
    assert inspect(str(tmp_path)) == {"kind": "state", "snapshots": {}}


@pytest.mark.parametrize("as_url", [True, False])
def test_a_log_tells_its_topics_and_how_far_each_group_has_come(log, as_url):
    found = inspect(f"sqlite:{log}" if as_url else str(log))
    assert found["kind"] == "log"
    assert found["topics"] == {
        "empty": {"messages": 0, "first_appended": None, "last_appended": None},
        "events": {
            "messages": 3,
            "first_appended": "1970-01-02T00:00:00+00:00",
            "last_appended": "1970-01-02T00:01:00+00:00",
        },
        "scores": {
            "messages": 1,
            "first_appended": "1970-01-02T00:00:00+00:00",
            "last_appended": "1970-01-02T00:00:00+00:00",
        },
    }
    assert found["groups"] == {"one": {"events": {"position": 2, "behind": 1}}}


def test_looking_at_a_file_makes_no_log_of_it(tmp_path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigError, match="empty.db' is a file of another kind: expected"):
        inspect(f"sqlite:{tmp_path}/empty.db")
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_recorded_file_tells_its_times_where_it_knows_them(tmp_path):
    path = tmp_path / "events.jsonl.zst"
    with RecordedWriter(path) as writer:
        writer.write_line(b'{"type":"retract","id":"a"}')
        writer.write_line(b'{"type":"node","id":"b","ts":86400.0}')
        writer.write_record(Record(2, b"\xff", None, "application/json", 60.0))
        writer.write_line(b'{"type":"node","id":"c","ts":3600.0}')
    found = inspect(str(path))
    assert (found["kind"], found["messages"], found["bytes"]) == ("recorded file", 4, path.stat().st_size)
    assert (found["first_ts"], found["last_ts"]) == ("1970-01-01T01:00:00+00:00", "1970-01-02T00:00:00+00:00")
    assert found["first_appended"] == found["last_appended"] == "1970-01-01T00:01:00+00:00"


def test_what_is_none_of_ours_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    expected = "expected a checkpoint or state folder, a snapshot, sqlite:FILE, or a recorded file"
    for what, problem in (
        ("nothing.db", "nothing at"),
        ("notes.txt", "is a file of another kind"),
        ("folder", "is empty"),
        ("", "holds folder, notes.txt"),
    ):
        with pytest.raises(ConfigError, match=f"{problem}.*: {expected}"):
            inspect(f"{tmp_path}/{what}")
    for url in (f"sqlite:{tmp_path}/nothing.db", f"file:{tmp_path}/nothing.jsonl"):
        with pytest.raises(ConfigError, match=f"nothing at '{url}': {expected}"):
            inspect(url)


def test_a_database_of_another_program_is_no_log(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE notes (text)")
    with pytest.raises(LogError, match="an SQLite file of another program"):
        inspect(f"sqlite:{tmp_path}/other.db")


def test_the_command_prints_json_and_exits_with_2_on_what_it_does_not_know(log, tmp_path, capsys):
    assert main(["inspect", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["topics"]["events"]["messages"] == 3
    assert main(["inspect", str(log)]) == 0
    assert "messages" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
