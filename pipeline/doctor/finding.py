"""What `graphsieve doctor` looks at, and what it finds.

Setup     what is to be started; the checks leave in it what later ones need
Finding   one line: a verdict, what was found and, unless all is well, the fix
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.config import Config
from pipeline.errors import GraphsieveError
from pipeline.snapshot import Manifest

if TYPE_CHECKING:
    from pipeline.kafka_log.examine import Facts
    from pipeline.model import Model

Verdict = Literal["ok", "warning", "problem", "skipped"]


class Finding(NamedTuple):
    verdict: Verdict
    found: str
    fix: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, fix: str) -> Finding:
    return Finding("warning", found, fix)


def problem(found: str, fix: str) -> Finding:
    return Finding("problem", found, fix)


def problem_of(error: GraphsieveError) -> Finding:
    """Our errors say what happened and, behind a semicolon, what to do; or, behind a colon, what may be meant."""
    text = str(error)
    found, _, fix = text.partition("; ") if "; " in text else text.partition(": did you mean ")
    return problem(found, fix if "; " in text or not fix else f"did you mean {fix}")


@dataclass
class Setup:
    """A consumer as it would be started; nothing that was not given is looked at."""

    config_file: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)  # "section.key" -> value, as for `load_config`
    model_folder: Path | None = None
    log_url: str | None = None
    state: str | None = None
    now: Callable[[], float] = time.time

    # -- what the checks have found --
    config: Config = field(default_factory=Config)
    model: "Model | None" = None
    facts: "Facts | None" = None  # of a cluster
    partitions: list[int | None] = field(default_factory=lambda: [None])  # of the events; None: all there is
    snapshots: dict[str, list[Manifest]] = field(default_factory=dict)  # by shard, newest first
    newest_appended_at: float | None = None  # by the clock of the log

    @property
    def feeds(self) -> list[str]:
        """The topics of events."""
        return self.config.topics.events.split(",")

    @property
    def is_merged(self) -> bool:
        return len(self.feeds) > 1

    @property
    def outputs(self) -> list[str]:
        topics = self.config.topics
        return [topics.scores, topics.dead_letters, *([topics.journal] if self.is_merged else [])]
