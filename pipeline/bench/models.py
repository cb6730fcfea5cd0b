"""Models with weights drawn by lot: no speed, no memory and no sum depends on what was learned."""

import numpy as np
import numpy.typing as npt

from pipeline.model import Branch, Layer, Model
from pipeline.schema import Schema
from pipeline.transform import Transform


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
