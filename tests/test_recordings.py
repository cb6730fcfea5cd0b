"""The streams that experiments run on: the same every time, and with what their names promise."""

import json
from itertools import islice

import numpy as np
import pytest
from test_checkpoint import SCHEMA, made_up_reviews

from pipeline.decoder import Decoder
from pipeline.errors import ConfigError, DataError
from pipeline.experiments import recordings
from pipeline.experiments.recordings import open_file, open_recording
from pipeline.log import Record
from producers.synthetic import synthetic_events
from producers.wide import CHANNELS, wide_events

DAY = 86400.0


def events(records: list[Record]) -> list[dict]:
    return [json.loads(record.value) for record in records]


@pytest.mark.parametrize("name", ["network", "yelpchi"])
def test_a_name_a_delay_and_a_seed_make_the_same_records_every_time(data_dir, name):
    first, second = (open_recording(name, "30d", seed=1) for _ in range(2))
    assert first.name == name
    assert first.records == second.records
    assert [r.position for r in first.records[:3]] == [0, 1, 2]


def test_a_seed_shuffles_the_reviews_of_a_day_and_a_delay_moves_the_labels(data_dir):
    one, other = (open_recording("yelpchi", "30d", seed) for seed in (0, 1))
    assert one.records != other.records
    assert sorted(r.value for r in one.records) == sorted(r.value for r in other.records)
    found = events(open_recording("yelpchi", "90d", 0).records)
    posted = {e["id"]: e["ts"] for e in found if e["type"] == "node"}
    assert {e["ts"] - posted[e["id"]] for e in found if e["type"] == "label"} == {90 * DAY}


def test_an_unknown_name_and_a_folder_without_data_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="'yelp': expected one of yelpchi, yelpnyc, network, synthetic, wide"):
        open_recording("yelp", "30d", 0)
    monkeypatch.setenv("GRAPHSIEVE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere: set GRAPHSIEVE_DATA"):
        open_recording("yelpchi", "30d", 0)


def test_a_file_comes_with_its_schema(tmp_path):
    path = tmp_path / "seen-by-nobody.jsonl"
    path.write_bytes(b"\n".join(made_up_reviews(50)) + b"\n")
    found = open_file(path, SCHEMA)
    assert (found.name, found.schema.name, len(found.records)) == ("seen-by-nobody", "reviews", 100)


def test_the_wide_stream_is_the_synthetic_one_but_for_its_embedding(monkeypatch):
    monkeypatch.setattr(recordings, "WIDE_EVENTS", 3000)
    wide = open_recording("wide", "own", seed=2)
    batch, bad = Decoder(wide.schema).decode(wide.records)
    assert not bad and len(batch) == 3000
    narrow = [json.loads(line) for line in synthetic_events(2, 3000)]
    for ours, theirs in zip(events(wide.records), narrow, strict=True):
        assert len(ours.pop("embedding", [0] * CHANNELS)) == CHANNELS
        theirs.pop("embedding", None)
        assert ours == theirs


def test_few_channels_of_the_wide_embedding_tell_nearly_all_that_the_narrow_one_says():
    narrow = [json.loads(line)["embedding"] for line in islice(nodes(synthetic_events(0)), 3000)]
    wide = np.array(
        [json.loads(line)["embedding"] for line in islice(nodes(wide_events(synthetic_events(0), 0)), 3000)]
    )
    told = {}
    for count in (32, CHANNELS):
        informative = np.argsort(-np.abs(np.corrcoef(wide.T, np.array(narrow).T)[:CHANNELS, CHANNELS:]).max(axis=1))
        told[count] = variance_told(wide[:, informative[:count]], np.array(narrow))
    uninformative = variance_told(wide[:, informative[-32:]], np.array(narrow))
    assert told[32] > 0.85 * told[CHANNELS]
    assert uninformative < 0.1 * told[CHANNELS]


def nodes(lines):
    return (line for line in lines if b'"embedding"' in line)


def variance_told(x: np.ndarray, y: np.ndarray) -> float:
    """The share of the variance of y that a linear map of x gives."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1 - (rest**2).sum() / (y**2).sum()
