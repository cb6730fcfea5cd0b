"""What every method may read of a scored node: the raw channels as of its event, and means over its lists.

    own        what the event says of its node
    all        own, arrival, label and deviation channels: every raw channel
    one step   all, and each list's mean of its members' channels: just what layer 1 reads
    two steps  one step, and each list's mean of what its members' own lists had as means when they came

Channels stand transformed as the model's inputs are: monotone, so that trees lose nothing by it. The second step knows
more the more it is given, and so do its costs, which grow with the square of the relations: it is of the plain channels
alone (those without a half-life), and of relations that differ in their members.

N entries, n samples among them, C raw channels, R relations.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.evaluate import average_precision
from pipeline.experiments.recordings import Recording
from pipeline.history import History, Split
from pipeline.schema import Schema
from pipeline.train import check_samples
from pipeline.transform import fit_transform

Floats = npt.NDArray[np.float32]
READS = ("own", "all", "one step", "two steps")


class Information(NamedTuple):
    recording: Recording
    history: History
    split: Split
    x: Floats  # (N, C) raw channels, transformed
    means: Floats  # (N, R, C) over the lists that each entry reads

    @property
    def truth(self) -> npt.NDArray[np.int8]:
        return self.history.truth

    @property
    def later(self) -> slice:
        """The samples that no method learns from: validation, then test."""
        return slice(self.split.validation.start, self.split.test.stop)

    def unseen(self) -> npt.NDArray[np.bool_]:
        """Say of each test sample whether its node has none in the training part: nothing to be known by heart."""
        nodes = self.history.entry_node[self.history.sample_entry]
        return ~np.isin(nodes[self.split.test], nodes[self.split.train])

    def of_channels(self, reads: str) -> Floats:
        """Return the columns of `READS` for the samples.  # (n, width)"""
        blocks = {"own": self._own, "all": self._all, "one step": self._one_step, "two steps": self._two_steps}
        names = ["own"] if reads == "own" else READS[1 : READS.index(reads) + 1]
        return np.concatenate([blocks[name]() for name in names], axis=1)

    def validation_ap(self, scores: Floats) -> float:
        """Return the average precision, on validation, of scores of the `later` samples; 0 where it is undefined."""
        part = self.split.validation
        ap = average_precision(self.truth[part], scores[: part.stop - part.start])
        return 0.0 if np.isnan(ap) else ap

    def _own(self) -> Floats:
        return self._all()[:, : len(self.recording.schema.own_channels)]

    def _all(self) -> Floats:
        return self.x[self.history.sample_entry]

    def _one_step(self) -> Floats:
        rows = self.history.sample_entry
        return self.means[rows].reshape(len(rows), -1)

    def _two_steps(self) -> Floats:
        schema, rows = self.recording.schema, self.history.sample_entry
        relations = distinct_relations(schema)
        plain = self.means[:, relations][:, :, plain_channels(schema)].reshape(len(self.means), -1)
        return self.history.means_of(plain)[rows][:, relations].reshape(len(rows), -1)


def inform(recording: Recording, shares: tuple[float, float, float], transform: str) -> Information:
    """Replay a recording once; the transform learns from the training part, as the model's does."""
    schema = recording.schema
    history = History(schema, recording.records)
    split = check_samples(history, shares)
    boundary = int(history.sample_entry[split.validation.start])
    table = fit_transform(transform, history.raw_until(boundary), schema.indicators)
    x, means = history.inputs(table, np.arange(len(schema.channel_names), dtype=np.int32))
    return Information(recording, history, split, x, means)


def distinct_relations(schema: Schema) -> list[int]:
    """Return the relations whose lists differ in their members; of those that differ in half-life only, the first."""
    first: dict[tuple[str, ...], int] = {}
    for r, (name, relation) in enumerate(schema.relations.items()):
        first.setdefault((relation.kind, *(relation.group_by or [name])), r)
    return list(first.values())


def plain_channels(schema: Schema) -> list[int]:
    """Return the raw channels that no half-life fades: own, count, since_last, spam_share, labelled, deviation."""
    halves = (*schema.arrivals.half_lives, *schema.labels.half_lives)
    return [c for c, name in enumerate(schema.channel_names) if not name.endswith(tuple(f"_{text}" for text in halves))]


def best_by_validation(
    grid: dict[str, tuple[float, ...]], validation_ap: Callable[[dict[str, float]], float]
) -> dict[str, float]:
    """Choose a value for each name of `grid`, one after the other, the first values where nothing is better."""
    chosen = {name: values[0] for name, values in grid.items()}
    best = validation_ap(chosen)
    for name, values in grid.items():
        for value in values[1:]:
            found = validation_ap(chosen | {name: value})
            if found > best:
                best, chosen = found, chosen | {name: value}
    return chosen
