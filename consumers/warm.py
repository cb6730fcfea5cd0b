"""Compile every loop before there is a model: `python -m consumers.warm`, when an image is built.

What is compiled depends on the types of the arrays and not on a schema or a model: the least of both will do.
"""

import numpy as np

from consumers.service import warm_up
from pipeline.model import Branch, Layer, Model
from pipeline.schema import Schema, parse_schema
from pipeline.transform import fit_transform

LEAST = {"name": "least", "features": {"day": {"kind": "weekday"}}, "relations": {"id": {"group_by": ["id"]}}}


def least_model(schema: Schema) -> Model:
    """Return a model that reads every channel, gives one channel a branch, and knows nothing."""
    channels, branches = len(schema.channel_names), 1 + len(schema.relations)
    return Model(
        schema=schema,
        transform=fit_transform("standardised", np.zeros((1, channels), np.float32), schema.indicators),
        input_keep=np.arange(channels, dtype=np.int32),
        layers=(_blank_layer(branches, channels), _blank_layer(branches, branches)),
        weight=np.zeros(branches, np.float32),
        bias=0.0,
        threshold=0.5,
    )


def _blank_layer(branches: int, inputs: int) -> Layer:
    keep = np.arange(inputs, dtype=np.int32)
    return Layer([Branch(keep, np.zeros((inputs, 1), np.float32), np.zeros(1, np.float32)) for _ in range(branches)])


if __name__ == "__main__":
    warm_up(least_model(parse_schema(LEAST, "consumers/warm.py")))
