"""Every knob, in one frozen tree: flag > environment > file > default.

`deploy/config.toml` documents them; a test holds that file, this tree and the environment's names to one another.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from pipeline.durations import parse_duration
from pipeline.errors import ConfigError
from pipeline.misfit import did_you_mean

PREFIX = "GRAPHSIEVE_"
NOT_KNOBS = {"GRAPHSIEVE_DATA"}  # where tests and benchmarks find real data


class Score(Struct, frozen=True, forbid_unknown_fields=True):
    max_batch: Annotated[int, Meta(ge=1, le=1_000_000)] = 2048
    max_wait: str = "10ms"
    group: Annotated[str, Meta(min_length=1)] = "graphsieve"
    snapshot_every: str = "60s"
    snapshots_kept: Annotated[int, Meta(ge=1)] = 2
    max_message_bytes: Annotated[int, Meta(ge=1)] = 4 * 2**20
    stop: str = "30s"
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def max_wait_seconds(self) -> float:
        return parse_duration(self.max_wait)

    @property
    def snapshot_every_seconds(self) -> float:
        return parse_duration(self.snapshot_every)

    @property
    def stop_seconds(self) -> float:
        return parse_duration(self.stop)


class Topics(Struct, frozen=True, forbid_unknown_fields=True):
    events: str = "events"
    scores: str = "scores"
    dead_letters: str = "dead-letters"
    journal: str = "journal"


class Scores(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["single", "packed"] = "single"
    explain: bool = False


class Kafka(Struct, frozen=True, forbid_unknown_fields=True):
    client: Literal["kafka-python", "confluent"] = "kafka-python"
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""
    token_file: str = ""
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    max_in_flight: Annotated[int, Meta(ge=1)] = 10_000
    stall: str = "60s"
    instance: str = ""
    session: str = "45s"

    def __repr__(self) -> str:
        return f"Kafka(security={self.security!r}, ...)"  # no password in a traceback or a log

    @property
    def stall_seconds(self) -> float:
        return parse_duration(self.stall)

    @property
    def session_seconds(self) -> float:
        return parse_duration(self.session)


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    page: bool = True


class Quality(Struct, frozen=True, forbid_unknown_fields=True):
    short_window: Annotated[int, Meta(ge=2)] = 1_000
    window: Annotated[int, Meta(ge=2)] = 10_000
    max_pending: Annotated[int, Meta(ge=1)] = 200_000


class Logging(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["human", "json"] = "human"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    score: Score = Score()
    topics: Topics = Topics()
    scores: Scores = Scores()
    kafka: Kafka = Kafka()
    metrics: Metrics = Metrics()
    quality: Quality = Quality()
    logging: Logging = Logging()


DURATIONS = ("score.max_wait", "score.snapshot_every", "score.stop", "kafka.stall", "kafka.session")


def load_config(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """Build the configuration; ConfigError names the key or variable and what it should be.

    flags  "section.key" -> value, None where the flag was not given
    """
    tree = _read(path) if path else {}
    _check_keys(tree, str(path))
    for name, text in environment.items():
        if name.startswith(PREFIX) and name not in NOT_KNOBS:
            section, key = _knob_of(name)
            tree.setdefault(section, {})[key] = text
    for knob, value in (flags or {}).items():
        if value is not None:
            section, key = knob.split(".")
            tree.setdefault(section, {})[key] = value
    try:
        config = msgspec.convert(tree, Config, strict=False)  # the environment only has texts
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
        raise ConfigError(f"{place.strip('`').removeprefix('$.')}: {problem}; see deploy/config.toml") from None
    _check_durations(config)
    return config


def environment_name(section: str, key: str) -> str:
    """Return the environment twin of a knob."""
    return f"{PREFIX}{section}_{key}".upper()


def knobs() -> dict[str, Any]:
    """Return every knob, as section.key, with its default."""
    tree = msgspec.to_builtins(Config())
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _check_keys(tree: dict[str, Any], source: str) -> None:
    for section, keys in tree.items():
        for name in [f"{section}.{key}" for key in keys] if isinstance(keys, dict) else [section]:
            if name not in knobs():
                raise ConfigError(f"unknown config key {name!r} in {source}: {did_you_mean(name, list(knobs()))}")


def _knob_of(variable: str) -> tuple[str, str]:
    names = {environment_name(*knob.split(".")): knob for knob in knobs()}
    if variable not in names:
        raise ConfigError(f"unknown environment variable {variable}: {did_you_mean(variable, list(names))}")
    section, key = names[variable].split(".")
    return section, key


def _check_durations(config: Config) -> None:
    for knob in DURATIONS:
        section, key = knob.split(".")
        try:
            parse_duration(getattr(getattr(config, section), key))
        except ValueError as error:
            raise ConfigError(f"{knob}: {error}") from None
