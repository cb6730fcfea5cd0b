"""The loops of a training step that are no matrix products, compiled; `fit_network` says what they are parts of.

b samples of a mini-batch, W input channels of all branches side by side, H hidden channels.
"""

import numpy as np
import numpy.typing as npt

from pipeline.compiled import compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.999, 1e-8  # Adam's usual


@compiled
def gather(source: Floats, rows: Integers, first: int, mean: Floats, scale: Floats, out: Floats) -> None:
    """out[:, first:] = (source[rows] - mean) * scale.  # (N, C), (b,), (C,), (C,), (b, W)"""
    width = source.shape[1]
    for i in range(len(rows)):
        values, place = source[rows[i]], out[i, first : first + width]
        for c in range(width):
            place[c] = (values[c] - mean[c]) * scale[c]


@compiled
def add_moments(source: Floats, rows: Integers, origin: Floats, total: Doubles, square: Doubles) -> None:
    """Add up the rows' differences from `origin`, and the squares of these.  # (N, C), (b,), (C,), (C,), (C,)"""
    for i in range(len(rows)):
        values = source[rows[i]]
        for c in range(source.shape[1]):
            difference = np.float64(values[c]) - np.float64(origin[c])
            total[c] += difference
            square[c] += difference * difference


@compiled
def rectify(values: Floats, bias: Floats, total: Doubles, square: Doubles) -> None:
    """Make values = relu(values + bias), and add up its columns and their squares.  # (b, H), (H,), (H,), (H,)"""
    for i in range(len(values)):
        for c in range(len(bias)):
            value = max(values[i, c] + bias[c], np.float32(0.0))
            values[i, c] = value
            total[c] += value
            square[c] += np.float64(value) * value


@compiled
def drop(values: Floats, mean: Floats, scale: Floats, drawn: Bytes, least: int, factor: float, out: Floats) -> None:
    """out = factor * (values - mean) * scale where drawn >= least, 0 elsewhere.  # (b, H), (H,), (H,), (b, H)"""
    keep = np.float32(factor)
    for i in range(len(values)):
        for c in range(len(mean)):
            kept = keep if drawn[i, c] >= least else np.float32(0.0)
            out[i, c] = (values[i, c] - mean[c]) * scale[c] * kept


@compiled
def undrop(
    values: Floats, mean: Floats, scale: Floats, drawn: Bytes, least: int, factor: float,
    slope: Floats, total: Doubles, product: Doubles,
) -> None:  # fmt: skip
    """Take the slope of the loss back through `drop`; add up its columns, and those times the standardised values."""
    keep = np.float32(factor)
    for i in range(len(values)):
        for c in range(len(mean)):
            kept = keep if drawn[i, c] >= least else np.float32(0.0)
            it = slope[i, c] * kept
            slope[i, c] = it
            total[c] += it
            product[c] += it * ((values[i, c] - mean[c]) * scale[c])


@compiled
def unrectify(
    values: Floats, mean: Floats, scale: Floats, slope_mean: Floats, product_mean: Floats, slope: Floats, bias: Floats
) -> None:
    """Take the slope back through the standardisation by the mini-batch and the relu; add up its columns in `bias`."""
    for i in range(len(values)):
        for c in range(len(mean)):
            standard = (values[i, c] - mean[c]) * scale[c]
            through = scale[c] * (slope[i, c] - slope_mean[c] - standard * product_mean[c])
            it = through if values[i, c] > 0 else np.float32(0.0)
            slope[i, c] = it
            bias[c] += it


@compiled
def adam(
    values: Floats, slope: Floats, first: Floats, second: Floats, rate: float, shrink: float, correction: float
) -> None:
    """A step of Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).  # (P,) each

    rate        the learning rate over the first moment's correction, 1 - FIRST_DECAY^steps
    shrink      1 - learning rate * weight decay
    correction  sqrt(1 - SECOND_DECAY^steps), of the second moment's root
    """
    step, less, root, tiny = np.float32(rate), np.float32(shrink), np.float32(1.0 / correction), np.float32(TINY)
    old, new = np.float32(FIRST_DECAY), np.float32(1.0 - FIRST_DECAY)
    old_square, new_square = np.float32(SECOND_DECAY), np.float32(1.0 - SECOND_DECAY)
    for p in range(len(values)):
        g = slope[p]
        first[p] = old * first[p] + new * g
        second[p] = old_square * second[p] + new_square * g * g
        values[p] = less * values[p] - step * first[p] / (np.sqrt(second[p]) * root + tiny)
