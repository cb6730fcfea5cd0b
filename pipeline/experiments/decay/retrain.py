"""Train on what a stream's log held at some time, score what comes next, and again.

    time 0            first           first + every         first + 2 every
    |-- all messages --|                                                       the model trained at `first` scores ...
                       |-- these, ...  |                    |                  ... until the next one is trained,
    |-- all messages until then -------|-- which scores these |                or, under the policy "never", for ever

A model is trained on the log's prefix, the messages before the first node that it scores, and on nothing else: its
samples are the nodes whose label had arrived by then, its transform and its early stopping know no others.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.durations import parse_duration
from pipeline.evaluate import split_rank
from pipeline.experiments.figures import by_quarter, counted_figures
from pipeline.experiments.recordings import Recording, open_recording
from pipeline.experiments.run import Key, Record
from pipeline.history import Floats, History
from pipeline.model import Model, probability
from pipeline.train import TrainOptions, logits, train

NEVER = "never"
SHARES = (6 / 7, 1 / 7, 0.0)  # training, validation; the nodes to come are the test


class Subject(NamedTuple):
    data: str
    delay: str
    seed: int
    width: int  # channels a branch
    first: float  # share of the samples before the first training
    every: str
    epochs: int | None
    events: int | None


def run(subject: Subject) -> list[Record]:
    """Return the figures of both policies, quarter by quarter and over all of them."""
    recording = open_recording(subject.data, subject.delay, subject.seed)
    recording = recording._replace(records=recording.records[: subject.events])
    history = History(recording.schema, recording.records)
    judged = slice(split_rank(subject.first, len(history.truth)), len(history.truth))
    truth, ts = history.truth[judged], history.sample_ts[judged]
    key: Key = {"data": subject.data, "delay": subject.delay, "seed": subject.seed}
    records = []
    for policy, scores in both_policies(subject, recording, history, judged).items():
        parts = [*by_quarter(truth, scores, ts), ("all", counted_figures(truth, scores))]
        records += [Record(key | {"policy": policy, "quarter": name}, figures) for name, figures in parts]
    return records


def both_policies(subject: Subject, recording: Recording, history: History, judged: slice) -> dict[str, Floats]:
    """Return the scores of the judged samples under both policies."""
    scores: dict[str, Floats] = {}
    for first in retrainings(history.sample_ts[judged], parse_duration(subject.every)):
        prefix = recording.records[: int(history.sample_position[judged][first])]
        model, _ = train(recording.schema, prefix, options_of(subject))
        found = scores_of(model, history)[judged]
        if not scores:
            scores = {NEVER: found, subject.every: found.copy()}
        scores[subject.every][first:] = found[first:]
    return scores


def retrainings(ts: npt.NDArray[np.float64], every: float) -> list[int]:
    """Return the sample that each training is followed by: the first one, then the first of every `every` seconds."""
    times = np.maximum.accumulate(ts)  # a sample may be older than one before it in the log
    firsts: list[int] = np.unique(np.searchsorted(times, np.arange(times[0], times[-1] + 1e-9, every))).tolist()
    return firsts


def options_of(subject: Subject) -> TrainOptions:
    options = TrainOptions(hidden=subject.width, shares=SHARES)
    fit = replace(options.fit, seed=subject.seed, epochs=subject.epochs or options.fit.epochs)
    return replace(options, fit=fit)


def scores_of(model: Model, history: History) -> Floats:
    """Return the scores of all samples, every hidden feature computed by this model.  # (n,)"""
    inputs = history.inputs(model.transform, model.input_keep)
    return probability(logits(model, history, slice(None), history.hidden(model.layers[0], *inputs)))
