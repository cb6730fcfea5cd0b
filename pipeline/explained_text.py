"""An explanation in words, for people who judge events and know nothing of models.

n941 is spam: score 0.93, and from 0.41 on a score is spam.
...
  +1.9  ███████   product_stars, those with product 17 and stars 5
                    +1.2  41 of the 60 that are judged are spam
                    +0.5  312 others, 12 of them within 1d; the last one 3 hours before
"""

import math
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pipeline.durations import parse_duration
from pipeline.explained import Explanation, Member, Related
from pipeline.live.visible import visible
from pipeline.schema import Schema
from pipeline.sections import Log1p

WIDTH = 100
BAR = 20  # blocks, of the largest contribution
SHOWN_MEMBERS = 5
FAINT = 0.05  # points; what is less is shown as nothing
LIKE = 0.05  # a deviation that is none
UNITS = ((86400.0 * 365.25, "year"), (86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def lines(explained: Explanation, schema: Schema) -> Iterator[str]:
    """Yield the explanation, a line at a time."""
    yield verdict(explained)
    yield f"Scored at position {explained.position}, {instant(explained.ts)}, by model {explained.model}."
    yield ""
    yield f"How it came to {explained.score:.2f}. Points add up: 0.7 more double the odds of spam, 0.7 less halve them."
    yield ""
    yield f"{signed(explained.start_logit):>7}  where nothing is known: score {explained.start:.2f}"
    most = max(abs(added) for _, added in explained.why)
    related = {one.name: one for one in explained.relations}
    for name, added in explained.why:
        bar = ("█" if added > 0 else "░") * round(BAR * abs(added) / most) if most >= FAINT else ""
        about = own_words(explained) if name == "self" else relation_words(related[name], schema)
        yield from _wrapped(f"{signed(added):>7}  {bar:<{BAR}}  ", about)
        if name != "self":
            yield from _parts(related[name], schema)
    yield f"{signed(explained.logit):>7}  together: score {explained.score:.2f}"
    yield from _newest(explained)


def verdict(explained: Explanation) -> str:
    """Return what was decided, and by how much."""
    said = "spam" if explained.is_spam else "not spam"
    return (
        f"{visible(explained.id)} is {said}: score {explained.score:.2f}, "
        f"and from {explained.threshold:.2f} on a score is spam."
    )


def own_words(explained: Explanation) -> str:
    """Return what the event itself said."""
    if explained.own is None:
        return "the event itself (it lies before the snapshot from which the log was replayed)"
    told = [f"{name} {_value(value)}" for name, value in explained.own.items()]
    return "the event itself: " + ", ".join(told)


def relation_words(one: Related, schema: Schema) -> str:
    """Return whom a relation compares the node with."""
    about = schema.relations[one.name]
    fading = f", the more lately the more they count (half after {about.half_life})" if about.half_life else ""
    if one.kind == "edge":
        return f"{one.name}: the nodes that edges of this kind lead to{fading}"
    if one.fields is None:
        return f"{one.name}: the event names no {' and '.join(about.group_by)}"
    return f"{one.name}: others with {key_words(one)}{fading}"


def key_words(one: Related) -> str:
    """Return what the members of a group have in common."""
    return " and ".join(f"{visible(field)} {visible(value)}" for field, value in (one.fields or {}).items())


def part_words(one: Related, schema: Schema) -> dict[str, str]:
    """Return the facts behind each part of a relation's contribution."""
    return {
        "arrivals": _arrival_words(one),
        "labels": _label_words(one),
        "deviation": "compared with them: " + ", ".join(_deviation_words(one, schema)),
        "members": "what the others are like" + _mean_words(one),
    }


def _parts(one: Related, schema: Schema) -> Iterator[str]:
    """The facts, those that moved the score most first; of an empty list there are none but that it is empty."""
    margin = " " * (7 + 2 + BAR + 2)
    if not one.count:
        if one.kind == "edge" or one.fields is not None:
            yield f"{margin}none before it"
        return
    words = part_words(one, schema)
    for part, added in sorted(one.parts.items(), key=lambda part: -abs(part[1])):
        if part != "deviation" or one.deviation:
            yield from _wrapped(f"{margin}{signed(added):>5}  ", words[part])


def _arrival_words(one: Related) -> str:
    bursts: dict[int, str] = {}
    for span, count in one.within.items():
        bursts.setdefault(count, span)  # the shortest span that holds so many
    told = [f"{count:,} within {age(parse_duration(span))}" for count, span in bursts.items() if count]
    since = one.since_last_seconds
    last = "" if since is None else f"; the last one {age(since)} before"
    others = f"{one.count:,} {'other' if one.count == 1 else 'others'}"
    return f"{others}{': ' if told else ''}{', '.join(told)}{last}"


def _label_words(one: Related) -> str:
    if not one.labelled:
        return "none of them is judged yet"
    if one.labelled == 1:
        return f"the one that is judged is {'' if one.spam else 'not '}spam"
    return f"{one.spam:,} of the {one.labelled:,} that are judged are spam"


def _deviation_words(one: Related, schema: Schema) -> Iterator[str]:
    for name, value in one.deviation.items():
        if abs(value) < LIKE:
            yield f"{name} like theirs"
        elif isinstance(schema.features[name], Log1p):
            yield f"{name} {math.exp(value):.2g} times theirs"
        else:
            yield f"{name} {abs(value):.2g} {'above' if value > 0 else 'below'} theirs"


def _mean_words(one: Related) -> str:
    return "" if one.mean_score is None else f": their own scores average {one.mean_score:.2f}"


# ---- the newest members ----


def _newest(explained: Explanation) -> Iterator[str]:
    """Who was there; a list that two relations share is told once."""
    told: list[dict[str, str] | None] = []
    for one in sorted(explained.relations, key=lambda one: -abs(one.contribution)):
        if not one.members or (one.fields is not None and one.fields in told):
            continue
        told.append(one.fields)
        yield ""
        yield f"The newest by {one.name}{', ' + key_words(one) if one.fields else ''}, as they were known then:"
        for member in one.members[:SHOWN_MEMBERS]:
            yield f"  {visible(member.id):<16}  {age(member.age_seconds) + ' before':<18}  {known_of(member)}"


def known_of(member: Member) -> str:
    """Return what was known of a member at the time."""
    judged = {None: "not judged yet", 0: "judged not spam", 1: "judged spam"}[member.label]
    return judged if member.score is None else f"{judged:<15}  score {member.score:.2f}"


# ---- numbers ----


def signed(points: float) -> str:
    """Return points with their sign, and none where they are as good as nothing."""
    return "0.0" if abs(points) < FAINT else f"{points:+.1f}"


def age(seconds: float) -> str:
    """Return a span in its largest unit."""
    for size, unit in UNITS:
        if abs(seconds) >= size:
            count = round(seconds / size)
            return f"{count:,} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def instant(ts: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)} numbers)"
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, max(WIDTH, len(start) + 40), initial_indent=start, subsequent_indent=" " * len(start),
        break_on_hyphens=False, drop_whitespace=True,
    )  # fmt: skip
