"""A doctor's findings as a table: aligned, wrapped, with colour where a terminal shows it.

ok       model        875b4077e61a, schema reviews
problem  log          kafka localhost:1: nothing listens there
                      -> start a broker, or name another HOST:PORT
"""

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TextIO

from pipeline.doctor.examine import Examined
from pipeline.report_text import counted

COLOURS = {"ok": "32", "warning": "33", "problem": "31;1", "skipped": "2"}  # ANSI's green, yellow, bold red, faint
LEAST_WIDTH, MOST_WIDTH = 50, 140


def table(examined: Sequence[Examined], width: int, coloured: bool) -> Iterator[str]:
    """Yield the lines of the table, none longer than `width`, and a closing one."""
    width = max(LEAST_WIDTH, min(width, MOST_WIDTH))
    names = max(len(one.check) for one in examined)
    verdicts = max(len(verdict) for verdict in COLOURS)
    margin = " " * (2 + verdicts + 2 + names + 2)
    before = ""
    for one in examined:
        name = one.check if one.check != before else ""
        before = one.check
        start = f"  {_painted(f'{one.verdict:<{verdicts}}', one.verdict, coloured)}  {name:<{names}}  "
        first, *rest = _wrapped(one.found, width - len(margin))
        yield start + first
        yield from (margin + line for line in rest)
        if one.fix:
            yield from (margin + line for line in _wrapped(f"-> {one.fix}", width - len(margin), "   "))
    yield ""
    yield _closing(Counter(one.verdict for one in examined))


def is_coloured(stream: TextIO) -> bool:
    """Is it a terminal, and has its user nothing against colour (https://no-color.org)?"""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _painted(text: str, verdict: str, coloured: bool) -> str:
    return f"\033[{COLOURS[verdict]}m{text}\033[0m" if coloured else text


def _closing(counts: Counter[str]) -> str:
    told = [counted(counts[verdict], verdict) for verdict in ("problem", "warning")]
    skipped = f", {counts['skipped']} not looked at" if counts["skipped"] else ""
    return f"  {counts['ok']} ok, {', '.join(told)}{skipped}"
