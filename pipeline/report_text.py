"""A report as people read it: a line for each value, wrapped; a table within a table one step to the right."""

import textwrap
from collections.abc import Iterator
from typing import Any

WIDTH = 110


def readable(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield the lines of a report."""
    width = max(map(len, report), default=0)
    for name, value in report.items():
        if isinstance(value, dict) and any(isinstance(inner, dict | list) for inner in value.values()):
            yield indent + name
            yield from readable(value, indent + "  ")
        else:
            start = f"{indent}{name:<{width}}  "
            yield from textwrap.wrap(
                _text(value), WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
            ) or [start]  # fmt: skip


def counted(count: int, word: str) -> str:
    """Return "1 message", "2,000 messages"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def byte_text(count: float) -> str:
    """Return a number of bytes as people read it, in steps of a thousand."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)
