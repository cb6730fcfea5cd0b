"""The small network that a fit trains: its parameters, the loss' slope by hand, a step of AdamW.

    logit_m = base + BatchNorm(relu(X_b · V_b + c_b), all branches side by side) · C_m + a_m

Matrix products are numpy's, all else of a step are the loops of `fit_kernel`; a test holds the slope to PyTorch's.

b samples of a mini-batch, W input channels of all branches side by side, H hidden channels, M members.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline import fit_kernel
from pipeline.fit_kernel import FIRST_DECAY, SECOND_DECAY
from pipeline.model import probability

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
EPSILON = 0.05**2  # added to variances: a hidden channel that hardly varies is not blown up
MOMENTUM = 0.1  # of a mini-batch in the running mean and variance


class Parameters:
    """Numbers of one kind (values, slopes, moments) in one run, those that decay first, and views of its parts."""

    def __init__(self, widths: Sequence[int], outputs: Sequence[int], members: int) -> None:
        hidden = sum(outputs)
        shapes = [*zip(widths, outputs, strict=True), (hidden, members), (hidden,), (members,)]
        sizes = [math.prod(shape) for shape in shapes]
        self.flat = np.zeros(sum(sizes), np.float32)
        self.decayed = sum(sizes[:-2])
        parts = np.split(self.flat, np.cumsum(sizes)[:-1])
        *branches, self.classifier, self.bias, self.constant = (
            part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
        )
        self.branches: list[Floats] = branches


class Network:
    """The members side by side, on standardised inputs.

    own                 (H, M) 1 where the channel is the member's
    inputs, outputs     where each branch's lie among W, among H
    running_mean, _var  (H,) of the hidden channels; what validation is standardised by
    """

    def __init__(
        self, widths: Sequence[int], outputs: Sequence[int], members: int, dropout: float, rng: np.random.Generator
    ) -> None:
        self._rng = rng
        self.inputs, self.outputs = _slices(widths), _slices(outputs)
        owner = np.concatenate([np.arange(o) * members // max(o, 1) for o in outputs])
        self.own = (owner[:, None] == np.arange(members)).astype(np.float32)
        self.values, self.slope, self._first, self._second = (Parameters(widths, outputs, members) for _ in range(4))
        self.running_mean, self.running_var = np.zeros(len(owner), np.float32), np.ones(len(owner), np.float32)
        self._least = round(dropout * 256)  # of a random byte that lets a hidden channel stay
        self._steps = 0
        for weight, place in zip(self.values.branches, self.outputs, strict=True):
            _draw(rng, max(len(weight), 1), weight, self.values.bias[place])
        _draw(rng, max(len(owner), 1), self.values.classifier, self.values.constant)
        self.values.classifier *= self.own

    def hidden(self, x: Floats) -> Floats:
        """Return the hidden channels before they are standardised.  # (b, W) -> (b, H)"""
        out = self._products(x)
        out += self.values.bias
        return np.maximum(out, 0.0, out=out)

    def logits(self, x: Floats) -> Floats:
        """Return what each member says, without dropout, standardised by the running statistics.  # (b, W) -> (b, M)"""
        weight = self.values.classifier / np.sqrt(self.running_var + EPSILON)[:, None]
        return np.asarray(self.hidden(x) @ weight + (self.values.constant - self.running_mean @ weight), np.float32)

    def find_slope(self, x: Floats, base: Floats, wanted: Floats) -> None:
        """Leave the mean cross-entropy's slope by every parameter in `slope`.  # (b, W), (b,), (b,)"""
        values, slope, n = self.values, self.slope, len(x)
        hidden = self._products(x)
        total, square = np.zeros((2, len(self.own)))
        fit_kernel.rectify(hidden, values.bias, total, square)
        mean, scale = self._standard(total / n, square / n, n)
        drawn = self._draw_bytes(hidden.shape)
        kept = (self._least, 256.0 / (256 - self._least))
        dropped = np.empty_like(hidden)
        fit_kernel.drop(hidden, mean, scale, drawn, *kept, dropped)
        said = base[:, None] + dropped @ values.classifier + values.constant
        error = (probability(said) - wanted[:, None]) / np.float32(said.size)  # (b, M)
        np.multiply(dropped.T @ error, self.own, out=slope.classifier)
        error.sum(axis=0, out=slope.constant)
        inner = np.dot(error, values.classifier.T, out=dropped)
        total, product = np.zeros((2, len(self.own)))
        fit_kernel.undrop(hidden, mean, scale, drawn, *kept, inner, total, product)
        slope.bias[:] = 0.0
        of_mean, of_product = (total / n).astype(np.float32), (product / n).astype(np.float32)
        fit_kernel.unrectify(hidden, mean, scale, of_mean, of_product, inner, slope.bias)
        for place, of, to in zip(self.inputs, self.outputs, slope.branches, strict=True):
            np.matmul(x[:, place].T, inner[:, of], out=to)

    def step(self, learning_rate: float, weight_decay: float) -> None:
        """Go down the slope."""
        self._steps += 1
        first_left, second_left = (1 - decay**self._steps for decay in (FIRST_DECAY, SECOND_DECAY))
        rate, correction = learning_rate / first_left, math.sqrt(second_left)
        rooms = (self.values.flat, self.slope.flat, self._first.flat, self._second.flat)
        decayed = self.values.decayed
        for part, decay in ((slice(0, decayed), weight_decay), (slice(decayed, None), 0.0)):
            values, slope, first, second = (room[part] for room in rooms)
            fit_kernel.adam(values, slope, first, second, rate, 1 - learning_rate * decay, correction)

    def state(self) -> tuple[Floats, Floats, Floats]:
        """Return a copy of what training has changed."""
        return self.values.flat.copy(), self.running_mean.copy(), self.running_var.copy()

    def restore(self, state: tuple[Floats, Floats, Floats]) -> None:
        """Take up what `state` gave."""
        self.values.flat[:], self.running_mean[:], self.running_var[:] = state

    def _products(self, x: Floats) -> Floats:
        out = np.empty((len(x), len(self.own)), np.float32)
        for place, to, weight in zip(self.inputs, self.outputs, self.values.branches, strict=True):
            np.matmul(x[:, place], weight, out=out[:, to])
        return out

    def _standard(
        self, mean: npt.NDArray[np.float64], square: npt.NDArray[np.float64], n: int
    ) -> tuple[Floats, Floats]:
        """Return by what a mini-batch is standardised, and let the running statistics follow it."""
        variance = np.maximum(square - mean**2, 0.0)
        self.running_mean += MOMENTUM * (mean - self.running_mean)
        self.running_var += MOMENTUM * (variance * n / (n - 1) - self.running_var)
        return mean.astype(np.float32), (1.0 / np.sqrt(variance + EPSILON)).astype(np.float32)

    def _draw_bytes(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        if not self._least:
            return np.zeros(shape, np.uint8)
        return np.frombuffer(self._rng.bytes(math.prod(shape)), np.uint8).reshape(shape)


def _slices(widths: Sequence[int]) -> list[slice]:
    stops = np.cumsum(widths).tolist()
    return [slice(stop - width, stop) for stop, width in zip(stops, widths, strict=True)]


def _draw(rng: np.random.Generator, inputs: int, *parameters: Floats) -> None:
    """Begin as PyTorch's linear layers do: uniform between -1 and 1, over the root of the number of inputs."""
    for parameter in parameters:
        parameter[:] = rng.uniform(-1.0, 1.0, parameter.shape) * inputs**-0.5
