"""Stages B and D, compiled: a layer, and the classifier behind it.

All branches lie in one run of numbers, in order, so that one call does the whole layer; with zeros behind a branch's
outputs, so that their number is a multiple of LANES.

    keep    (K,) int32     the channels that each branch reads, branch after branch; branch b has keeps[b]..keeps[b+1]
    weight  (M,) float32   strides[b] outputs for each of them; branch b begins at weights[b]
    bias    (S,) float32   strides[b] of each branch; it begins at biases[b]
    outputs (b + 1,)       branch b gives outputs[b]..outputs[b+1]

A BLAS library takes three to five times as long for the narrow branches that pruning leaves, most of it for copies of
the channels that they keep, and no less for those of unpruned models. Nor does a row here depend, by a single bit, on
which rows are computed with it.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled, inlined
from pipeline.instructions import (
    AVX512,
    LANES,
    LEVEL,
    ROWS,
    dot,
    products_1x16,
    products_1x32,
    products_6x16,
    products_6x32,
)

Floats = npt.NDArray[np.float32]
BLOCK = 8 * ROWS  # rows that stay in the processor's cache while weights pass, and the other way round


class Packed(NamedTuple):
    keep: npt.NDArray[np.int32]
    keeps: npt.NDArray[np.int64]
    weight: Floats
    weights: npt.NDArray[np.int64]
    strides: npt.NDArray[np.int64]
    bias: Floats
    biases: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.int64]
    level: int  # of the processor


def pack(keeps: list[npt.NDArray[np.int32]], weights: list[Floats], biases: list[Floats]) -> Packed:
    """Return a layer's branches as the compiled code reads them."""
    strides = [-(-len(bias) // LANES) * LANES for bias in biases]
    wide = [
        np.pad(rows.astype(np.float32), ((0, 0), (0, stride - rows.shape[1])))
        for branch, bias, stride in zip(weights, biases, strides, strict=True)
        for rows in (branch, bias[None])
    ]
    return Packed(
        keep=np.concatenate(keeps).astype(np.int32),
        keeps=np.cumsum([0, *map(len, keeps)]),
        weight=np.concatenate([branch.ravel() for branch in wide[::2]]),
        weights=np.cumsum([0, *(branch.size for branch in wide[:-2:2])]),
        strides=np.array(strides),
        bias=np.concatenate([branch.ravel() for branch in wide[1::2]]),
        biases=np.cumsum([0, *strides[:-1]]),
        outputs=np.cumsum([0, *map(len, biases)]),
        level=LEVEL,
    )


@inlined
def _branch(packed: Packed, b: int, values: Floats, start: int, stop: int, out: Floats) -> None:
    """Write a branch's outputs of the rows from `start` to `stop`.  # (B, W) -> (B, H)"""
    keep, first, end = packed.keep, packed.keeps[b], packed.keeps[b + 1]
    weight, w, stride = packed.weight, packed.weights[b], packed.strides[b]
    bias, at, c = packed.bias, packed.biases[b], packed.outputs[b]
    wanted, level = packed.outputs[b + 1] - c, packed.level
    while wanted > 0:
        wide, i = level == AVX512 and wanted > LANES, start
        while i + ROWS <= stop:
            if wide:
                products_6x32(values, i, keep, first, end, weight, w, stride, bias, at, wanted, out, c, level)
            else:
                products_6x16(values, i, keep, first, end, weight, w, stride, bias, at, wanted, out, c, level)
            i += ROWS
        while i < stop:
            if wide:
                products_1x32(values, i, keep, first, end, weight, w, stride, bias, at, wanted, out, c, level)
            else:
                products_1x16(values, i, keep, first, end, weight, w, stride, bias, at, wanted, out, c, level)
            i += 1
        lanes = 2 * LANES if wide else LANES
        w, at, c, wanted = w + lanes, at + lanes, c + lanes, wanted - lanes


@compiled
def forward(packed: Packed, own: Floats, means: Floats, out: Floats) -> None:
    """Write relu outputs of all branches side by side.  # (B, W), (B, R, W) -> (B, H)"""
    for start in range(0, len(own), BLOCK):
        stop = min(start + BLOCK, len(own))
        _branch(packed, 0, own, start, stop, out)
        for b in range(1, len(packed.strides)):
            _branch(packed, b, means[:, b - 1], start, stop, out)


class Network(NamedTuple):
    """All of a model that is compiled."""

    first: Packed
    second: Packed
    weight: Floats  # (H2,) the classifier's
    bias: float


@compiled
def classify(network: Network, own: Floats, means: Floats, h2: Floats, score: Floats) -> None:
    """Write the scores of layer 2 and the classifier.  # (B, W), (B, R, W), (B, H2) -> (B,)

    h2  room for the outputs of layer 2
    """
    forward(network.second, own, means, h2)
    for i in range(len(own)):
        logit = np.float32(network.bias) + dot(h2, i, network.weight)
        score[i] = 1.0 / (1.0 + math.exp(min(max(float(-logit), -80.0), 80.0)))
