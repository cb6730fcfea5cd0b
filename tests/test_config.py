"""Knobs: a flag beats the environment, that the file, that the default; unknown ones are refused."""

import re

import pytest

from pipeline.config import Config, load_config
from pipeline.errors import ConfigError


def written(tmp_path, text: str):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold():
    assert load_config(environment={}) == Config()


def test_flag_goes_before_environment_before_file_before_default(tmp_path):
    path = written(tmp_path, "[score]\nmax_batch = 2\ngroup = 'file'\nsnapshot_every = '2m'\n")
    environment = {"GRAPHSIEVE_SCORE_MAX_BATCH": "3", "GRAPHSIEVE_SCORE_GROUP": "environment"}
    flags = {"score.max_batch": "4", "score.max_wait": None}
    score = load_config(path, flags, environment).score
    assert (score.max_batch, score.group, score.snapshot_every_seconds) == (4, "environment", 120.0)
    assert score.max_wait_seconds == 0.010


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("[score]\nmax_batch_ = 2", {}, "unknown config key 'score.max_batch_' in"),
        ("[score]\nmax_batch_ = 2", {}, "did you mean 'score.max_batch'?"),
        ("[scoring]\nmax_batch = 2", {}, "unknown config key 'scoring.max_batch' in"),
        ("loose = 1", {}, "unknown config key 'loose' in"),
        ("[score]\nmax_batch = 'many'", {}, "score.max_batch: Expected `int`, got `str`"),
        ("[score]\nmax_batch = 0", {}, "score.max_batch: Expected `int` >= 1"),
        ("[score]\nmax_wait = 'soon'", {}, "score.max_wait: 'soon' is no duration"),
        ("[metrics]\nport = 70000", {}, "metrics.port: Expected `int` <= 65535"),
        ("[score", {}, "is not valid TOML"),
        (
            "",
            {"GRAPHSIEVE_SCORE_MAX_BACH": "1"},
            "variable GRAPHSIEVE_SCORE_MAX_BACH: did you mean",
        ),
        ("", {"GRAPHSIEVE_SCORE_MAX_BATCH": "1.5"}, "score.max_batch: Expected `int`"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_fix(tmp_path, text, environment, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(written(tmp_path, text), environment=environment)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml", environment={})


def test_the_folder_of_real_data_is_no_knob():
    assert load_config(environment={"GRAPHSIEVE_DATA": "/somewhere"}) == Config()
