"""What the live page is told: newest spam and struck groups against a naive count, the trend, names, the document."""

import math
import random
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import START, decoded, event_sequences, joined_key, random_model, world

from pipeline.columns import split_key
from pipeline.graph import Graph
from pipeline.live.recent import NEWEST, WINDOW, Recent
from pipeline.live.status import GROUPS, Status, status
from pipeline.live.trend import MINUTES, POINTS, Trend
from pipeline.live.visible import NAME_BYTES, NAME_CHARACTERS, visible
from pipeline.memory_limit import resident_bytes
from pipeline.scorer import Scorer
from pipeline.stats import GroupStats, ServiceStats

SCHEMA = world()


def node(i, user="u", product="p", stars=1):
    return {"id": f"n{i}", "ts": START + i, "stars": stars, "user": user, "product": product, "embedding": [0, 0]}


def noted(nodes, spam, batch=7, window_of=None):
    """A shard that scored `nodes` in micro-batches, `spam` of them as spam."""
    scorer = Scorer(random_model(SCHEMA))
    recent = Recent(SCHEMA, scorer.graph)
    for start in range(0, len(nodes), batch):
        events = decoded(SCHEMA, nodes[start : start + batch])
        scored = scorer.score(events)
        verdict = np.array([spam[start + i] for i in scored.event.tolist()], np.bool_)
        recent.note(events, scored, verdict, recent.lists_of(scored.row))
    return recent


# ---- newest spam ----


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_newest_spam_comes_first_and_no_more_than_fifty(batch):
    chance = random.Random(1)
    nodes, spam = [node(i) for i in range(300)], [chance.random() < 0.4 for _ in range(300)]
    recent = noted(nodes, spam, batch)
    expected = [n["id"] for n, bad in zip(nodes, spam, strict=True) if bad][::-1][:NEWEST]
    assert [one.id for one in recent.newest] == expected
    assert len(expected) == NEWEST


def test_a_spam_score_tells_its_event_and_its_place():
    recent = noted([node(0), node(1)], [False, True])
    (one,) = recent.newest
    assert (one.id, one.ts, one.index) == ("n1", START + 1, 0)
    assert 0 <= one.score <= 1


def test_no_spam_is_no_news():
    recent = noted([node(i) for i in range(20)], [False] * 20)
    assert (recent.newest, recent.groups(10), recent.noted) == ([], [], 20)


# ---- groups ----


GROUPINGS = {"user": ("user",), "product_stars": ("product", "stars"), "product_now": ("product",)}


def naive(nodes, spam, window=WINDOW):
    """Count by relation and key in the plainest way."""
    struck, scored = Counter(), Counter()
    for one, bad in list(zip(nodes, spam, strict=True))[-window:]:
        for relation, fields in GROUPINGS.items():
            values = [one[field] for field in fields]
            if None not in values:
                key = joined_key(values)
                struck[relation, key] += bad
                scored[relation, key] += 1
    return {key: (count, scored[key]) for key, count in struck.items() if count > 1}


@pytest.mark.parametrize("batch", [1, 64])
def test_groups_are_counted_exactly(batch):
    chance = random.Random(2)
    products = ["p", "q", None]
    nodes = [node(i, f"u{i % 9}", chance.choice(products), chance.randint(1, 3)) for i in range(400)]
    spam = [chance.random() < 0.2 for _ in nodes]
    found = {(g.relation, g.key): (g.spam, g.scored) for g in noted(nodes, spam, batch).groups(100)}
    assert found == naive(nodes, spam)
    assert len(found) > 10


@pytest.mark.parametrize("batch", [512, 2 * WINDOW + 1])
def test_only_the_newest_scores_are_counted(batch):
    count = 2 * WINDOW + 1
    nodes = [node(i, user=f"u{i // 1000}") for i in range(count)]
    spam = [i % 2 == 0 for i in range(count)]
    found = {(g.relation, g.key): (g.spam, g.scored) for g in noted(nodes, spam, batch).groups(100)}
    assert found == naive(nodes, spam)
    assert ("user", "u0") not in found


def test_groups_that_are_spam_and_little_else_come_first():
    nodes = [node(i, user="crew" if i % 10 == 0 else "crowd", product=None) for i in range(100)]
    spam = [i % 10 == 0 or i % 7 == 0 for i in range(100)]
    crew, crowd = noted(nodes, spam).groups(10)
    assert (crew.key, crew.spam, crew.scored) == ("crew", 10, 10)
    assert (crowd.key, crowd.scored) == ("crowd", 90)
    assert crowd.spam > crew.spam


def test_relations_of_the_same_fields_are_told_once():
    twice = msgspec.structs.replace(SCHEMA, relations={**SCHEMA.relations, "again": SCHEMA.relations["user"]})
    relations = [one.name for one in Recent(twice, Graph(twice))._groupings]
    assert relations == ["user", "product_stars", "product_now"]


def test_a_group_whose_list_is_forgotten_is_left_out():
    scorer = Scorer(random_model(SCHEMA))
    recent = Recent(SCHEMA, scorer.graph)
    gone = [{"type": "retract", "id": f"n{i}"} for i in range(3)]
    for lines in ([node(i, user="gone", product=None) for i in range(3)], gone, [node(9, user="new")]):
        events = decoded(SCHEMA, lines)
        scored = scorer.score(events)
        recent.note(events, scored, np.ones(len(scored.score), np.bool_), recent.lists_of(scored.row))
    assert "gone" not in [group.key for group in recent.groups(10)]


def test_score_events_count_for_the_groups_of_their_node():
    again = [{"type": "score", "id": "n0", "ts": START + 5}] * 2
    recent = noted([node(0), *again], [False, True, True])
    assert ("user", "u", 2, 3) in [(g.relation, g.key, g.spam, g.scored) for g in recent.groups(10)]


@settings(max_examples=20)  # each is scored for real
@given(event_sequences(), st.integers(1, 20))
def test_whatever_the_events_nothing_is_made_up(events, batch):
    scorer, scores = Scorer(random_model(SCHEMA)), 0
    recent = Recent(SCHEMA, scorer.graph)
    for start in range(0, len(events), batch):
        some = decoded(SCHEMA, events[start : start + batch])
        scored = scorer.score(some)
        scores += len(scored.score)
        recent.note(some, scored, np.ones(len(scored.score), np.bool_), recent.lists_of(scored.row))
    assert recent.noted == scores
    assert {one.id for one in recent.newest} <= {event["id"] for event in events if "id" in event}
    for group in recent.groups(100):
        assert group.spam == group.scored <= scores


@given(st.lists(st.lists(st.text("ab\x1e\x1f01", max_size=4), min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_joined_key_is_split_into_what_it_was_joined_of(rows):
    for row in rows:
        assert split_key(joined_key(row), 2) == row


# ---- the trend ----


def counted(scores, spam=0, latency=0.01):
    stats = ServiceStats()
    stats.count_events("node", "applied", 2 * scores)
    stats.scores, stats.spam = scores, spam
    stats.score_latency.observe(np.full(scores, latency))
    return stats


def test_a_look_tells_what_happened_since_the_one_before():
    trend = Trend(began=1000.0)
    trend.look(counted(100), 1005.0)
    later = counted(100)
    later.add_counts(counted(50, latency=0.2))
    trend.look(later, 1010.0)
    first, second = trend.points
    assert (first.at, first.scores_per_s, first.events_per_s) == (1005.0, 20.0, 40.0)
    assert (second.scores_per_s, second.events_per_s) == (10.0, 20.0)
    assert first.latency == pytest.approx((0.01,) * 3, rel=0.02)
    assert second.latency == pytest.approx((0.2,) * 3, rel=0.02)
    assert trend.latency() == pytest.approx((0.01, 0.2, 0.2), rel=0.02)


def test_where_nothing_is_scored_no_latency_is_made_up():
    trend = Trend(began=1000.0)
    assert all(map(math.isnan, trend.latency()))
    trend.look(counted(0), 1005.0)
    assert trend.points[0].scores_per_s == 0
    assert all(map(math.isnan, trend.points[0].latency))


def test_the_latency_of_the_last_minute_forgets_the_one_before():
    trend, counts = Trend(began=0.0), ServiceStats()
    for look in range(1, 40):
        counts = counts_and(counts, counted(10, latency=0.5 if look <= 20 else 0.001))
        trend.look(counts, 5.0 * look)
    assert trend.latency() == pytest.approx((0.001,) * 3, rel=0.02)


def counts_and(counts, more):
    total = ServiceStats()
    total.add_counts(counts)
    total.add_counts(more)
    return total


def test_minutes_are_those_of_the_clock_and_an_hour_of_them():
    trend, counts = Trend(began=0.0), ServiceStats()
    for look in range(1, 2 * 60 * 12):
        counts = counts_and(counts, counted(10, spam=look % 2))
        trend.look(counts, 5.0 * look)
    assert len(trend.minutes) == MINUTES
    assert len(trend.points) == POINTS
    assert [one.minute for one in trend.minutes] == list(range(60, 120))
    assert {(one.scores, one.spam) for one in trend.minutes} == {(120, 6)}


def test_a_clock_that_is_set_back_loses_a_look_and_no_count():
    trend = Trend(began=1000.0)
    trend.look(counted(10), 900.0)
    trend.look(counted(20), 905.0)
    assert [(point.at, point.scores_per_s) for point in trend.points] == [(905.0, 4.0)]


# ---- names ----


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("u17", "u17"),
        ("Ünïcode 名前 مرحبا 🎉", "Ünïcode 名前 مرحبا 🎉"),
        ("user\u202egnp.exe", "user‹U+202E›gnp.exe"),
        ("pay\u200bpal\ufeff", "pay‹U+200B›pal‹U+FEFF›"),
        ("a\x00b\nc\x1b[31m", "a‹U+0000›b‹U+000A›c‹U+001B›[31m"),
        ("no\u00a0break", "no‹U+00A0›break"),
        ("\U000e0041\U0010ffff", "‹U+E0041›‹U+10FFFF›"),
        ("w" * NAME_CHARACTERS, "w" * NAME_CHARACTERS),
        ("w" * 10_000, "w" * NAME_CHARACTERS + "…"),
        ("<script>", "<script>"),  # escaped where it is shown, and not here, too
    ],
)
def test_what_cannot_be_seen_is_shown_as_its_number(name, shown):
    assert visible(name) == shown


@given(st.text(max_size=200))
def test_a_shown_name_is_short(name):
    assert len(visible(name).encode()) <= NAME_BYTES


# ---- the document ----


def test_the_document_tells_what_is_known_and_null_for_the_rest():
    stats = GroupStats("3f2a", "re\u202eviews", (), 0.5)
    stats.begin(0).log_end = 600
    stats.begin(7).state = "lost"
    found = as_json(status(stats, Trend(began=1000.0), True, False, 1060.0))
    assert (found["model"], found["schema"]) == ("3f2a", "re‹U+202E›views")
    assert (found["began"], found["now"], found["healthy"], found["ready"]) == (1000.0, 1060.0, True, False)
    restoring, lost = found["partitions"]
    assert (restoring["state"], restoring["lag_messages"], restoring["event_time"]) == ("restoring", 600, None)
    assert (lost["state"], lost["position"], lost["lag_messages"]) == ("lost", None, None)
    assert found["latency_seconds"] == [None, None, None]
    assert found["points"]["at"] == found["newest_spam"] == found["groups"] == []


def as_json(document):
    return msgspec.json.decode(msgspec.json.encode(document))


def test_of_several_partitions_the_newest_and_the_busiest_are_shown_and_where_they_are():
    stats = GroupStats("3f2a", "reviews", (), 0.5)
    for partition, users in ((0, "abcdefgh"), (3, "stuvwxyz")):
        nodes = [node(i + 1000 * (partition == 3), user=users[i % 8], product=None) for i in range(80)]
        shard = stats.begin(partition)
        shard.state, shard.recent = "live", noted(nodes, [True] * 80)
    found = status(stats, Trend(began=0.0), True, True, 60.0)
    assert [one.partition for one in found.newest_spam] == [3] * NEWEST
    assert found.newest_spam[0].id == "n1079"
    assert len(found.groups) == GROUPS
    assert {one.partition for one in found.groups} == {0, 3}
    assert found.groups[0].key == [("user", "a")]
    assert found.window_scores == 80


def test_the_document_is_bounded_whatever_the_names():
    worst = "\U0010ffff" * 1024
    stats = GroupStats("3f2a", worst, (), 0.5)
    nodes = [node(i, user=f"{i % 40}{worst}"[:1024], product=worst[:1000]) for i in range(400)]
    nodes = [{**one, "id": f"{i}{worst}"[:1024]} for i, one in enumerate(nodes)]
    shard = stats.begin(0)
    shard.state, shard.recent = "live", noted(nodes, [True] * 400, batch=400)
    found = status(stats, Trend(began=0.0), True, True, 60.0)
    assert (len(found.newest_spam), len(found.groups)) == (NEWEST, GROUPS)
    assert len(msgspec.json.encode(found)) < 100_000


def test_the_process_knows_its_memory():
    assert resident_bytes() > 10e6


def test_the_document_is_of_plain_values():
    assert set(as_json(status(GroupStats(), Trend(0.0), True, True, 0.0))) == set(Status.__struct_fields__)
