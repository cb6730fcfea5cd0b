"""What operators are told: one line for each piece of news, for people or for machines.

    say(line("partition 3 is live", partition=3, position=4711))

    human   graphsieve: partition 3 is live
    json    {"ts":"2024-05-01T10:00:00.123Z","level":"info","message":"partition 3 is live","position":4711, ...}

Whoever has something to tell is handed a `say`, and needs to know nothing of this: a plain text is news, too. No line
holds a secret, nor anything that was in an event.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from pipeline.config import Logging

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

# Ours, and no library's: those tell of every step, and in words of their own.
_OURS = ("graphsieve", "pipeline", "producers", "consumers")

_logger = logging.getLogger("graphsieve")

Say = Callable[[str], None]


class Line(str):
    """A sentence for people; its level, and the facts in it for machines."""

    level: int
    fields: Mapping[str, Any]


def line(text: str, level: int = INFO, **fields: Any) -> Line:
    made = Line(text)
    made.level, made.fields = level, fields
    return made


def say(text: str) -> None:
    """Tell the operator, on stderr, as `configure` was told to."""
    made = text if isinstance(text, Line) else line(text)
    _logger.log(made.level, "%s", text, extra={"fields": made.fields})


def with_fields(say: Say, **fields: Any) -> Say:
    """Return a `say` that adds these facts to every line; those of the line itself come first."""

    def said(text: str) -> None:
        made = text if isinstance(text, Line) else line(text)
        say(line(text, made.level, **{**fields, **made.fields}))

    return said


def prefaced(say: Say, preface: Line) -> Say:
    """Return a `say` that tells `preface` before whatever it is given first, from whichever thread.

    So a process that refuses to start says why in one line, and nothing before it.
    """
    untold, telling = [preface], threading.Lock()

    def said(text: str) -> None:
        with telling:
            if untold:
                say(untold.pop())
        say(text)

    return said


def configure(settings: Logging) -> None:
    """Send every log line of this process to stderr, in one format; the last call counts."""
    root = logging.getLogger()
    handler = next((found for found in root.handlers if isinstance(found, _Stderr)), None)
    if handler is None:
        handler = _Stderr()
        root.addHandler(handler)
    handler.setFormatter(_Json() if settings.format == "json" else _Human())
    for name in _OURS:
        logging.getLogger(name).setLevel(settings.level.upper())


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"graphsieve: {_one_line(record)}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {"ts": ts, "level": record.levelname.lower(), "message": _one_line(record)}
        told |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def _one_line(record: logging.LogRecord) -> str:
    return " ".join(record.getMessage().split())
