"""`graphsieve quality` as a process, on the embedded log: its reports, its port, and what it refuses."""

import json
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka_consumers import SCHEMA, keyed_messages
from quality_process import QualityProcess
from test_docs import blocks, graphsieve
from worlds import random_model

from pipeline.decoder import Decoder
from pipeline.drift import Reference, fit_bins, watched
from pipeline.events import NODE
from pipeline.log import JSON, Record
from pipeline.schema import load_schema
from producers.synthetic import synthetic_events

EVENTS = 4000


def with_reference(folder: Path) -> Path:
    """A checkpoint of random weights that knows the synthetic stream's features."""
    model = random_model(load_schema(SCHEMA), width=8)
    messages = keyed_messages(synthetic_events(seed=1, limit=EVENTS))
    events, _ = Decoder(model.schema).decode([Record(i, m.value, None, JSON, np.nan) for i, m in enumerate(messages)])
    own = events.features[events.kind == NODE]
    features = {model.schema.own_channels[c]: fit_bins(own[:, c]) for c in watched(model.schema)}
    reference = Reference(features, fit_bins(np.linspace(0, 1, 1000), by_value=False))
    metrics = {"test": {"auroc": 0.8, "ap": 0.4}}
    model.report = {"metrics": metrics, "reference": msgspec.to_builtins(reference)}
    model.save(folder)
    return folder


def report(*words: object) -> tuple[dict, str]:
    """What a command reports, and what it says meanwhile."""
    process = graphsieve([*map(str, words), "--json"], Path.cwd())
    output, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return json.loads(output.splitlines()[-1]), said


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a log that it has scored."""
    folder = tmp_path_factory.mktemp("quality")
    model, log = with_reference(folder / "model"), f"sqlite:{folder / 'log.db'}"
    report("import", "synthetic", "--seed", 1, "--events", EVENTS, "--to", log)
    report("score", "--model", model, "--log", log, "--state", folder / "state", "--until-end")
    return folder


def shape(told: dict) -> dict:
    """The names in a report, whatever its channels are called."""
    return {n: shape(v) if isinstance(v, dict) and n != "channels" else None for n, v in told.items()}


def log_of(workplace: Path) -> str:
    return f"sqlite:{workplace / 'log.db'}"


def test_a_report_has_windows_and_with_a_model_what_to_expect_and_drift(workplace):
    plain, _ = report("quality", "--log", log_of(workplace))
    assert plain["labelled"] == plain["windows"]["long"]["labelled"] > 100
    assert plain["windows"]["long"] == {name: plain[name] for name in plain["windows"]["long"]}
    assert plain.keys() & {"expected", "drift"} == set()
    told, said = report("quality", "--log", log_of(workplace), "--model", workplace / "model")
    assert said == ""
    assert {name: told[name] for name in plain} == plain
    assert (told["expected"]["auroc"], told["expected"]["ap"]) == (0.8, 0.4)
    channels = told["drift"]["channels"]
    assert set(channels) == set(load_schema(SCHEMA).own_channels)
    assert list(channels.values()) == sorted(channels.values(), reverse=True)
    assert max(channels.values()) < 1e-6  # the very events of the reference
    assert told["drift"]["scores"] > 0.2  # no random model's scores are uniform


def test_following_serves_the_figures_and_reports_them_at_its_end(workplace, tmp_path):
    told, _ = report("quality", "--log", log_of(workplace), "--model", workplace / "model")
    words = ["--follow", "--log", log_of(workplace), "--model", workplace / "model"]
    follower = QualityProcess(words, tmp_path / "quality", {"GRAPHSIEVE_QUALITY_SHORT_WINDOW": "50"})
    try:
        while follower.answers("/readyz") != 200:
            assert follower.runs, follower.said
        assert follower.answers("/healthz") == 200
        while follower.metric("graphsieve_quality_labelled_scores_total") < told["labelled"]:
            assert follower.runs, follower.said
        assert follower.metric('graphsieve_quality_window_scores{window="short"}') == 50
        assert follower.metric("graphsieve_quality_expected_average_precision") == 0.4
        assert follower.metric("graphsieve_score_drift_psi") == told["drift"]["scores"]
        with urllib.request.urlopen(f"http://127.0.0.1:{follower.port}/metrics", timeout=5) as page:
            assert page.read().decode().count("graphsieve_drift_psi{") == len(load_schema(SCHEMA).own_channels)
        follower.stop()
        assert follower.report["labelled"] == told["labelled"]
        for part in ("expected", "drift"):
            assert follower.report[part] == told[part]
        assert follower.report["windows"]["long"] == told["windows"]["long"]
        assert follower.report["windows"]["short"]["labelled"] == 50
        (example,) = map(json.loads, blocks("docs/kafka.md", "json"))
        example["expected"] = {name: example["expected"][name] for name in ("model", "auroc", "ap")}
        assert shape(example) == shape(follower.report)
    finally:
        follower.kill()


def test_a_model_of_an_older_version_is_said_to_tell_no_drift(workplace, tmp_path):
    random_model(load_schema(SCHEMA), width=8).save(tmp_path / "old")
    told, said = report("quality", "--log", log_of(workplace), "--model", tmp_path / "old")
    line = f"the model in {tmp_path / 'old'} holds no reference, for an older version trained it: drift is not told"
    assert said == f"graphsieve: {line}\n"
    assert told["drift"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--model", "m", "--schema", "s"],
            "--model and --schema: a model has a schema of its own, expected one of the",
        ),
        (
            ["--follow", "--last", "0.3"],
            "--after and --last choose from a log that is read to its end: leave out --follow",
        ),
        (["--follow", "--after", "7"], "--after and --last choose from a log that is read to its end"),
        (["--follow", "--partition", "3"], "has no partition 3: only topics of Kafka have several; leave it out"),
        (["--model", "nowhere"], "no model in nowhere: model.json is missing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(workplace, words, expected):
    process = graphsieve(["quality", "--log", log_of(workplace), *words, "--json"], Path.cwd())
    output, said = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    (line,) = said.splitlines()
    assert expected in line


def test_a_damaged_reference_is_refused_in_one_line(workplace, tmp_path):
    about = json.loads((workplace / "model/model.json").read_text())
    about["reference"]["scores"] = {"shares": [1.0]}
    (tmp_path / "model.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes((workplace / "model/model.safetensors").read_bytes())
    process = graphsieve(["quality", "--log", log_of(workplace), "--model", str(tmp_path)], Path.cwd())
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    expected = "graphsieve: the model's reference is damaged: 1 shares, expected 2 - at `$.scores`; train it again\n"
    assert said == expected
