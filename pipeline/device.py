"""Stages B and D on a GPU, through torch, where `score.device` asks for it: nothing is imported before.

Weights lie on the device; what targets read goes there and what they give comes back, once for each stage, for the
lists (stage C) are here. In float32 throughout, never in TF32: scores equal numpy's to 1e-5.

B targets, R relations, W channels of a layer's input, H hidden features.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.model import Layer, Model, probability

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
CPU = "cpu"  # numpy, without torch


def on_device(model: Model, name: str) -> Model:
    """Return the model as it computes on what `score.device` names; ConfigError where there is no such thing."""
    return model if name == CPU else DeviceModel(model, usable(name))


def usable(name: str) -> "torch.device":
    """Return torch's device; ConfigError where torch is not installed, or sees none."""
    found = _torch(name)
    if not found.cuda.is_available():
        raise ConfigError(
            f"score.device is {name!r}, but torch {found.__version__} sees no GPU here: install a driver and a torch "
            f"that is built for it, or set score.device = {CPU!r}"
        )
    device: torch.device = found.device(name)
    return device


def _torch(name: str) -> Any:
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library that it is linked with
        raise ConfigError(
            f"score.device is {name!r}, but torch cannot be imported: pip install torch, or set score.device = {CPU!r}"
        ) from None
    return torch


class DeviceModel(Model):
    """A model whose stages B and D run on one of torch's devices, all else as ever."""

    def __init__(self, model: Model, device: "torch.device") -> None:
        super().__init__(*(getattr(model, field.name) for field in fields(model)))
        import torch

        torch.set_float32_matmul_precision("highest")
        first, second = model.layers
        self._first, self._second = _DeviceLayer(first, device), _DeviceLayer(second, device)
        self._classifier = _tensor(model.weight, device)

    @property
    def is_compiled(self) -> bool:
        return False

    def hidden(self, x: Floats, means: Floats) -> Floats:
        return self._first.forward(x, means).numpy(force=True)

    def scores(self, h: Floats, means: Floats) -> Floats:
        logits = self._second.forward(h, means) @ self._classifier + self.bias
        return probability(logits.numpy(force=True))


class _DeviceLayer:
    def __init__(self, layer: Layer, device: "torch.device") -> None:
        self._device = device
        self._branches = [
            tuple(_tensor(array, device) for array in (branch.keep.astype(np.int64), branch.weight, branch.bias))
            for branch in layer.branches
        ]

    def forward(self, own: Floats, means: Floats) -> "torch.Tensor":
        """Return relu outputs of all branches side by side, on the device.  # (B, W), (B, R, W) -> (B, H)"""
        import torch

        there = [_tensor(own, self._device), *_tensor(means, self._device).unbind(1)]
        pairs = zip(there, self._branches, strict=True)
        outputs = [torch.addmm(bias, values[:, keep], weight) for values, (keep, weight, bias) in pairs]
        return torch.cat(outputs, dim=1).relu_()


def _tensor(array: npt.NDArray[Any], device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
