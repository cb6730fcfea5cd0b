"""Stages B and D by torch give numpy's scores; a device that is not there is refused before anything is read."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from worlds import random_model, world

from pipeline.cli import main
from pipeline.config import Config, load_config
from pipeline.decoder import Decoder
from pipeline.device import DeviceModel, on_device
from pipeline.errors import ConfigError
from pipeline.experiments.recordings import as_records
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

SEES_A_GPU = torch.cuda.is_available()
# No machine of CI has one, so this one skips there too.
on_a_gpu = pytest.mark.skipif(not SEES_A_GPU, reason="torch sees no GPU here")
without_a_gpu = pytest.mark.skipif(SEES_A_GPU, reason="torch sees a GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=on_a_gpu)])
def device(request):
    return torch.device(request.param)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("batch", [1, 256])
def test_a_stream_gets_the_scores_and_hidden_features_that_numpy_gives(device, pruned, batch):
    schema = load_schema(REPOSITORY / "deploy/schemas/synthetic.toml")
    model = random_model(schema, seed=1, width=16, pruned=pruned)
    ours, theirs = Scorer(model), Scorer(DeviceModel(model, device))
    decoder, lines = Decoder(schema), list(synthetic_events(0, 600 if batch == 1 else 4000))
    for start in range(0, len(lines), batch):
        events, _ = decoder.decode(as_records(lines[start : start + batch]))
        expected, found = ours.score(events), theirs.score(events)
        assert found.score == pytest.approx(expected.score, abs=1e-5)
        assert found.score.dtype == np.float32
    assert ours.hidden.values.rows == pytest.approx(theirs.hidden.values.rows, abs=1e-5, rel=1e-5)
    assert np.ptp(expected.score) > 0.01 or batch == 1


def test_a_model_on_a_device_is_the_same_model_to_all_else(device):
    model = random_model(world())
    moved = DeviceModel(model, device)
    assert (moved.version, moved.threshold, moved.multiply_adds) == (model.version, 0.5, model.multiply_adds)


def test_weights_that_may_not_be_written_are_copied(device):
    model = random_model(world())
    for array in (model.weight, *(branch.weight for layer in model.layers for branch in layer.branches)):
        array.flags.writeable = False
    DeviceModel(model, device)  # torch would warn


def test_on_the_cpu_numpy_computes():
    model = random_model(world())
    assert on_device(model, Config().score.device) is model


@on_a_gpu
def test_cuda_is_taken_where_there_is_one():
    assert isinstance(on_device(random_model(world()), "cuda"), DeviceModel)


@without_a_gpu
def test_cuda_is_refused_where_there_is_none_before_anything_is_read(tmp_path, monkeypatch, capsys):
    random_model(world()).save(tmp_path / "model")
    monkeypatch.setenv("GRAPHSIEVE_SCORE_DEVICE", "cuda")
    words = ["score", "--model", tmp_path / "model", "--log", f"sqlite:{tmp_path / 'no.db'}", "--state", tmp_path / "s"]
    assert main([str(word) for word in words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"score.device is 'cuda', but torch {torch.__version__} sees no GPU here: install" in said
    assert "score.device = 'cpu'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_torch_cuda_is_refused_with_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from pipeline.device import on_device; from pipeline.errors import ConfigError\n"
        "try: on_device(None, 'cuda')\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    refused = "score.device is 'cuda', but torch cannot be imported: pip install torch, or set score.device = 'cpu'"
    assert done.stdout.strip() == refused


def test_other_devices_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"score\.device: Invalid enum value 'tpu'"):
        load_config(environment={"GRAPHSIEVE_SCORE_DEVICE": "tpu"})
