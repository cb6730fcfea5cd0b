"""What the newest labels, events and scores say, all partitions of a log together.

    labelled scores   the newest `quality.window`, and the newest `quality.short_window` of them   -> AUROC, recall, ...
    node events       their own channels, the newest `quality.window`     -> PSI against the checkpoint, by channel
    scores            those of the checkpoint's model, likewise           -> PSI

Newest means last read: while partitions are caught up with, one may be ahead of another. Memory is bounded. Figures
are worked out when asked for, which `follow` does once a second: 6 ms for ten thousand scores and forty channels.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consumers.join import Joined
from pipeline.config import Quality
from pipeline.drift import DriftWindow, Reference, reference_of
from pipeline.evaluate import for_json, summary
from pipeline.events import NODE, EventBatch
from pipeline.messages import ScoreMessage
from pipeline.model import Model
from pipeline.stats import QualityStats

Figures = dict[str, float]


@dataclass(frozen=True)
class Expected:
    """What a checkpoint leads one to expect."""

    model: str  # its version
    figures: dict[str, float | None]  # on its test part; those of a report
    reference: Reference | None
    columns: list[int]  # the own channels of events that the reference is about, in its order

    @staticmethod
    def of(model: Model) -> "Expected":
        reference, names = reference_of(model.report, model.schema), model.schema.own_channels
        columns = [names.index(name) for name in reference.features] if reference else []
        return Expected(model.version, model.report.get("metrics", {}).get("test", {}), reference, columns)


class Windows:
    """Takes up whatever is read, in the order in which it is read."""

    def __init__(self, knobs: Quality, expected: Expected | None = None) -> None:
        self.joined = 0  # ever
        self._joined: deque[Joined] = deque(maxlen=knobs.window)
        self._lengths = {"short": knobs.short_window, "long": knobs.window}
        self._expected = expected
        self._features: DriftWindow | None = None
        self._scores: DriftWindow | None = None
        if expected and expected.reference:
            self._features = DriftWindow(list(expected.reference.features.values()), knobs.window)
            self._scores = DriftWindow([expected.reference.scores], knobs.window)

    def add_joined(self, joined: Sequence[Joined]) -> None:
        self.joined += len(joined)
        self._joined.extend(joined)

    def add_events(self, events: EventBatch) -> None:
        if self._expected and self._features:
            self._features.add(events.features[events.kind == NODE][:, self._expected.columns])

    def add_scores(self, scores: Iterable[ScoreMessage]) -> None:
        if self._expected and self._scores:
            found = [score.score for score in scores if score.model == self._expected.model]
            self._scores.add(np.array(found).reshape(-1, 1))

    def figures(self) -> dict[str, Figures]:
        """Return the figures over each window, by its name."""
        joined = list(self._joined)
        return {name: figures_of(joined[-length:]) for name, length in self._lengths.items()}

    @property
    def threshold(self) -> float:
        """That of the newest labelled score."""
        return self._joined[-1].threshold if self._joined else math.nan

    def drift(self) -> Figures:
        """Return the PSI of each channel, the largest first; nothing without a reference."""
        if not (self._features and self._expected and self._expected.reference):
            return {}
        index = zip(self._expected.reference.features, self._features.psi(), strict=True)
        return dict(sorted(index, key=lambda one: (math.isnan(one[1]), -one[1])))

    def score_drift(self) -> float | None:
        return self._scores.psi()[0] if self._scores else None

    def note(self, stats: QualityStats) -> None:
        """Set down for the metrics what the windows say now."""
        stats.joined = self.joined
        stats.windows, stats.threshold = self.figures(), self.threshold
        stats.drift, stats.score_drift = self.drift(), self.score_drift()
        if self._expected:
            stats.expected_auroc = self._expected.figures.get("auroc")
            stats.expected_average_precision = self._expected.figures.get("ap")

    def report(self) -> dict[str, Any]:
        """Return the windows, and with a checkpoint what was expected and how far the stream has drifted from it."""
        found: dict[str, Any] = {"windows": {name: for_json(figures) for name, figures in self.figures().items()}}
        if self._expected:
            found["expected"] = {"model": self._expected.model, **self._expected.figures}
            scores = self.score_drift()
            drift = None if scores is None else {**for_json({"scores": scores}), "channels": for_json(self.drift())}
            found["drift"] = drift
        return found


def figures_of(joined: Sequence[Joined]) -> Figures:
    """Return the figures of `evaluate.summary`.

    What counts as flagged is what was published as spam, whichever threshold held at the time.
    """
    labels, scores, flagged = ([getattr(one, name) for one in joined] for name in ("label", "score", "is_spam"))
    return summary(labels, scores, flagged)
