"""The family `streams`: what pruning costs and saves on recorded streams, against simply training a small model.

study       the streams, label delays, widths and seeds to train on, and the ways to prune each model
job         one training, with all that is made from it: `study.run`
records     key: data, delay, width, seed, and what it is of:
            method    unpruned, lasso, magnitude, random, first, or small (trained from scratch at that cost)
            scheme, budget, stage (refitted, tuned)     of a pruned model
            curve     roc, precision_recall or reliability: figures are its points
            kept      a branch of layer 1: figures are its input channels, 1 where it stayed
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipeline.experiments.page import Results
from pipeline.experiments.run import Job
from pipeline.experiments.streams import pictures, study, words
from pipeline.experiments.streams.study import Subject, Ways
from pipeline.page import Table


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: tuple[str, ...]  # names of recordings, or paths of recorded files, with `schema`
    delays: tuple[str, ...] = ("30d",)
    widths: tuple[Annotated[int, Meta(ge=1)], ...] = (16,)  # channels a branch
    seeds: Annotated[int, Meta(ge=1)] = 5
    budgets: tuple[float, ...] = (4.0, 8.0)
    schemes: tuple[Literal["batched", "full"], ...] = ("batched",)
    methods: tuple[Literal["lasso", "magnitude", "random", "first"], ...] = ("lasso",)
    small: bool = True  # train a small model of each budget, too
    curves: bool = False  # keep curves and the channels that LASSO kept, too


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    studies: tuple[Study, ...]
    schema: str = ""  # of files
    epochs: int | None = None  # at most, each fit; None: as train does
    events: int | None = None  # of each stream, the first ones; None: all


def jobs(settings: Settings) -> list[Job]:
    """Return a job a training; those of one recording follow one another, for it is replayed once."""
    return [job for one in settings.studies for job in _jobs_of(one, settings)]


def _jobs_of(one: Study, settings: Settings) -> Iterator[Job]:
    ways = Ways(one.budgets, one.schemes, one.methods, one.small, one.curves)
    for data in one.data:
        for delay in one.delays:
            for seed in range(one.seeds):
                for width in one.widths:
                    subject = Subject(data, settings.schema, delay, seed, width, settings.epochs, settings.events)
                    yield Job(subject._asdict() | ways._asdict(), partial(study.run, subject, ways))


def tables(results: Results) -> list[Table]:
    return words.tables(results.rows)


def plots(results: Results, folder: Path) -> list[Path]:
    return pictures.plots(results.rows, folder)
