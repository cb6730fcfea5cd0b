"""What of a layer is compiled: all of it for few rows, and for many what comes after the matrix products.

For few rows a product for each branch costs more in calls than in arithmetic. All branches lie in one run of numbers,
in order, so that one compiled call does the whole layer; with zeros behind a branch's channels and outputs, so that
their numbers are multiples of AT_ONCE and LANES.

    keep   (K,) int32     the channels that each branch reads, branch after branch; branch b has keeps[b]..keeps[b+1]
    weight (M,) float32   strides[b] outputs for each of them; branch b begins at weights[b]
    bias   (H,) float32   branch b gives outputs[b]..outputs[b+1]

Products are added in the order of the channels, each rounded once with its sum, as BLAS libraries do it.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined_fused

Floats = npt.NDArray[np.float32]
AT_ONCE = 4  # channels: an output is read and written once for so many
LANES = 16  # outputs: what the registers of today's processors hold, or a multiple of it


class Packed(NamedTuple):
    keep: npt.NDArray[np.int32]
    keeps: npt.NDArray[np.int64]
    weight: Floats
    weights: npt.NDArray[np.int64]
    strides: npt.NDArray[np.int64]
    bias: Floats
    outputs: npt.NDArray[np.int64]


def pack(keeps: list[npt.NDArray[np.int32]], weights: list[Floats], biases: list[Floats]) -> Packed:
    """Return a layer's branches as the compiled code reads them."""
    strides = [-(-len(bias) // LANES) * LANES for bias in biases]
    channels = [-(-len(keep) // AT_ONCE) * AT_ONCE for keep in keeps]
    weight = [np.zeros(size, np.float32) for size in zip(channels, strides, strict=True)]
    keep = [np.zeros(count, np.int32) for count in channels]
    for b, branch in enumerate(weights):
        weight[b][: branch.shape[0], : branch.shape[1]] = branch
        keep[b][: len(keeps[b])] = keeps[b]
    return Packed(
        keep=np.concatenate(keep),
        keeps=np.cumsum([0, *channels]),
        weight=np.concatenate([branch.ravel() for branch in weight]),
        weights=np.cumsum([0, *(branch.size for branch in weight[:-1])]),
        strides=np.array(strides),
        bias=np.concatenate(biases).astype(np.float32),
        outputs=np.cumsum([0, *map(len, biases)]),
    )


@inlined_fused
def _branch(packed: Packed, b: int, values: Floats, room: Floats) -> None:
    """Add a branch's products to `room`, which has its outputs.  # (W,), (strides[b],)"""
    # Numbers without a sign: compiled code need not look whether an index counts from the end.
    stride, w = np.uint64(packed.strides[b]), np.uint64(packed.weights[b])
    for k in range(packed.keeps[b], packed.keeps[b + 1], AT_ONCE):
        v0, v1 = values[packed.keep[k]], values[packed.keep[k + 1]]
        v2, v3 = values[packed.keep[k + 2]], values[packed.keep[k + 3]]
        w1, w2, w3 = w + stride, w + np.uint64(2) * stride, w + np.uint64(3) * stride
        if v0 != 0.0 or v1 != 0.0 or v2 != 0.0 or v3 != 0.0:  # indicators and empty lists are mostly 0
            for o in range(stride):
                room[o] = (
                    room[o]
                    + v0 * packed.weight[w + o]
                    + v1 * packed.weight[w1 + o]
                    + v2 * packed.weight[w2 + o]
                    + v3 * packed.weight[w3 + o]
                )
        w += np.uint64(AT_ONCE) * stride


@inlined_fused
def _row(packed: Packed, own: Floats, means: Floats, room: Floats, out: Floats) -> None:
    """Write a row's outputs.  # (W,), (R, W), (the largest stride,) -> (H,)"""
    for b in range(len(packed.strides)):
        first, count = packed.outputs[b], packed.outputs[b + 1] - packed.outputs[b]
        for o in range(count):
            room[o] = packed.bias[first + o]
        _branch(packed, b, own if b == 0 else means[b - 1], room)
        for o in range(count):
            out[first + o] = max(room[o], np.float32(0.0))


@compiled
def forward(packed: Packed, own: Floats, means: Floats, room: Floats, out: Floats) -> None:
    """Write relu outputs of all branches side by side.  # (B, W), (B, R, W), (the largest stride,) -> (B, H)"""
    for i in range(len(own)):
        _row(packed, own[i], means[i], room, out[i])


@compiled
def finish(bias: Floats, out: Floats) -> None:
    """Make relu outputs of products.  # (H,), (B, H)"""
    for i in range(len(out)):
        for o in range(len(bias)):
            out[i, o] = max(out[i, o] + bias[o], np.float32(0.0))


class Network(NamedTuple):
    """All of a model that is compiled for few rows."""

    first: Packed
    second: Packed
    weight: Floats  # (H2,) the classifier's
    bias: float
    room: Floats  # (the largest stride + H2,) to work in


@inlined_fused
def score_of(network: Network, own: Floats, means: Floats) -> float:
    """The score of layer 2 and the classifier.  # (W,), (R, W)"""
    weight, room = network.weight, network.room
    h2 = room[len(room) - len(weight) :]
    _row(network.second, own, means, room, h2)
    logit = np.float32(network.bias)
    for o in range(len(weight)):
        logit += h2[o] * weight[o]
    return 1.0 / (1.0 + math.exp(min(max(float(-logit), -80.0), 80.0)))


@compiled
def classify(network: Network, own: Floats, means: Floats, score: Floats) -> None:
    """Write the scores of layer 2 and the classifier.  # (B, W), (B, R, W) -> (B,)"""
    for i in range(len(own)):
        score[i] = score_of(network, own[i], means[i])
