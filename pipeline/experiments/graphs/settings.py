"""What may stand in experiments/graphs.toml, and where its graphs lie."""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.channels_kept import SCHEMES
from pipeline.errors import ConfigError

PAPER, SMALL = "paper", "small"  # the paper's own procedure; a small network trained from scratch
ALL_METHODS = ("lasso", PAPER, "random", "first", "magnitude", SMALL)

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    graphs: list[str]  # names of files in the data folder's graphs/, or paths that end in .npz
    seeds: Positive = 5  # a seed decides split, initialisation and the random channels
    budgets: list[float] = msgspec.field(default_factory=lambda: [2.0, 4.0, 8.0])
    schemes: list[str] = msgspec.field(default_factory=lambda: ["full", "batched"])
    methods: list[str] = msgspec.field(default_factory=lambda: list(ALL_METHODS))
    width: Positive = 128  # channels a branch
    epochs: Positive = 80  # at most: validation stops earlier
    tune_epochs: Positive = 60  # on amazon_cs and tolokers, 8x, lower validation loss than 20 in 9 of 9 tries
    timed_seeds: Positive = 3  # times of inference are measured for the first so many seeds only
    repeats: Positive = 5  # of each time measured
    targets: Positive = 512  # of batched inference

    def __post_init__(self) -> None:
        _check_words("schemes", self.schemes, SCHEMES)
        _check_words("methods", self.methods, ALL_METHODS)
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"budgets {self.budgets}: expected numbers of at least 1, such as 4 for a quarter")


def _check_words(name: str, found: list[str], known: tuple[str, ...]) -> None:
    if unknown := [word for word in found if word not in known]:
        raise ValueError(f"{name} {', '.join(map(repr, unknown))}: expected some of {', '.join(known)}")


def path_of(graph: str) -> Path:
    """Return where a graph's file is: a path as it is, a name in the folder of the real data."""
    if graph.endswith(".npz"):
        path = Path(graph)
    else:
        here = Path(__file__).resolve().parents[3].parent / "shared" / "data"
        path = Path(os.environ.get("GRAPHSIEVE_DATA") or here) / "graphs" / f"{graph}.npz"
    if not path.is_file():
        raise ConfigError(f"no graph at {path}: name a .npz file, or set GRAPHSIEVE_DATA to the folder with graphs/")
    return path
