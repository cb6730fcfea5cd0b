"""A layer for few rows: a matrix product for each branch costs more in calls than in arithmetic there.

All branches lie in one run of numbers, in order, so that one compiled call does the whole layer.

    keep   (K,) int32     the channels that each branch reads, branch after branch; branch b has keeps[b]..keeps[b+1]
    weight (M,) float32   a row of outputs for each of them; branch b begins at weights[b]
    bias   (H,) float32   branch b gives outputs[b]..outputs[b+1]
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

Floats = npt.NDArray[np.float32]


class Packed(NamedTuple):
    keep: npt.NDArray[np.int32]
    keeps: npt.NDArray[np.int64]
    weight: Floats
    weights: npt.NDArray[np.int64]
    bias: Floats
    outputs: npt.NDArray[np.int64]


@compiled
def forward(packed: Packed, own: Floats, means: Floats, out: Floats) -> None:
    """Write relu outputs of all branches side by side.  # (B, W), (B, R, W) -> (B, H)"""
    for i in range(len(own)):
        for b in range(len(packed.weights)):
            first = packed.outputs[b]
            place = out[i, first : packed.outputs[b + 1]]
            for o in range(len(place)):
                place[o] = packed.bias[first + o]
            values = own[i] if b == 0 else means[i, b - 1]
            w = packed.weights[b]
            for k in range(packed.keeps[b], packed.keeps[b + 1]):
                value = values[packed.keep[k]]
                if value != 0.0:  # indicators and empty lists are mostly 0
                    row = packed.weight[w : w + len(place)]
                    for o in range(len(place)):
                        place[o] += value * row[o]
                w += len(place)
            for o in range(len(place)):
                place[o] = max(place[o], np.float32(0.0))


@compiled
def classify(
    packed: Packed, weight: Floats, bias: float, own: Floats, means: Floats, h2: Floats, score: Floats
) -> None:
    """Write the scores of layer 2 and the classifier; `h2` is room for a row each.  # (B, W), (B, R, W) -> (B,)"""
    forward(packed, own, means, h2)
    for i in range(len(own)):
        logit = np.float32(bias)
        for o in range(len(weight)):
            logit += h2[i, o] * weight[o]
        score[i] = 1.0 / (1.0 + math.exp(min(max(float(-logit), -80.0), 80.0)))
