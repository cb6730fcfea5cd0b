"""What `graphsieve evaluate` was given -> an experiment that can run, and its tables as people read them."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.errors import ConfigError
from pipeline.experiments.evaluate import Family, evaluate, family_of, load_settings
from pipeline.experiments.page import Results
from pipeline.page import Table


class Wanted(NamedTuple):
    what: Path  # a .toml, a .npz, or recorded events
    options: dict[str, Any]  # settings by name, of flags that were given
    quick: bool = False
    schema: Path | None = None  # of recorded events

    @property
    def command(self) -> str:
        """Return the command as somebody may type it again."""
        words = ["graphsieve", "evaluate", str(self.what), *(["--quick"] if self.quick else [])]
        words += [] if self.schema is None else ["--schema", str(self.schema)]
        for name, value in self.options.items():
            listed = value if isinstance(value, list) else [value]
            words += [f"--{name}", ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in listed)]
        return shlex.join(words)


def evaluate_any(wanted: Wanted, work: Path, out: Path, page: Path | None) -> tuple[Results, list[Table]]:
    """Run what is wanted; ConfigError where nobody can."""
    family, settings = _family_and_settings(wanted)
    found = evaluate(wanted.what.stem, family, settings, work, out, wanted.command, page)
    return found, family.tables(found)


def _family_and_settings(wanted: Wanted) -> tuple[Family, Any]:
    what = wanted.what
    if what.suffix == ".toml":
        if wanted.options or wanted.schema:
            names = ", ".join(f"--{name}" for name in (*wanted.options, *["schema"] * (wanted.schema is not None)))
            raise ConfigError(f"{names}: an experiment says these itself; change {what}, or leave them out")
        return load_settings(what, wanted.quick)
    if wanted.quick:
        raise ConfigError("--quick is for an experiment's .toml; a file of yours takes --seeds 1 and fewer --budgets")
    if what.suffix == ".npz":
        family = family_of("graphs")
        return family, _settings(family, {"graphs": [str(what)]} | wanted.options)
    if wanted.schema is None:
        raise ConfigError(
            f"{what}: expected an experiment (.toml), a graph (.npz), or recorded events with --schema SCHEMA"
        )
    family = family_of("streams")
    return family, _settings(family, _of_events(what, wanted.schema, wanted.options))


def _of_events(what: Path, schema: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of one recorded file; its labels come when they came."""
    study = {"data": [str(what)], "delays": ["own"], "budgets": [2, 4, 8], "curves": True}
    return {"studies": [study | options], "schema": str(schema)}


def _settings(family: Family, values: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(values, family.Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
