"""The model: two layers and a classifier, and the checkpoint folder that holds them.

    x      = transform(raw channels)[input_keep]                    (B, C)
    h1     = concat_b relu(in_b · W1_b + c1_b)                      (B, H)   stage B
    h2     = concat_b relu(in_b · W2_b + c2_b), over h1             (B, H2)  stage D
    score  = sigmoid(h2 · w + c)                                    (B,)

b runs over `self`, whose input is the node's own values, and every relation, whose input is the mean over the list
that the node reads (0 for an empty list); each branch reads only the channels `keep`. Normalisation by training
statistics is folded into W and c: nothing is left of it here, and any channel can be dropped alone.

A checkpoint is `model.json` (everything but the numbers) and `model.safetensors` (the numbers); no pickle is loaded.
Source: GraphSAGE-mean with concatenation, as in GCNP (Zhou et al., PVLDB 14(9), 2021), section 2.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from pipeline import layer_kernel
from pipeline.compiled import direct
from pipeline.errors import CheckpointError, SchemaError
from pipeline.schema import Schema, parse_schema
from pipeline.transform import Transform

Floats = npt.NDArray[np.float32]
FORMAT = 1
_forward, _classify = direct(layer_kernel.forward), direct(layer_kernel.classify)
REPORT = ("training", "pruning", "metrics", "reference")  # no score depends on these
ARITHMETIC = [
    "raw: the node's channels, in the order of `channels`",
    "x[i] = interpolate(raw[input_keep[i]]) through the knots transform.x, .z of that channel (they begin at .start)",
    "in_self = the node's own values; in_r = weighted mean of the values in the list of relation r, 0 if it is empty",
    "layer: concatenate over branches relu(in_b[keep] @ layerL.B.weight + layerL.B.bias); layer 1 reads x, layer 2 h1",
    "score = 1 / (1 + exp(-(h2 @ classifier.weight + classifier.bias))); spam if score >= threshold",
]


@dataclass
class Branch:
    """One part of a layer: what it reads, and its matrix."""

    keep: npt.NDArray[np.int32]  # (K,) channels of the layer's input
    weight: Floats  # (K, O)
    bias: Floats  # (O,)

    def __post_init__(self) -> None:
        if self.weight.shape != (len(self.keep), len(self.bias)):
            raise ValueError(f"weight {self.weight.shape}, expected {(len(self.keep), len(self.bias))}")

    def forward(self, values: Floats) -> Floats:
        """Return its part of the layer's outputs.  # (..., W) -> (..., O)"""
        return np.asarray(np.maximum(values[..., self.keep] @ self.weight + self.bias, 0.0))


@dataclass
class Layer:
    """Branches in the order self, then the schema's relations."""

    branches: list[Branch]

    def forward(self, own: Floats, means: Floats) -> Floats:
        """Return relu outputs of all branches side by side.  # (B, W), (B, R, W) -> (B, H)"""
        out = np.empty((len(own), self.width), np.float32)
        _forward(self.packed, _plain(own), _plain(means), out)
        return out

    def check(self, branches: int, inputs: int) -> None:
        """ValueError unless these many branches read no channel beyond these many inputs: compiled code trusts it."""
        if len(self.branches) != branches:
            raise ValueError(f"a layer of {len(self.branches)} branches, expected {branches}")
        for branch in self.branches:
            _check_channels(branch.keep, inputs)

    @cached_property
    def packed(self) -> layer_kernel.Packed:
        return layer_kernel.pack(
            [branch.keep for branch in self.branches],
            [branch.weight for branch in self.branches],
            [branch.bias for branch in self.branches],
        )

    @cached_property
    def width(self) -> int:
        return sum(len(branch.bias) for branch in self.branches)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds a target."""
        return sum(branch.weight.size for branch in self.branches)


@dataclass
class Model:
    schema: Schema
    transform: Transform
    input_keep: npt.NDArray[np.int32]  # (C,) the raw channels that any branch of layer 1 reads
    layers: tuple[Layer, Layer]
    weight: Floats  # (H2,) the classifier's
    bias: float
    threshold: float
    report: dict[str, Any] = field(default_factory=dict)  # training, pruning, metrics: for people

    def __post_init__(self) -> None:
        first, second = self.layers
        _check_channels(self.input_keep, len(self.transform.start) - 1)
        first.check(1 + len(self.schema.relations), len(self.input_keep))
        second.check(1 + len(self.schema.relations), first.width)
        if self.weight.shape != (second.width,):
            raise ValueError(f"the classifier's weight {self.weight.shape}, expected {(second.width,)}")

    def hidden(self, x: Floats, means: Floats) -> Floats:
        """Return the hidden features: stage B.  # (B, C), (B, R, C) -> (B, H)"""
        return self.layers[0].forward(x, means)

    def scores(self, h: Floats, means: Floats) -> Floats:
        """Return the scores: stage D.  # (B, H), (B, R, H) -> (B,)"""
        score, h2 = np.empty(len(h), np.float32), np.empty((len(h), self.layers[1].width), np.float32)
        _classify(self.network, _plain(h), _plain(means), h2, score)
        return score

    def logits(self, h2: Floats) -> Floats:
        """Return the log-odds of the scores.  # (B, H2) -> (B,)"""
        return np.asarray(h2 @ self.weight + np.float32(self.bias))

    def classify(self, h2: Floats) -> Floats:
        """Return scores.  # (B, H2) -> (B,)"""
        return probability(self.logits(h2))

    @cached_property
    def network(self) -> layer_kernel.Network:
        """All of it, for compiled code."""
        first, second = self.layers
        return layer_kernel.Network(first.packed, second.packed, _plain(self.weight), self.bias)

    @property
    def is_compiled(self) -> bool:
        """May compiled code do stages B and D, with `network`?"""
        return True

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds a target, all layers together."""
        return sum(layer.multiply_adds for layer in self.layers) + len(self.weight)

    @property
    def version(self) -> str:
        """Twelve hex digits that differ when any score would."""
        digest = hashlib.sha256(msgspec.json.encode([self._shape(), self.threshold], order="sorted"))
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + tensor.tobytes())
        return digest.hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """Write the checkpoint; an existing one is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(self._tensors(), folder / "model.safetensors")
        about = {"version": self.version, **self._shape(), "threshold": self.threshold}
        about |= {"channels": self.schema.channel_names, "arithmetic": ARITHMETIC, "multiply_adds": self.multiply_adds}
        text = msgspec.json.format(msgspec.json.encode(about | self.report), indent=2)
        (folder / "model.json").write_bytes(text)

    def _shape(self) -> dict[str, Any]:
        names = ["self", *self.schema.relation_names]
        layers = [
            {"branches": [
                {"name": name, "keep": branch.keep.tolist(), "outputs": len(branch.bias)}
                for name, branch in zip(names, layer.branches, strict=True)
            ]}
            for layer in self.layers
        ]  # fmt: skip
        schema = msgspec.to_builtins(self.schema)
        return {"format": FORMAT, "schema": schema, "input_keep": self.input_keep.tolist(), "layers": layers}

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        tensors: dict[str, npt.NDArray[Any]] = {
            f"transform.{name}": getattr(self.transform, name) for name in ("start", "x", "z")
        }
        for number, layer in enumerate(self.layers, start=1):
            for name, branch in zip(["self", *self.schema.relation_names], layer.branches, strict=True):
                tensors[f"layer{number}.{name}.weight"] = np.ascontiguousarray(branch.weight)
                tensors[f"layer{number}.{name}.bias"] = branch.bias
        tensors["classifier.weight"] = self.weight
        tensors["classifier.bias"] = np.array([self.bias], np.float32)
        return tensors


def _check_channels(keep: npt.NDArray[np.int32], count: int) -> None:
    outside = keep[(keep < 0) | (keep >= count)]
    if len(outside):
        raise ValueError(f"channel {outside[0]} of {count} is kept, expected 0 to {count - 1}")


def _plain(values: Floats) -> Floats:
    """Return values as `direct` wants them: float32, one row behind the other."""
    return np.ascontiguousarray(values, np.float32)


def probability(logits: Floats) -> Floats:
    """Return the scores of logits.  # (B,) -> (B,)"""
    # exp of a clipped logit neither overflows nor loses anything float32 could show.
    scores: Floats = (1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))).astype(np.float32)
    return scores


def load_model(folder: Path) -> Model:
    """Read a checkpoint; CheckpointError says what is wrong with the folder and what to do."""
    try:
        about = msgspec.json.decode((folder / "model.json").read_bytes())
        tensors = safetensors.numpy.load((folder / "model.safetensors").read_bytes())
        return _build(about, tensors)
    except FileNotFoundError as error:
        hint = "make one with `graphsieve train EVENTS --schema SCHEMA --out MODEL`"
        raise CheckpointError(f"no model in {folder}: {Path(error.filename).name} is missing; {hint}") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, safetensors.SafetensorError) as error:
        problem = str(error) if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(f"the model in {folder} is damaged: {problem:.200}; train it again") from None
    except SchemaError as error:
        raise CheckpointError(f"the model in {folder} has a schema that this version cannot read: {error}") from None


def _build(about: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]) -> Model:
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']}, expected {FORMAT}")
    schema = parse_schema(about["schema"], "model.json")
    channels, tables = len(schema.channel_names), len(tensors["transform.start"]) - 1
    if channels != tables or len(about["layers"][0]["branches"]) != 1 + len(schema.relations):
        raise ValueError(f"its schema has {channels} channels and {len(schema.relations)} relations, not the model's")
    layers = [
        Layer([
            Branch(
                np.array(branch["keep"], np.int32),
                tensors[f"layer{number}.{branch['name']}.weight"],
                tensors[f"layer{number}.{branch['name']}.bias"],
            )
            for branch in layer["branches"]
        ])
        for number, layer in enumerate(about["layers"], start=1)
    ]  # fmt: skip
    return Model(
        schema=schema,
        transform=Transform(*(tensors[f"transform.{name}"] for name in ("start", "x", "z"))),
        input_keep=np.array(about["input_keep"], np.int32),
        layers=(layers[0], layers[1]),
        weight=tensors["classifier.weight"],
        bias=float(tensors["classifier.bias"][0]),
        threshold=about["threshold"],
        report={key: about[key] for key in REPORT if key in about},
    )
