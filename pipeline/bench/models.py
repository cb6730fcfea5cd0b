"""Models with weights drawn by lot, and the synthetic stream's schema: what was learned changes no speed and no sum."""

import tomllib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.experiments.recordings import as_records
from pipeline.history import History
from pipeline.model import Branch, Layer, Model
from pipeline.schema import Schema, parse_schema
from pipeline.transform import Transform, fit_transform
from producers.synthetic import synthetic_events

SCHEMA = Path("deploy/schemas/synthetic.toml")
FIT_EVENTS = 20_000  # enough for input tables and for layers of the usual scale
WIDTHS = {"inputs": 32, "hidden": 64, "outputs a branch": 32}  # channels that stay in a pruned model


def synthetic_schema(lasting: bool = False) -> Schema:
    """Return the synthetic stream's schema; `lasting`: whose nodes stay. DataError outside the repository."""
    if not SCHEMA.exists():
        raise DataError(f"no file {SCHEMA}: run the bench in the root of the repository")
    tree = tomllib.loads(SCHEMA.read_text(encoding="utf-8"))
    if lasting:
        del tree["nodes"]["ttl"]
    return parse_schema(tree, str(SCHEMA))


def some_model(schema: Schema, width: int = 16, inputs: int | None = None, hidden: int | None = None) -> Model:
    """Return a model with random weights behind input tables that fit the synthetic stream; see `random_model`."""
    history = History(schema, as_records(synthetic_events(0, FIT_EVENTS)))
    transform = fit_transform("quantile", history.raw_until(history.entries), schema.indicators)
    return random_model(schema, transform, width, inputs, hidden)


def random_model(
    schema: Schema,
    transform: Transform,
    outputs: int,
    inputs: int | None = None,
    hidden: int | None = None,
    seed: int = 0,
) -> Model:
    """Return a model behind real input tables.

    outputs  channels a branch of layer 2, and of layer 1 unless `hidden` says how many features that has in all
    inputs   channels that are kept; all, if not given
    """
    rng = np.random.default_rng(seed)
    branches, channels = 1 + len(schema.relations), len(schema.channel_names)
    keep = np.unique(np.linspace(0, channels - 1, min(inputs or channels, channels)).astype(np.int32))
    widths = [len(part) for part in np.array_split(np.arange(hidden or outputs * branches), branches)]
    first = Layer([_branch(rng, len(keep), width) for width in widths])
    second = Layer([_branch(rng, sum(widths), outputs) for _ in range(branches)])
    weight = rng.normal(0, 0.3, outputs * branches).astype(np.float32)
    return Model(schema, transform, keep, (first, second), weight, bias=0.0, threshold=0.5)


def _branch(rng: np.random.Generator, inputs: int, width: int) -> Branch:
    weight: npt.NDArray[np.float32] = rng.normal(0, inputs**-0.5, (inputs, width)).astype(np.float32)
    return Branch(np.arange(inputs, dtype=np.int32), weight, np.zeros(width, np.float32))
