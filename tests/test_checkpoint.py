"""A stranger's reading of the checkpoint: model.json, model.safetensors, the events, numpy; nothing of this project."""

import dataclasses
import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoder import Decoder
from pipeline.errors import CheckpointError
from pipeline.events import NODE
from pipeline.fit import FitOptions
from pipeline.log import JSON, Record
from pipeline.model import load_model
from pipeline.prune import PruneOptions, prune
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from pipeline.train import TrainOptions, train
from pipeline.transform import KNOTS
from producers.reviews import ReviewTable, review_events

SCHEMA = Path(__file__).parents[1] / "deploy/schemas/reviews.toml"
DAY = 86400.0


def made_up_reviews(count: int = 1500, seed: int = 0) -> list[bytes]:
    """Reviews whose spam has 5 or 1 stars and comes from few users."""
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.25).astype(np.int8)
    users = np.where(label == 1, rng.integers(0, 30, count), rng.integers(30, 700, count))
    stars = np.where(label == 1, rng.choice([1, 5], count), rng.integers(1, 6, count))
    table = ReviewTable(
        user=users.astype(str),
        product=rng.integers(0, 20, count).astype(str),
        stars=stars.astype(np.int64),
        label=label,
        ts=1.2e9 // DAY * DAY + np.sort(rng.integers(0, 300, count)) * DAY,
    )
    return list(review_events(table, 30 * DAY, seed=0))


def records(lines: list[bytes]) -> list[Record]:
    return [Record(i, line, None, JSON, float("nan")) for i, line in enumerate(lines)]


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return made_up_reviews()


@pytest.fixture(scope="module")
def checkpoint(lines, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    options = TrainOptions(hidden=8, fit=FitOptions(epochs=6, batch_size=128))
    model, report = train(load_schema(SCHEMA), records(lines), options)
    assert report["auroc"] > 0.8  # it learned something, or the rest would compare noise
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(checkpoint, lines, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    model, _ = prune(load_model(checkpoint), records(lines), PruneOptions(budget=4))
    model.save(folder)
    return folder


def served_scores(folder: Path, lines: list[bytes]) -> dict[str, float]:
    model = load_model(folder)
    batch, bad = Decoder(model.schema).decode(records(lines))
    assert not bad
    scored = Scorer(model).score(batch)
    assert int((batch.kind == NODE).sum()) == len(scored.score)
    return {batch.id[e]: float(s) for e, s in zip(scored.event, scored.score, strict=True)}


@pytest.mark.parametrize("which", ["checkpoint", "pruned"])
def test_scores_can_be_recomputed_with_numpy_alone(which, lines, request):
    folder = request.getfixturevalue(which)
    ours = served_scores(folder, lines)
    theirs = Stranger(folder).scores(lines)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[i] for i in theirs], list(theirs.values()), atol=2e-5)


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """The safetensors format: length of a JSON header, the header, the numbers."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    kinds = {"F32": np.float32, "I32": np.int32}
    return {
        name: np.frombuffer(numbers[slice(*about["data_offsets"])], kinds[about["dtype"]]).reshape(about["shape"])
        for name, about in header.items()
    }


def seconds(text: str) -> float:
    return float(text[:-1]) * {"h": 3600.0, "d": DAY}[text[-1]]


class Stranger:
    """Recomputes scores of review events from what model.json says."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "model.json").read_text())
        self.tensors = tensors_of(folder / "model.safetensors")
        self.schema = self.about["schema"]
        self.nodes: list[dict] = []
        self.label: dict[str, tuple[int, float]] = {}
        self.now = 0.0

    def scores(self, lines: list[bytes]) -> dict[str, float]:
        scores = {}
        for event in map(json.loads, lines):
            self.now = max(self.now, event["ts"])
            if event["type"] == "label":
                self.label[event["id"]] = (event["label"], self.now)
                continue
            node = dict(event, keys={r: [event[f] for f in x["group_by"]] for r, x in self.schema["relations"].items()})
            lists = {r: [m for m in self.nodes if m["keys"][r] == node["keys"][r]] for r in node["keys"]}
            node["x"] = self.inputs(self.raw(node, lists))
            node["h"] = self.layer(1, "x", node, lists)
            h2 = self.layer(2, "h", node, lists)
            logit = h2 @ self.tensors["classifier.weight"] + self.tensors["classifier.bias"][0]
            scores[node["id"]] = 1 / (1 + math.exp(-logit))
            self.nodes.append(node)
        return scores

    def raw(self, node: dict, lists: dict[str, list[dict]]) -> np.ndarray:
        weekday = (int(node["ts"] // DAY) + 3) % 7
        own = (
            [float(node["stars"] == s) for s in range(1, 6)] + [node["stars"]] + [float(weekday == d) for d in range(7)]
        )
        arrival, label, deviation = [], [], []
        about = self.schema["labels"]
        for name, members in lists.items():
            ages = [self.now - m["ts"] for m in members]
            arrival += [math.log1p(len(members)), math.log1p(min(ages, default=315_360_000.0))]
            for text in self.schema["arrivals"]["half_lives"]:
                arrival.append(math.log1p(sum(2.0 ** (-age / seconds(text)) for age in ages)))
            known = [self.label[m["id"]] for m in members if m["id"] in self.label]
            pseudo = about["prior"] * about["strength"]
            label += [(sum(y for y, _ in known) + pseudo) / (len(known) + about["strength"]), math.log1p(len(known))]
            for text in about["half_lives"]:
                weights = [2.0 ** (-(self.now - when) / seconds(text)) for _, when in known]
                spam = sum(w * y for w, (y, _) in zip(weights, known, strict=True))
                label.append((spam + pseudo) / (sum(weights) + about["strength"]))
            mean = self.mean(name, members, lambda m: np.array([m["stars"]]))
            deviation.append(node["stars"] - mean[0] if members else 0.0)
        return np.array(own + arrival + label + deviation)

    def inputs(self, raw: np.ndarray) -> np.ndarray:
        start, x, z = (self.tensors[f"transform.{name}"] for name in ("start", "x", "z"))
        knots = [slice(start[c], start[c + 1]) for c in self.about["input_keep"]]
        return np.array([np.interp(raw[c], x[k], z[k]) for c, k in zip(self.about["input_keep"], knots, strict=True)])

    def mean(self, name: str, members: list[dict], value) -> np.ndarray:
        if not members:
            return np.zeros(1)
        half_life = self.schema["relations"][name]["half_life"]
        newest = max(m["ts"] for m in members)
        weights = [2.0 ** ((m["ts"] - newest) / seconds(half_life)) if half_life else 1.0 for m in members]
        return np.average([value(m) for m in members], axis=0, weights=weights)

    def layer(self, number: int, what: str, node: dict, lists: dict[str, list[dict]]) -> np.ndarray:
        out = []
        for branch in self.about["layers"][number - 1]["branches"]:
            name, keep = branch["name"], branch["keep"]
            if name == "self":
                values = node[what]
            else:
                values = self.mean(name, lists[name], lambda m: m[what]) if lists[name] else np.zeros(len(node[what]))
            weight, bias = (self.tensors[f"layer{number}.{name}.{part}"] for part in ("weight", "bias"))
            out.append(np.maximum(values[keep] @ weight + bias, 0.0))
        return np.concatenate(out)


def test_a_saved_checkpoint_comes_back_the_same(checkpoint, lines, tmp_path):
    model = load_model(checkpoint)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.version == model.version == json.loads((checkpoint / "model.json").read_text())["version"]
    assert again.schema == model.schema
    assert served_scores(tmp_path, lines[:200]) == served_scores(checkpoint, lines[:200])


def test_the_schema_is_copied_into_the_checkpoint(checkpoint):
    stored = json.loads((checkpoint / "model.json").read_text())["schema"]
    written = tomllib.loads(SCHEMA.read_text())
    assert list(stored["relations"]) == list(written["relations"])
    assert list(stored["features"]) == list(written["features"])


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_checkpoint_without_a_file_is_refused(checkpoint, tmp_path, name):
    load_model(checkpoint).save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_cut_off_file_is_refused(checkpoint, tmp_path, name):
    load_model(checkpoint).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)


def test_a_transform_of_more_knots_than_are_read_is_refused(checkpoint):
    transform = load_model(checkpoint).transform
    knots = np.arange(KNOTS + 1, dtype=np.float32)
    with pytest.raises(ValueError, match=f"a channel with {KNOTS + 1} knots, expected at most {KNOTS}"):
        dataclasses.replace(transform, start=np.array([0, len(knots)], np.int32), x=knots, z=knots)


def test_a_schema_that_does_not_fit_the_model_is_refused(checkpoint, tmp_path):
    load_model(checkpoint).save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    del about["schema"]["relations"]["user"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="its schema has 46 channels and 3 relations, not the model's"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about["input_keep"].append(99), r"damaged: channel 99 of \d+ is kept, expected 0 to"),
        (lambda about: about["layers"][0]["branches"][1]["keep"].__setitem__(0, 99), "damaged: channel 99 of"),
        (lambda about: about["layers"][1]["branches"][2]["keep"].__setitem__(0, -1), "damaged: channel -1 of"),
        (lambda about: about["layers"][1]["branches"].pop(), "damaged: a layer of 4 branches, expected 5"),
        (lambda about: about["layers"].pop(), "damaged"),
    ],
)
def test_a_model_that_reads_beyond_its_inputs_is_refused(checkpoint, tmp_path, change, said):
    """Compiled code would read whatever lies there."""
    load_model(checkpoint).save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    change(about)
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path)


def test_a_channel_that_never_varied_in_training_has_no_say_afterwards(lines, tmp_path):
    """Trained on Mondays alone, a model must not go wild on the first Tuesday."""
    events = [(line, json.loads(line)) for line in made_up_reviews(4000)]
    mondays = [line for line, e in events if e["type"] == "label" or (int(e["ts"] // DAY) + 3) % 7 == 0]
    options = TrainOptions(hidden=8, fit=FitOptions(epochs=3, batch_size=128))
    model, _ = train(load_schema(SCHEMA), records(mondays), options)
    channel = model.schema.channel_names.index("weekday=tuesday")
    for branch in model.layers[0].branches:
        assert (branch.weight[channel] == 0).all()
