"""Training: layer 2 goes on from layer 1's verdict, networks stand side by side, validation calibrates the scores."""

from dataclasses import replace

import numpy as np
import pytest
from test_checkpoint import SCHEMA, made_up_reviews, records

from pipeline.calibration import fit_platt
from pipeline.evaluate import average_precision
from pipeline.fit import FitOptions, fit_layer
from pipeline.fit_inputs import Reads
from pipeline.history import History, Split
from pipeline.options import parser
from pipeline.schema import load_schema
from pipeline.train import Trained, TrainOptions, check_samples, judge, logits, train_on

OPTIONS = TrainOptions(hidden=8, member_channels=4, fit=FitOptions(epochs=4, batch_size=128))


@pytest.fixture(scope="module")
def history() -> History:
    return History(load_schema(SCHEMA), records(made_up_reviews(1500)))


@pytest.fixture(scope="module")
def split(history) -> Split:
    return check_samples(history, OPTIONS.shares)


@pytest.fixture(scope="module")
def trained(history, split) -> Trained:
    return train_on(history, split, OPTIONS)


def test_a_layer_that_learns_nothing_leaves_layer_1s_verdict(history, split):
    frozen = replace(OPTIONS, fit=replace(OPTIONS.fit, epochs=0))  # neither layer takes a step
    model, inputs, hidden = train_on(history, split, frozen)
    own, means = (values[history.sample_entry] for values in inputs)
    h1 = model.layers[0].forward(own, means)
    branch = model.layers[1].branches[0]
    verdict = h1 @ branch.weight[:, -2] + branch.bias[-2]
    stretch, shift = fit_platt(history.truth[split.validation], verdict[split.validation])
    assert logits(model, history, slice(None), hidden) == pytest.approx(stretch * verdict + shift, abs=1e-4)


def test_the_verdict_is_a_pair_of_outputs_one_of_which_is_zero(trained, history):
    h, means = (values[history.sample_entry] for values in trained.hidden)
    own = trained.model.layers[1].branches[0]
    pair = trained.model.layers[1].forward(h, means)[:, len(own.bias) - 2 : len(own.bias)]
    assert (pair.min(axis=1) == 0).all()
    assert (pair.max(axis=1) > 0).all()


def test_the_folded_layer_says_the_mean_of_its_members(history, split, trained):
    reads = Reads.every(trained.inputs, history.sample_entry)
    fit = FitOptions(epochs=3, batch_size=128, members=2)
    folded = fit_layer(reads, [4] * len(reads.keeps), history.truth, split, fit)
    said = folded.logits(*(values[history.sample_entry] for values in trained.inputs))
    part = split.validation
    assert average_precision(history.truth[part], said[part]) == pytest.approx(folded.validation_ap, abs=1e-3)


def test_scores_mean_probabilities(trained, history, split):
    scores = 1 / (1 + np.exp(-logits(trained.model, history, split.validation, trained.hidden)))
    assert scores.mean() == pytest.approx(history.truth[split.validation].mean(), abs=0.01)


def test_calibration_and_threshold_do_not_look_at_the_test_part(trained, history, split):
    wrong = replace(trained.model)
    kept, history.truth = history.truth, history.truth.copy()
    try:
        history.truth[split.test] = 1 - history.truth[split.test]
        again = train_on(history, split, OPTIONS)
        assert again.model.version == trained.model.version
        judge(again.model, history, split, again.hidden)
    finally:
        history.truth = kept
    judge(wrong, history, split, trained.hidden)
    assert again.model.threshold == wrong.threshold


def test_a_threshold_by_precision_flags_less_that_is_not_spam(trained, history, split):
    careful, usual = replace(trained.model), replace(trained.model)
    by_f1 = judge(usual, history, split, trained.hidden)["validation"]
    by_precision = judge(careful, history, split, trained.hidden, 0.9)["validation"]
    assert by_precision["precision"] >= 0.9 or by_precision["recall"] < 0.05
    assert by_precision["recall"] <= by_f1["recall"] or by_f1["precision"] >= 0.9


def test_a_precision_that_is_no_share_is_refused(capsys):
    words = ["train", "e.jsonl", "--schema", "s.toml", "--out", "m", "--precision", "1.5"]
    with pytest.raises(SystemExit):
        parser().parse_args(words)
    assert "1.5 is not a share" in capsys.readouterr().err
