"""Spans of time as people write them: "10ms", "1.5s", "30d". Inside the program every span is seconds (float)."""

import re

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)\s*")


def parse_duration(text: str) -> float:
    """Return the seconds that `text` stands for; ValueError names the text and the form that is expected.

    >>> parse_duration("10ms"), parse_duration("1.5h"), parse_duration("30d")
    (0.01, 5400.0, 2592000.0)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: write a number and one of {', '.join(_SECONDS)}, like '30d'")
    return float(found[1]) * _SECONDS[found[2]]
