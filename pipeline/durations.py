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


def format_duration(seconds: float) -> str:
    """Return `seconds` to three digits, with the largest unit that leaves a number of at least 1.

    >>> format_duration(86400), format_duration(90), format_duration(0.010), format_duration(86_356_800)
    ('1d', '1.5m', '10ms', '1000d')
    """
    unit = max((u for u in _SECONDS if u != "w" and _SECONDS[u] <= seconds), key=_SECONDS.__getitem__, default="ms")
    rounded = float(f"{seconds / _SECONDS[unit]:.3g}")
    return f"{rounded:.15g}{unit}"  # .3g alone would write 1000 as 1e+03
