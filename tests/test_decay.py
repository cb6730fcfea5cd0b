"""The family `decay`: who is scored by which model, and that no model knows what came after it was trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import SCHEMA, made_up_reviews, records
from test_streams import flipped

from pipeline.experiments.decay import family, retrain
from pipeline.experiments.decay.retrain import NEVER, Subject, both_policies, retrainings
from pipeline.experiments.evaluate import load_settings
from pipeline.experiments.page import gather
from pipeline.experiments.recordings import Recording
from pipeline.experiments.run import Line
from pipeline.history import History, Split
from pipeline.schema import load_schema
from pipeline.train import TrainOptions

EXPERIMENT = Path(__file__).parents[1] / "experiments/decay.toml"
DAY = 86400.0
SUBJECT = Subject("made-up", "30d", 0, 2, 0.7, "30d", 2, None)


def made_up(lines: list[bytes]) -> tuple[Recording, History, slice]:
    recording = Recording("made-up", load_schema(SCHEMA), records(lines))
    history = History(recording.schema, recording.records)
    return recording, history, Split.of(len(history.truth), TrainOptions().shares).test


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return made_up_reviews(900)


@pytest.fixture(scope="module")
def scores(lines) -> dict[str, np.ndarray]:
    return both_policies(SUBJECT, *made_up(lines))


def test_samples_know_their_time_and_where_they_stand_in_the_log(lines):
    recording, history, _ = made_up(lines)
    events = [json.loads(recording.records[p].value) for p in history.sample_position.tolist()]
    assert {event["type"] for event in events} == {"node"}
    assert history.sample_ts.tolist() == [event["ts"] for event in events]


def test_trainings_are_apart_by_the_span_and_each_is_followed_by_a_sample():
    ts = np.array([0.0, 1.0, 1.0, 10.0, 11.0, 35.0]) * DAY
    assert retrainings(ts, 10 * DAY) == [0, 3, 5]
    assert retrainings(ts, 100 * DAY) == [0]


def test_both_policies_share_their_first_model_and_part_after_it(lines, scores):
    _, history, judged = made_up(lines)
    second = retrainings(history.sample_ts[judged], 30 * DAY)[1]
    assert np.array_equal(scores[NEVER][:second], scores["30d"][:second])
    assert not np.allclose(scores[NEVER][second:], scores["30d"][second:])


def test_no_score_depends_on_a_label_that_came_later(lines, scores):
    recording, history, judged = made_up(lines)
    second = retrainings(history.sample_ts[judged], 30 * DAY)[1]
    first = judged.start + second
    turned = both_policies(SUBJECT, *made_up(flipped(lines, first)))
    # Labels are 30 days late: those turned round come after the second training's 30 days at the earliest.
    third = retrainings(history.sample_ts[judged], 30 * DAY)[2]
    for policy in scores:
        assert np.array_equal(scores[policy][:third], turned[policy][:third]), policy
    assert not np.array_equal(scores["30d"][third:], turned["30d"][third:])


def test_records_tell_every_quarter_and_all_of_them(lines, monkeypatch):
    monkeypatch.setattr(retrain, "open_recording", lambda *_: made_up(lines)[0])
    found = retrain.run(SUBJECT)
    quarters = {(r.key["policy"], r.key["quarter"]) for r in found}
    assert {policy for policy, _ in quarters} == {NEVER, "30d"}
    counted = [r for r in found if r.key["policy"] == NEVER and r.key["quarter"] != "all"]
    (whole,) = [r for r in found if r.key["policy"] == NEVER and r.key["quarter"] == "all"]
    assert sum(r.figures["count"] for r in counted) == whole.figures["count"] == 900 - int(0.7 * 900)


def test_the_table_and_the_picture_are_made_from_the_json_alone(tmp_path):
    key = {"data": "made-up", "delay": "30d"}
    lines = [
        Line({}, "abc", "2026-01-01", 1.0, [
            record(key | {"seed": seed, "policy": policy, "quarter": quarter}, auroc)
            for policy, fall in ((NEVER, 0.05), ("90d", 0.01))
            for quarter, auroc in (("2011Q4", 0.8), ("2012Q1", 0.8 - fall), ("all", 0.8 - fall / 2))
        ])
        for seed in (0, 1)
    ]  # fmt: skip
    results = gather("decay", "graphsieve evaluate decay.toml", "a machine", lines)
    (table,) = family.tables(results)
    assert [line[1] for line in table.cells] == ["2011Q4", "2012Q1", "all"]
    assert table.cells[1][4:6] == ["0.750 ± 0.000", "0.790 ± 0.000"]
    (picture,) = family.plots(results, tmp_path)
    assert picture.name == "decay.png" and picture.stat().st_size > 5000


def record(key: dict, auroc: float):
    from pipeline.experiments.run import Record

    return Record(key, {"count": 100.0, "spam": 30.0, "auroc": auroc, "ap": auroc / 2})


def test_the_experiments_settings_are_read_and_the_quick_ones_run_in_seconds():
    _, whole = load_settings(EXPERIMENT)
    _, quick = load_settings(EXPERIMENT, quick=True)
    assert {(one.data, one.seeds) for one in whole.streams} >= {("yelpchi", 3)}
    found = family.jobs(quick)[0].run()
    assert {r.key["quarter"] for r in found} == {"2020Q1", "all"}
