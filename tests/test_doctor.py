"""The doctor without a broker: each failure caused for real, and what is said to do about it."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import one_megabyte_disk
from published import serve as serve_list
from worlds import random_model

from pipeline.doctor.examine import CHECKS, Examined, as_report, examine
from pipeline.doctor.finding import Setup
from pipeline.doctor.report import table
from pipeline.log import Message
from pipeline.schema import load_schema
from pipeline.snapshot_store import open_store
from pipeline.sqlite_log import SqliteLog
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


def log_of(folder: Path, lines: list[bytes]) -> str:
    log = SqliteLog(folder / "log.db")
    log.append("events", [Message(line) for line in lines])
    log.close()
    return f"sqlite:{folder / 'log.db'}"


def found(setup: Setup, check: str) -> list[Examined]:
    return [one for one in examine(setup) if one.check == check]


def only(setup: Setup, check: str) -> Examined:
    (one,) = found(setup, check)
    return one


def verdicts(setup: Setup) -> dict[str, str]:
    return {one.check: one.verdict for one in examine(setup)}


# ---- all is well, and what was not given ----


def test_a_sound_setup_has_no_problem_and_every_check_says_what_it_saw(model, tmp_path):
    log = log_of(tmp_path, list(synthetic_events(seed=1, limit=300)))
    examined = examine(Setup(None, {"metrics.port": free_port()}, model, log, str(tmp_path / "state")))
    assert [one.check for one in examined] == [check.name for check in CHECKS]
    assert {one.verdict for one in examined} == {"ok"}, examined
    assert not (tmp_path / "state").exists()  # looked at, and left as it was


def test_what_is_not_given_is_not_looked_at(model):
    told = {one.check: one for one in examine(Setup(model_folder=model))}
    assert told["model"].verdict == "ok"
    assert told["state"][1:] == ("skipped", "not looked at: name it with --state", "")
    assert told["events"].found == "not looked at: name it with --log"


def test_a_check_whose_ground_is_missing_says_which(tmp_path):
    told = {one.check: one for one in examine(Setup(None, {}, tmp_path / "nowhere", "sqlite:nowhere.db", None))}
    assert told["log"].verdict == told["model"].verdict == "problem"
    assert told["events"][1:3] == ("skipped", "not looked at, for it needs: topics, model, schema")


# ---- config ----


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_device_that_is_not_there_is_a_problem_with_what_to_do(monkeypatch):
    monkeypatch.setenv("GRAPHSIEVE_SCORE_DEVICE", "cuda")
    _, refused = found(Setup(), "software")
    assert (refused.verdict, refused.found[:27]) == ("problem", "score.device is 'cuda', but")
    assert refused.fix.endswith("set score.device = 'cpu'")


def test_an_unknown_knob_is_a_problem_with_the_likely_one_and_the_rest_is_looked_at(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[score]\nmax_bach = 2\n")
    told = {one.check: one for one in examine(Setup(path))}
    assert told["config"].verdict == "problem"
    assert told["config"].fix == "did you mean 'score.max_batch'?"
    assert told["port"].verdict == "skipped"
    assert told["compiled code"].verdict == "ok"


def test_variables_are_named_without_their_values(monkeypatch):
    monkeypatch.setenv("GRAPHSIEVE_KAFKA_PASSWORD", "secret-word")
    one = only(Setup(), "config")
    assert "1 variable (GRAPHSIEVE_KAFKA_PASSWORD)" in one.found
    assert "secret-word" not in one.found


def test_a_password_in_a_file_that_others_may_read_is_warned_of(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[kafka]\npassword = 'secret-word'\n")
    path.chmod(0o644)
    _, warned = found(Setup(path), "config")
    assert (warned.verdict, warned.fix) == ("warning", "set GRAPHSIEVE_KAFKA_PASSWORD in its place, or chmod 600")
    assert "secret-word" not in warned.found
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert only(Setup(path), "config").verdict == "ok"


# ---- compiled code ----


def test_a_cache_folder_that_cannot_be_made_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    report = json.loads(doctor("--json", env=environment).stdout.splitlines()[-1])
    (one,) = [check for check in report["checks"] if check["check"] == "compiled code"]
    assert one["verdict"] == "warning"
    assert one["fix"] == "let NUMBA_CACHE_DIR name a folder that this user can write to"


# ---- model and events ----


def test_a_model_whose_numbers_were_exchanged_is_damaged(model, tmp_path):
    random_model(load_schema(SCHEMA), seed=1, width=8).save(tmp_path)
    shutil.copy(model / "model.safetensors", tmp_path)
    one = only(Setup(model_folder=tmp_path), "model")
    assert one.verdict == "problem"
    assert "is damaged: its numbers are those of" in one.found


def test_a_model_that_is_cut_short_is_a_problem(model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:100])
    one = only(Setup(model_folder=broken), "model")
    assert (one.verdict, one.fix) == ("problem", "train it again")


def test_events_that_a_producer_broke_are_warned_of_with_their_reasons(model, tmp_path):
    lines = list(synthetic_events(seed=1, limit=300))
    lines[-3:] = [b"{", b"[]", b'{"type":"node","id":"x"}']
    one = only(Setup(None, {}, model, log_of(tmp_path, lines)), "events")
    assert one.verdict == "warning"
    assert one.found.startswith("of the newest 300 messages 3 would be bad: ")
    assert "1 malformed_json" in one.found


def test_only_the_newest_events_count(model, tmp_path):
    lines = [b"{"] * 50 + list(synthetic_events(seed=1, limit=500))
    assert only(Setup(None, {}, model, log_of(tmp_path, lines)), "events").verdict == "ok"


def test_another_topics_events_are_a_problem(model, tmp_path):
    lines = [json.dumps({"order": i}).encode() for i in range(50)]
    assert only(Setup(None, {}, model, log_of(tmp_path, lines)), "events").verdict == "problem"


def test_events_from_the_future_are_warned_of(model, tmp_path):
    lines = list(synthetic_events(seed=1, limit=20))
    moved = json.loads(lines[-1]) | {"ts": time.time() + 2 * 86400}
    _, warned = found(Setup(None, {}, model, log_of(tmp_path, [*lines, json.dumps(moved).encode()])), "events")
    assert warned.verdict == "warning"
    assert warned.found == "an event is 48.0 h ahead of this machine's clock"


def test_a_schema_for_a_topic_that_is_not_read_is_a_problem(model, tmp_path):
    text = SCHEMA.read_text() + '\n[events.topics.verdicts]\ndefault_type = "label"\n'
    (tmp_path / "graph.toml").write_text(text)
    random_model(load_schema(tmp_path / "graph.toml"), width=8).save(tmp_path / "model")
    one = only(Setup(None, {"topics.events": "reviews,verdict"}, tmp_path / "model"), "schema")
    assert one.verdict == "problem"
    assert "did you mean 'verdict'?" in one.found + one.fix


# ---- state and disk ----


def snapshot(folder: Path, events: int, seed: int = 0) -> str:
    """The state of a run over so many events; returns the model's folder."""
    from fakes import FakeClock, ListLog

    made = random_model(load_schema(SCHEMA), seed=seed, width=8)
    made.save(folder / f"model{seed}")
    log = ListLog(FakeClock(time.time()))
    log.append("events", [Message(line) for line in synthetic_events(seed=1, limit=events)])
    serve_list(made, log, folder / "state", max_batch=512)
    return str(folder / f"model{seed}")


def test_snapshots_of_another_model_are_warned_of(tmp_path):
    own = snapshot(tmp_path, 50)
    other = tmp_path / "other"
    random_model(load_schema(SCHEMA), seed=9, width=8).save(other)
    assert only(Setup(None, {}, Path(own), None, str(tmp_path / "state")), "state").verdict == "ok"
    one = only(Setup(None, {}, other, None, str(tmp_path / "state")), "state")
    assert one.verdict == "warning"
    assert "replays the log from where the group began" in one.fix


def test_a_damaged_snapshot_is_warned_of(tmp_path):
    snapshot(tmp_path, 50)
    (manifest,) = (tmp_path / "state").glob("snapshot-*/manifest.json")
    manifest.write_text("{")
    told = found(Setup(state=str(tmp_path / "state")), "state")
    assert told[0].verdict == "warning"
    assert "is damaged" in told[0].found


def test_a_read_only_disk_is_a_problem():
    with one_megabyte_disk(read_only=True) as disk:
        one = only(Setup(state=str(disk / "state")), "state")
    assert (one.verdict, one.fix) == ("problem", "name a folder that can be written to")
    assert "Read-only file system" in one.found


def test_a_full_disk_is_a_problem():
    with one_megabyte_disk() as disk:
        (disk / "filler").write_bytes(b"0" * 1020 * 1024)
        told = found(Setup(state=str(disk)), "state")
        assert told[0].verdict == "problem"
        assert "No space left on device" in told[0].found
        assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize(("free", "verdict"), [(700_000, "ok"), (300_000, "warning"), (100_000, "problem")])
def test_a_disk_needs_room_for_the_snapshots_that_are_kept_and_one_more(free, verdict):
    with one_megabyte_disk() as disk:
        store = open_store(str(disk / "state"), "", 2)
        store.write(1, "m", {"rows": np.zeros(200_000, np.uint8)}, time.time())
        fill(disk, free)
        one = only(Setup(state=str(disk / "state")), "disk")
    assert one.verdict == verdict, one
    assert ("larger volume" in one.fix) == (verdict != "ok")


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes."""
    (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - free))


def test_a_clock_that_is_behind_a_snapshot_is_warned_of(tmp_path):
    store = open_store(str(tmp_path), "", 2)
    store.write(1, "m", {}, time.time() + 3600)
    one = only(Setup(None, {}, None, log_of(tmp_path, []), str(tmp_path)), "clock")
    assert one.verdict == "warning"
    assert "3,600 s ahead of this machine's clock" in one.found


# ---- port ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_that_another_program_has_is_a_problem():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        one = only(Setup(flags={"metrics.port": busy.getsockname()[1]}), "port")
    assert one.verdict == "problem"
    assert "Address already in use" in one.found


def test_a_port_that_a_consumer_of_ours_has_is_told_apart():
    from pipeline.metrics import MetricsServer, ScorerCollector, new_registry
    from pipeline.stats import GroupStats

    server = MetricsServer(
        new_registry(ScorerCollector(GroupStats(), time.time)), "127.0.0.1", 0, lambda: True, lambda: True
    )
    try:
        one = only(Setup(flags={"metrics.port": server.port}), "port")
    finally:
        server.close()
    assert one.verdict == "warning"
    assert "is taken by a graphsieve consumer that runs" in one.found


def test_an_address_of_another_machine_is_a_problem():
    assert only(Setup(flags={"metrics.host": "192.0.2.1", "metrics.port": 9108}), "port").verdict == "problem"


# ---- how it is told ----


def doctor(*words: object, **options: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "pipeline.cli", "doctor", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, **options)


def test_the_command_ends_with_2_where_there_is_a_problem_and_says_the_same_in_json(model, tmp_path):
    sound = doctor("--model", model)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.splitlines()[-1] == "  6 ok, 0 problems, 1 warning, 8 not looked at"
    ill = doctor("--model", tmp_path, "--json")
    report = json.loads(ill.stdout)
    assert (ill.returncode, report["problems"]) == (2, 1)
    (check,) = [one for one in report["checks"] if one["verdict"] == "problem"]
    assert check["check"] == "model"
    assert check["fix"].startswith("make one with `graphsieve train")


def test_a_table_is_aligned_and_no_wider_than_the_terminal():
    examined = [
        Examined("log", "problem", "nothing listens " * 10, "start a broker " * 10),
        Examined("port", "ok", "9108 is free", ""),
    ]
    lines = list(table(examined, 80, coloured=False))
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("  problem  log   nothing listens")
    assert [line for line in lines if "-> start a broker" in line][0].startswith(" " * 17 + "-> ")
    assert "\033" not in "".join(lines)
    painted = list(table(examined, 80, coloured=True))
    assert painted[0].startswith("  \033[31;1mproblem\033[0m  log ")


def test_a_report_counts():
    examined = [Examined("a", "problem", "x", "y"), Examined("b", "warning", "x", "y"), Examined("c", "ok", "x", "")]
    report = as_report(examined)
    assert (report["problems"], report["warnings"]) == (1, 1)
    assert report["checks"][0] == {"check": "a", "verdict": "problem", "found": "x", "fix": "y"}
