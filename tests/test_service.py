"""The serving process from outside: exactly once through kill -9, clean stops, one clear line for every mistake."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fakes import one_megabyte_disk
from worlds import random_model

from pipeline.decoder import Decoder
from pipeline.log import Message, read_to_end
from pipeline.recorded import read_messages
from pipeline.schema import load_schema
from pipeline.sqlite_log import SqliteLog
from producers.synthetic import synthetic_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/synthetic.toml"
EVENTS = 12_000


def graphsieve(*args: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finished(*args: object) -> tuple[int, str, str]:
    process = graphsieve(*args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def report_of(*args: object) -> dict:
    code, out, err = finished(*args, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def refusal_of(*args: object) -> str:
    """The one line that a mistake gets, with exit code 2."""
    code, out, err = finished(*args)
    lines = [line for line in err.splitlines() if not line.endswith("it/s]")]
    assert code == 2, (out, err)
    assert len(lines) == 1, err
    assert lines[0].startswith("graphsieve: ")
    return lines[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(load_schema(SCHEMA), width=8).save(folder)
    return folder


def stream(count: int = EVENTS) -> list[bytes]:
    """A synthetic stream with a bad event now and then, and events that come too late for their ttl."""
    lines = list(synthetic_events(seed=3, limit=count))
    rng = np.random.default_rng(0)
    for place in rng.integers(0, count, count // 100).tolist():
        lines[place] = lines[place][: int(rng.integers(1, 40))]
    late = {
        "type": "node",
        "ts": 1.5e9,
        "user": "u",
        "product": "p",
        "stars": 5,
        "text_length": 1,
        "embedding": [0] * 8,
    }
    for place in rng.integers(count // 2, count, 10).tolist():
        lines[place] = json.dumps({**late, "id": f"late{place}"}).encode()
    return lines


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return stream()


@pytest.fixture(scope="module")
def undisturbed(model: Path, lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return outputs(serve(model, folder, lines))


def fill(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "log.db"
    log = SqliteLog(path)
    log.append("events", [Message(line) for line in lines])
    log.close()
    return path


def serve(model: Path, folder: Path, lines: list[bytes], *options: object) -> Path:
    path = fill(folder, lines)
    report_of(*scoring(model, path, folder / "state"), "--until-end", *options)
    return path


def scoring(model: Path, path: Path, state: Path) -> list[object]:
    return ["score", "--model", model, "--log", f"sqlite:{path}", "--state", state]


def outputs(path: Path) -> dict[str, list[dict]]:
    log = SqliteLog(path, create=False)
    found = {}
    for topic in ("scores", "dead-letters"):
        found[topic] = [json.loads(r.value) for records in read_to_end(log, topic) for r in records]
    log.close()
    return found


def assert_same_outputs(one: dict[str, list[dict]], other: dict[str, list[dict]]) -> None:
    assert one["dead-letters"] == other["dead-letters"]
    assert [(s["id"], s["position"]) for s in one["scores"]] == [(s["id"], s["position"]) for s in other["scores"]]
    np.testing.assert_allclose([s["score"] for s in one["scores"]], [s["score"] for s in other["scores"]], atol=1e-5)


def test_every_target_is_scored_once_and_every_bad_event_set_aside(undisturbed, lines):
    batch, bad = Decoder(load_schema(SCHEMA)).decode(list(map_records(lines)))
    reasons = [letter["reason"] for letter in undisturbed["dead-letters"]]
    assert reasons.count("expired") == 10
    assert len(reasons) == len(bad) + 10
    scored = [s["position"] for s in undisturbed["scores"]]
    assert len(scored) == len(set(scored)) <= int(batch.target.sum())
    assert scored == sorted(scored)


def map_records(lines: list[bytes]):
    from pipeline.log import JSON, Record

    return (Record(i, line, None, JSON, float("nan")) for i, line in enumerate(lines))


def kill_at_random(model: Path, folder: Path, lines: list[bytes], kills: int, seed: int) -> Path:
    """Serve the log with tiny batches and constant snapshots, killed -9 again and again, then let it finish.

    After the last of these kills come half as many in batches that are large enough to be read ahead.
    """
    path, chance = fill(folder, lines), random.Random(seed)
    usual = [*scoring(model, path, folder / "state"), "--until-end"]
    for batch in [64] * kills + [1024] * (kills // 2):
        process = graphsieve(*usual, "--max-batch", batch, "--snapshot-every", "30ms")
        # Spread over start, recovery, batches, commits and snapshots: measured from when the log begins to move.
        wait_for_progress(path, process)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.communicate()
    report_of(*usual)
    return path


def wait_for_progress(path: Path, process: subprocess.Popen) -> None:
    log = SqliteLog(path, create=False)
    before = log.committed("graphsieve", "events").position
    while log.committed("graphsieve", "events").position == before and process.poll() is None:
        time.sleep(0.002)
    log.close()


def test_kill_9_at_random_instants_loses_and_repeats_nothing(model, lines, undisturbed, tmp_path):
    path = kill_at_random(model, tmp_path, lines, kills=6, seed=1)
    assert_same_outputs(outputs(path), undisturbed)


@pytest.mark.trial
def test_kill_9_at_a_hundred_random_instants_loses_and_repeats_nothing(model, tmp_path):
    lines = stream(120_000)
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    calm = serve(model, tmp_path / "calm", lines)
    killed = kill_at_random(model, tmp_path / "killed", lines, kills=100, seed=2)
    assert_same_outputs(outputs(killed), outputs(calm))


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_scores_do_not_depend_on_the_batch_size(model, lines, undisturbed, tmp_path, batch):
    few = lines[:3000]
    path = serve(model, tmp_path, few, "--max-batch", batch)
    found = outputs(path)
    assert_same_outputs(
        found, {topic: [m for m in said if m["position"] < 3000] for topic, said in undisturbed.items()}
    )


def test_sigterm_finishes_the_batch_commits_and_writes_a_snapshot(model, lines, tmp_path):
    path = fill(tmp_path, lines)
    port = free_port()
    process = graphsieve(
        *scoring(model, path, tmp_path / "state"),
        "--metrics-port",
        port,
        "--json",
    )
    wait_for_progress(path, process)
    while "graphsieve_scores_total" not in get(port, "/metrics"):
        time.sleep(0.01)
    assert get(port, "/readyz").strip() == "ready"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    position = json.loads(out.splitlines()[-1])["position"]
    log = SqliteLog(path, create=False)
    assert log.committed("graphsieve", "events").position == position
    log.close()
    assert len(list((tmp_path / "state").glob(f"snapshot-{position:012}-*/manifest.json"))) == 1


def get(port: int, page: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
        return answer.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_damaged_snapshot_is_refused_and_the_older_taken(model, lines, undisturbed, tmp_path):
    path = fill(tmp_path, lines[:6000])
    state = tmp_path / "state"
    options = ["--model", model, "--log", f"sqlite:{path}", "--state", state, "--until-end"]
    report_of("score", *options)
    log = SqliteLog(path)
    log.append("events", [Message(line) for line in lines[6000:9000]])
    report_of("score", *options)
    assert len(list(state.glob("snapshot-*"))) == 2
    (newest,) = state.glob("snapshot-000000009000-*")
    damage(newest / "hidden.rows.npy")
    log.append("events", [Message(line) for line in lines[9000:]])
    log.close()
    code, _, err = finished("score", *options)
    assert code == 0
    assert f"{newest.name} is damaged: hidden.rows.npy does not match its checksum; taking an older one" in err
    assert_same_outputs(outputs(path), undisturbed)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_full_disk_under_the_snapshots_is_said_and_scoring_goes_on(model, lines, undisturbed, tmp_path):
    with one_megabyte_disk() as disk:
        path = fill(tmp_path, lines)
        code, _, err = finished(*scoring(model, path, disk / "state"), "--until-end")
    assert code == 0
    assert "No space left on device; free space there; scoring goes on" in err
    assert_same_outputs(outputs(path), undisturbed)


def test_mistakes_get_one_clear_line_and_exit_code_2(model, lines, tmp_path):
    path = fill(tmp_path, lines[:100])
    log, state = f"sqlite:{path}", tmp_path / "state"
    usual = scoring(model, path, state)

    assert "no model in nowhere: model.json is missing; make one with `graphsieve train" in refusal_of(
        "score", "--model", "nowhere", "--log", log, "--state", state
    )
    assert "nowhere.db" in refusal_of("score", "--model", model, "--log", "sqlite:nowhere.db", "--state", state)
    assert "max_batch" in refusal_of(*usual, "--max-batch", 0)
    assert "'soon' is no duration" in refusal_of(
        "score", "--model", model, "--log", log, "--state", state, "--max-wait", "soon"
    )
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        said = refusal_of(*usual, "--metrics-port", port)
        assert str(port) in said
    (tmp_path / "file").write_text("")
    assert "cannot be used: Not a directory" in refusal_of(
        "score", "--model", model, "--log", log, "--state", tmp_path / "file" / "state"
    )
    assert "missing.jsonl" in refusal_of(
        "train", tmp_path / "missing.jsonl", "--schema", SCHEMA, "--out", tmp_path / "m"
    )


def test_a_read_only_state_folder_is_refused(model, lines, tmp_path):
    path = fill(tmp_path, lines[:100])
    with one_megabyte_disk(read_only=True) as disk:
        said = refusal_of(*scoring(model, path, disk / "state"))
    assert "cannot be used: Read-only file system; name a folder that can be written to" in said


def test_a_damaged_model_is_refused(model, tmp_path):
    broken = tmp_path / "broken"
    random_model(load_schema(SCHEMA), width=8).save(broken)
    (broken / "model.safetensors").write_bytes(b"nonsense")
    said = refusal_of("score", "--model", broken, "--log", "sqlite:x.db", "--state", tmp_path / "state")
    assert "is damaged" in said
    assert "train it again" in said


def test_two_consumers_of_one_state_folder_are_told_apart(model, lines, tmp_path):
    path = fill(tmp_path, lines[:200])
    first = graphsieve(*scoring(model, path, tmp_path / "state"))
    wait_for_progress(path, first)
    said = refusal_of(*scoring(model, path, tmp_path / "state"))
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert "is in use by another consumer; give each its own --state" in said


def test_a_second_consumer_of_one_group_is_fenced(model, lines, tmp_path):
    path = fill(tmp_path, [])
    both = [graphsieve(*scoring(model, path, tmp_path / f"state{i}")) for i in (1, 2)]
    try:
        feed_until_one_ends(path, both, lines)
        ended = [(process.returncode, err) for process, err in ((p, stopped(p)) for p in both)]
    finally:
        for process in both:
            process.kill()
    (calm, _), (fenced, said) = sorted(ended)
    assert (calm, fenced) == (0, 2)
    assert "group 'graphsieve'" in said
    positions = [s["position"] for s in outputs(path)["scores"]]
    assert len(positions) == len(set(positions))


def feed_until_one_ends(path: Path, both: list[subprocess.Popen], lines: list[bytes]) -> None:
    log, deadline, fed = SqliteLog(path), time.monotonic() + 120, 0
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        log.append("events", [Message(line) for line in lines[fed : fed + 5]])
        fed += 5
        time.sleep(0.05)
    log.close()


def stopped(process: subprocess.Popen) -> str:
    """Ask a consumer to stop; return what it said."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=60)[1]


def test_serving_imports_neither_torch_nor_scikit_learn_nor_networkx(model, lines, tmp_path):
    path = fill(tmp_path, lines[:100])
    options = [*map(str, scoring(model, path, tmp_path / "state")), "--until-end"]
    heavy = ("torch", "sklearn", "networkx", "matplotlib", "dgl")
    code = f"import sys; from pipeline.cli import main; main({options}); assert not set({heavy}) & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_recorded_topics_can_be_replayed(model, lines, undisturbed, tmp_path):
    path = serve(model, tmp_path, lines[:1000])
    report_of("record", "--log", f"sqlite:{path}", "--topic", "events", "--out", tmp_path / "events.jsonl.zst")
    assert [record.value for record in read_messages(tmp_path / "events.jsonl.zst")] == lines[:1000]
    report_of("record", "--log", f"sqlite:{path}", "--topic", "scores", "--out", tmp_path / "scores.jsonl")
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert {"id", "score", "is_spam", "threshold", "model", "ts", "position"} <= set(scores[0])
    assert len(scores) == len([s for s in undisturbed["scores"] if s["position"] < 1000])


def test_the_metrics_port_stays_readable_while_scoring(model, lines, tmp_path):
    path = fill(tmp_path, lines)
    port = free_port()
    environment = os.environ | {"GRAPHSIEVE_METRICS_PORT": str(port)}
    process = graphsieve(*scoring(model, path, tmp_path / "state"), env=environment)
    wait_for_progress(path, process)
    text = get(port, "/metrics")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    for name in ("graphsieve_events_total", "graphsieve_dead_letters_total", "graphsieve_score_latency_seconds_bucket"):
        assert name in text


def test_packed_messages_give_the_same_scores(model, lines, undisturbed, tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(lines[:4000]) + b"\n")
    path = tmp_path / "packed.db"
    report = report_of("replay", events, "--to", f"sqlite:{path}", "--pack", 50, "--schema", SCHEMA)
    assert report["events"] < 4000  # messages: most events travel in packs
    report_of(*scoring(model, path, tmp_path / "state"), "--until-end")
    found = outputs(path)
    wanted = [m for m in undisturbed["scores"] if m["position"] < 4000]
    assert [m["id"] for m in found["scores"]] == [m["id"] for m in wanted]
    np.testing.assert_allclose([m["score"] for m in found["scores"]], [m["score"] for m in wanted], atol=1e-5)
    letters = [m["text"] for m in undisturbed["dead-letters"] if m["position"] < 4000]
    assert [m["text"] for m in found["dead-letters"] if m["reason"] != "expired"] == [
        text for text in letters if "late" not in text
    ]
