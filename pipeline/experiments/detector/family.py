"""The family `detector`: what was tried to make the default model better, a variant each, judged on validation.

seeds       how many, by stream; labels come `delay` late
variants    name -> what differs from the variant "default": keys of the schema, options of the training or of its fits
job         one training of one variant
records     key: data, seed, variant, part (validation or test)

A variant is taken into the default for what it does on validation. Its figures on the test part stand beside, for the
reader: nobody chooses by them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.experiments.detector.refresh import judge_nodes_alone, refreshed
from pipeline.experiments.figures import stream_figures
from pipeline.experiments.page import Results
from pipeline.experiments.recordings import open_recording
from pipeline.experiments.run import Job, Key, Record
from pipeline.experiments.summary import Row, select
from pipeline.fit import fit_layer
from pipeline.fit_inputs import Reads
from pipeline.history import Floats, History, Split
from pipeline.model import probability
from pipeline.page import Table
from pipeline.schema import Schema, parse_schema
from pipeline.train import Trained, TrainOptions, by_batches, check_samples, lesson, logits, train_on

HEADINGS = ("AUROC, validation", "AP, validation", "AUROC, test", "AP, test")
PARTS = ("validation", "test")
DEFAULT = "default"
LAYER_1, BY_ITSELF = "layer 1 alone", "layer 2 by itself, not from layer 1's verdict"


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: dict[str, Any] = {}  # laid over the stream's
    train: dict[str, Any] = {}  # of TrainOptions
    fit: dict[str, Any] = {}  # of FitOptions
    refresh: int = 0  # the last so many of each list have their hidden features computed anew before a node reads it
    data: tuple[str, ...] = ()  # the streams that it is tried on; all where none is named


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seeds: dict[str, Annotated[int, Meta(ge=1)]]  # of each stream
    variants: dict[str, Variant]
    delay: str = "30d"
    events: int | None = None  # of each stream, the first ones; None: all


def jobs(settings: Settings) -> list[Job]:
    """Return a job a training, those on one replay behind one another."""
    return [
        Job(
            {"data": data, "seed": seed, "variant": name, "delay": settings.delay, "events": settings.events,
             "differs": msgspec.to_builtins(variant)},
            partial(_run, data, settings.delay, seed, name, variant, settings.events),
        )
        for data, seeds in settings.seeds.items() for name, variant in settings.variants.items()
        if data in (variant.data or settings.seeds) for seed in range(seeds)
    ]  # fmt: skip


def _run(data: str, delay: str, seed: int, name: str, variant: Variant, events: int | None) -> list[Record]:
    overlay = msgspec.json.encode(variant.schema, order="sorted")
    history, split = _replayed(data, delay, seed, events, overlay, variant.refresh)
    options = TrainOptions(**variant.train)
    options = replace(options, fit=replace(options.fit, seed=seed, **variant.fit))
    trained = train_on(history, split, options)
    key: Key = {"data": data, "seed": seed, "variant": name}
    found = list(_records(key, history, split, lambda part: logits(trained.model, history, part, trained.hidden)))
    if name == DEFAULT:  # what its parts do by themselves
        found += _records(key | {"variant": LAYER_1}, history, split, partial(_verdict, trained, history))
        found += _records(
            key | {"variant": BY_ITSELF}, history, split, _second_by_itself(trained, history, split, options)
        )
    return found


@lru_cache(maxsize=2)
def _replayed(
    data: str, delay: str, seed: int, events: int | None, overlay: bytes, refresh: int
) -> tuple[History, Split]:
    recording = open_recording(data, delay, seed)
    schema, records = overlaid(recording.schema, msgspec.json.decode(overlay)), recording.records[:events]
    history = History(schema, refreshed(schema, records, refresh) if refresh else records)
    if refresh:
        judge_nodes_alone(history)
    return history, check_samples(history, TrainOptions().shares)


def overlaid(schema: Schema, overlay: dict[str, Any]) -> Schema:
    """Return the schema with the keys of `overlay` in place of its own; SchemaError where that makes none."""
    tree = msgspec.to_builtins(schema)
    for section, keys in overlay.items():
        tree[section] = {**tree[section], **keys} if isinstance(keys, dict) else keys
    return parse_schema(tree, "a variant")


def _records(key: Key, history: History, split: Split, say: Callable[[slice], Floats]) -> Iterator[Record]:
    for name in PARTS:
        part: slice = getattr(split, name)
        yield Record(key | {"part": name}, stream_figures(history.truth[part], probability(say(part))))


def _verdict(trained: Trained, history: History, part: slice) -> Floats:
    """What layer 1 says by itself: the last output but one of layer 2's self branch, and the last, which is -z."""
    own = trained.model.layers[1].branches[0]
    said: Floats = trained.hidden[0][history.sample_entry[part]] @ own.weight[:, -2] + own.bias[-2]
    return said


def _second_by_itself(
    trained: Trained, history: History, split: Split, options: TrainOptions
) -> Callable[[slice], Floats]:
    """Fit layer 2 as layer 1 is fitted, with nothing to begin from."""
    reads = Reads.every(trained.hidden, history.sample_entry)
    fit = replace(options.fit, members=options.members)
    taught = lesson(history.truth, trained.inputs[0][history.sample_entry], split, options)
    outputs = [options.hidden] * len(reads.keeps)
    fitted = fit_layer(reads, outputs, history.truth, split, fit, taught=taught, title="layer 2")
    return lambda part: by_batches(fitted.logits, trained.hidden, history.sample_entry[part])


def tables(results: Results) -> list[Table]:
    """A table a stream, the variants in the order of the settings."""
    streams = dict.fromkeys(str(row.key["data"]) for row in results.rows)
    return [Table(data, ("variant", *HEADINGS), _cells(select(results.rows, data=data))) for data in streams]


def _cells(rows: list[Row]) -> list[list[str]]:
    names = dict.fromkeys(str(row.key["variant"]) for row in rows)
    return [[name, *_figures(select(rows, variant=name))] for name in names]


def _figures(rows: list[Row]) -> Iterator[str]:
    for part in PARTS:
        (row,) = select(rows, part=part)
        yield from (row.figures[figure].text(4) if figure in row.figures else "" for figure in ("auroc", "ap"))


def plots(results: Results, folder: Path) -> list[Path]:
    """None: a table of small differences is read, not looked at."""
    return []
