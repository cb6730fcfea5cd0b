"""The recorded streams that experiments run on, by name.

    yelpchi, yelpnyc   reviews of Chicago and New York, labels as late as is asked for
    network            ratings among the users of a market, likewise
    synthetic          producers/synthetic.py, whose labels come after days of their own
    wide               the same stream with a text embedding of 256 channels, producers/wide.py
    a path             any recorded file, with its schema: `open_file`

A name, a delay and a seed make the same records every time. The real ones are read from the folder that the variable
GRAPHSIEVE_DATA names, or from ../shared/data beside the repository.
"""

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.durations import parse_duration
from pipeline.errors import ConfigError, DataError
from pipeline.log import JSON, Record
from pipeline.recorded import read_messages
from pipeline.schema import Schema, load_schema
from pipeline.sections import Vector
from producers.networks import network_events, read_network
from producers.reviews import read_reviews, review_events
from producers.synthetic import synthetic_events
from producers.wide import CHANNELS, wide_events

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = REPOSITORY / "deploy" / "schemas"
SYNTHETIC_EVENTS = 100_000
WIDE_EVENTS = 60_000  # 256 numbers each


class Recording(NamedTuple):
    name: str
    schema: Schema
    records: list[Record]  # in log order


def open_recording(name: str, label_delay: str, seed: int) -> Recording:
    """Make a recording of `NAMES`; ConfigError for another name, DataError where its file is not there.

    label_delay   "30d": how long after its node a label comes; "own" for the synthetic streams, which have theirs
    seed          shuffles the reviews of a day; it is the synthetic streams' seed too; the network knows its seconds
    """
    if name not in _MAKERS:
        raise ConfigError(f"data {name!r}: expected one of {', '.join(NAMES)}")
    schema, lines = _MAKERS[name](label_delay, seed)
    return Recording(name, schema, as_records(lines))


def open_file(path: Path, schema_path: Path) -> Recording:
    """Read a recorded file that nobody here has seen; its name is the file's."""
    return Recording(path.name.partition(".")[0], load_schema(schema_path), list(read_messages(path)))


def as_records(lines: Iterable[bytes]) -> list[Record]:
    """Return event lines as a log would give them back."""
    return [Record(i, line, None, JSON, math.nan) for i, line in enumerate(lines)]


def data_folder() -> Path:
    """Return the folder of the real data; DataError names the variable that says where it is."""
    folder = Path(os.environ.get("GRAPHSIEVE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        raise DataError(f"no data at {folder}: set GRAPHSIEVE_DATA to the folder that holds reviews/ and networks/")
    return folder


Made = tuple[Schema, Iterable[bytes]]


def _reviews(name: str, delay: str, seed: int) -> Made:
    table = read_reviews(data_folder() / "reviews" / f"{name}.txt.gz")
    return load_schema(SCHEMAS / "reviews.toml"), review_events(table, parse_duration(delay), seed)


def _network(delay: str, seed: int) -> Made:
    folder = data_folder() / "networks"
    table = read_network(folder / "bitcoin_otc_ratings.csv.gz", folder / "bitcoin_otc_labels.csv.gz")
    return load_schema(SCHEMAS / "network.toml"), network_events(table, parse_duration(delay))


def _synthetic(delay: str, seed: int) -> Made:
    return load_schema(SCHEMAS / "synthetic.toml"), synthetic_events(seed, SYNTHETIC_EVENTS)


def _wide(delay: str, seed: int) -> Made:
    schema = load_schema(SCHEMAS / "synthetic.toml")
    features = schema.features | {"embedding": Vector(length=CHANNELS)}
    wide = msgspec.structs.replace(schema, name="wide", features=features)
    return wide, wide_events(synthetic_events(seed, WIDE_EVENTS), seed)


_MAKERS: dict[str, Callable[[str, int], Made]] = {
    "yelpchi": partial(_reviews, "yelpchi"),
    "yelpnyc": partial(_reviews, "yelpnyc"),
    "network": _network,
    "synthetic": _synthetic,
    "wide": _wide,
}
NAMES = tuple(_MAKERS)
