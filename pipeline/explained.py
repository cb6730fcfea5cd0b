"""An explanation: the split of one score, with the facts behind each part in raw units, for people and programs.

    Explanation                     the verdict, the start, what the event itself said
      relations: Related            by relation: its list, its contribution, and the contribution of each part
        parts       arrivals        how many members came, and how fast
                    labels          how many of them are judged, and how many of these are spam
                    deviation       how far the node's own numbers are from their mean
                    members         what they are like: their inputs, and what layer 1 made of them
        members: Member             the newest, with what was known of them then

Counts are those that the model read: taken back from its channels (log1p undone), not from the graph as it is now.
"""

import math
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from pipeline.columns import split_key
from pipeline.events import NODE
from pipeline.explain import PARTS, Explainer, Floats, channel_blocks
from pipeline.model import Model
from pipeline.retrace import ListThen, Moment
from pipeline.schema import WEEKDAYS, Schema
from pipeline.sections import Log1p, OneHot, Vector, Weekday, seconds, text_of

MOST_MEMBERS = 10  # told of a list


class Member(Struct):
    id: str
    ts: float  # of its event, or of the edge, seconds since the epoch
    age_seconds: float  # before the explained event
    label: int | None  # 1 spam, 0 not, null: not judged by then
    score: float | None  # its newest one by then, null: it had none, or the replay began after it


class Related(Struct):
    """What a relation added, and its list as the node read it."""

    name: str
    kind: str  # group or edge
    fields: dict[str, str] | None  # what a group has in common; null: the node is in none
    contribution: float
    parts: dict[str, float]  # they add up to it
    count: int
    labelled: int
    spam: int  # among the labelled
    since_last_seconds: float | None  # since the list's last arrival; null: it had none
    within: dict[str, int]  # how many members are at most so old
    deviation: dict[str, float]  # own number less the list's mean; of log1p features in logarithms
    mean_score: float | None  # of the members, weighted as the model weighs them; null: none has one
    members: list[Member]


class Explanation(Struct):
    id: str
    event: str  # node or score
    position: int
    index: int
    ts: float
    model: str
    score: float
    threshold: float
    is_spam: bool
    logit: float  # of the score: start_logit and all contributions
    start: float  # the score where nothing is known
    start_logit: float
    own: dict[str, Any] | None  # what the node's own event said; null: it lies before what was replayed
    own_contribution: float
    relations: list[Related]  # in the schema's order

    @property
    def why(self) -> list[tuple[str, float]]:
        """The contributions by name, the largest first, as in a score message."""
        added = [("self", self.own_contribution), *((one.name, one.contribution) for one in self.relations)]
        return sorted(added, key=lambda one: -abs(one[1]))


def explanation(model: Model, moment: Moment) -> Explanation:
    """Explain the score of a moment."""
    explainer = Explainer(model)
    own, *of_relations = _rounded(explainer.contributions(moment.seen)[0])
    parts = [_rounded(added) for added in explainer.parts(moment.seen)[0]]
    nothing = np.zeros((1, 1 + len(PARTS) * len(parts)), np.bool_)
    start = float(explainer.logits(moment.seen, nothing)[0, 0])
    logit = float(explainer.logits(moment.seen, ~nothing)[0, 0])
    facts = _facts(model.schema, moment.seen.channels[0])
    relations = zip(model.schema.relation_names, of_relations, parts, facts, moment.lists, strict=True)
    return Explanation(
        id=moment.id, event="node" if moment.kind == NODE else "score", position=moment.position, index=moment.index,
        ts=moment.ts, model=model.version, score=round(moment.score, 8), threshold=model.threshold,
        is_spam=moment.score >= model.threshold, logit=round(logit, 6), start_logit=round(start, 6),
        start=round(1.0 / (1.0 + math.exp(-start)), 6),
        own=None if moment.own is None else own_values(model.schema, moment.own), own_contribution=own,
        relations=[_related(model.schema, moment.now, *one) for one in relations],
    )  # fmt: skip


def _related(
    schema: Schema, now: float, name: str, contribution: float, parts: list[float], facts: Any, then: ListThen
) -> Related:
    about = schema.relations[name]
    fields = None
    if then.key is not None:
        fields = dict(zip(about.group_by, split_key(then.key, len(about.group_by)), strict=False))
    age = now - then.ts
    spans = zip(schema.arrivals.half_lives, schema.arrival_half_lives, strict=True)
    return Related(
        name=name, kind=about.kind, fields=fields, contribution=contribution,
        parts=dict(zip(PARTS, parts, strict=True)), **facts,
        within={text: int((age <= span).sum()) for text, span in spans},
        mean_score=_mean_score(then, seconds(about.half_life)),
        members=[_member(then, i, float(age[i])) for i in range(min(MOST_MEMBERS, len(age)))],
    )  # fmt: skip


def _mean_score(then: ListThen, half_life: float) -> float | None:
    """Average the members' scores, each weighted as the model weighs the member."""
    scored = np.isfinite(then.score)
    if not scored.any():
        return None
    weight = np.exp2((then.ts[scored] - then.ts[scored].max()) / half_life)
    return _known(float(np.average(then.score[scored], weights=weight)))


def _member(then: ListThen, i: int, age: float) -> Member:
    label = int(then.label[i])
    return Member(
        then.ids[i], float(then.ts[i]), round(age, 3), None if label < 0 else label, _known(float(then.score[i]))
    )


def _rounded(added: Floats) -> list[float]:
    return [round(value, 6) + 0.0 for value in added.tolist()]  # no -0.0


def _known(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 8)


def _facts(schema: Schema, channels: Floats) -> list[dict[str, Any]]:
    """What the channels of each relation say, in raw units."""
    told: list[dict[str, Any]] = [{} for _ in schema.relations]
    for relation, part, place in channel_blocks(schema):
        values = channels[place].astype(np.float64).tolist()
        if PARTS[part] == "arrivals":
            told[relation] |= _arrivals(values)
        elif PARTS[part] == "labels":
            told[relation] |= _labels(schema, values)
        else:
            names = [schema.own_channels[c] for c in schema.deviating]
            told[relation]["deviation"] = {name: round(value, 6) for name, value in zip(names, values, strict=True)}
    return told


def _arrivals(values: list[float]) -> dict[str, Any]:
    """As the first two channels tell; the third and on fade, and `within` says more plainly what they mean."""
    count, since = round(math.expm1(values[0])), math.expm1(values[1])
    came = any(value > 0.0 for value in values[2:]) if len(values) > 2 else count > 0
    return {"count": count, "since_last_seconds": float(f"{since:.6g}") if came else None}  # what a float32 holds


def _labels(schema: Schema, values: list[float]) -> dict[str, Any]:
    """The share is smoothed: (spam + prior * strength) / (labelled + strength)."""
    labelled, strength = round(math.expm1(values[1])), schema.labels.strength
    spam = round(values[0] * (labelled + strength) - schema.labels.prior * strength)
    return {"labelled": labelled, "spam": spam}


def own_values(schema: Schema, own: Floats) -> dict[str, Any]:
    """Return what each feature said, as its message did: a one-hot's value, a number, the weekday."""
    told: dict[str, Any] = {}
    for name, feature in schema.features.items():
        values = [float(f"{value:.6g}") for value in own[schema.own_slices[name]].tolist()]  # what a float32 holds
        match feature:
            case OneHot():
                texts = [*map(text_of, feature.values), "other"]
                told[name] = texts[values.index(1.0)]
            case Weekday():
                told[name] = WEEKDAYS[values.index(1.0)]
            case Vector():
                told[name] = values
            case Log1p():
                told[name] = float(f"{math.expm1(own[schema.own_slices[name]][0]):.6g}")
            case _:
                told[name] = values[0]
    return told


def as_report(explained: Explanation) -> dict[str, Any]:
    """Return the explanation as one JSON document."""
    report: dict[str, Any] = msgspec.to_builtins(explained)
    return report | {"why": explained.why}
