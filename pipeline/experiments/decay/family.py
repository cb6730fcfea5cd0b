"""The family `decay`: how a detector ages, by calendar quarter, trained once or again every so often.

job       one stream and seed, with all retrainings: `retrain.run`
records   key: data, delay, seed, policy (never, or the span: 90d), quarter (2011Q3, or all)
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.experiments.decay import pictures, retrain, words
from pipeline.experiments.decay.retrain import Subject
from pipeline.experiments.page import Results
from pipeline.experiments.run import Job
from pipeline.page import Table


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: str  # a recording's name
    delay: str = "30d"
    seeds: Annotated[int, Meta(ge=1)] = 5
    width: Annotated[int, Meta(ge=1)] = 16  # channels a branch
    first: Annotated[float, Meta(gt=0, lt=1)] = 0.7  # the first training comes behind this share of the samples


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    streams: tuple[Stream, ...]
    every: str = "90d"
    epochs: int | None = None  # at most, each fit; None: as train does
    events: int | None = None  # of each stream, the first ones; None: all


def jobs(settings: Settings) -> list[Job]:
    found = []
    for one in settings.streams:
        for seed in range(one.seeds):
            rest = (settings.every, settings.epochs, settings.events)
            subject = Subject(one.data, one.delay, seed, one.width, one.first, *rest)
            found.append(Job(subject._asdict(), partial(retrain.run, subject)))
    return found


def tables(results: Results) -> list[Table]:
    return words.tables(results.rows)


def plots(results: Results, folder: Path) -> list[Path]:
    return pictures.plots(results.rows, folder)
