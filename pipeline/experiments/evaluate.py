"""`graphsieve evaluate`: one experiment, from its settings to JSON, tables and plots.

    experiments/NAME.toml       an experiment of this repository; its `kind` names the family
    GRAPH.npz                   the family `graphs`, on a file that nobody here has seen
    EVENTS                      the family `streams`, likewise, with --schema

A family is a module of this package with four names:

    Settings                    a msgspec.Struct: what may stand in the TOML file, tag `kind`
    jobs(settings)              -> list[Job], a training each
    tables(results)             -> list[Table]; what a reader compares, from the JSON alone
    plots(results, folder)      -> list[Path]; pictures, from the JSON alone
"""

import importlib
import platform
import tomllib
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from pipeline.errors import ConfigError
from pipeline.experiments.page import Results, gather, insert, write_results
from pipeline.experiments.run import Job, run_jobs
from pipeline.page import Table

FAMILIES = ("graphs", "streams", "baselines", "decay", "detector")


class Family(Protocol):
    Settings: Any

    def jobs(self, settings: Any) -> list[Job]: ...
    def tables(self, results: Results) -> list[Table]: ...
    def plots(self, results: Results, folder: Path) -> list[Path]: ...


def family_of(kind: str) -> Family:
    """Return the module of a family; each imports what it needs, so one is loaded at a time."""
    if kind not in FAMILIES:
        raise ConfigError(f"kind {kind!r}: expected one of {', '.join(FAMILIES)}")
    return cast(Family, importlib.import_module(f"pipeline.experiments.{kind}.family"))


def load_settings(path: Path, quick: bool = False) -> tuple[Family, Any]:
    """Read an experiment's TOML; `quick` lays its table [quick] over it. ConfigError names file, key and fix."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the experiment {path}: {error}; examples are in experiments/") from None
    small = tree.pop("quick", {})
    family = family_of(str(tree.pop("kind", "missing")))
    try:
        return family, msgspec.convert(tree | (small if quick else {}), family.Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None


def evaluate(
    name: str, family: Family, settings: Any, work: Path, results: Path, command: str, page: Path | None = None
) -> Results:
    """Run an experiment; leave work/NAME.jsonl, results/NAME.json and its plots, and its tables in `page`, if given."""
    lines = run_jobs(family.jobs(settings), work / f"{name}.jsonl")
    found = gather(name, command, machine(), lines)
    write_results(found, results)
    family.plots(found, results)
    if page is not None:
        page.write_text(insert(page.read_text(encoding="utf-8"), found, family.tables(found)), encoding="utf-8")
    return found


def machine() -> str:
    """Say on what an experiment ran, for readers of its times."""
    import os

    return f"{os.cpu_count()} cores, Python {platform.python_version()}"
