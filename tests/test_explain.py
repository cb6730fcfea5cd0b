"""Why a score is what it is: the split is exact, equals a slow twin's, and rests on what was known then alone."""

import contextlib
import itertools
import json
import math
from functools import cache

import msgspec
import numpy as np
import pytest
from fakes import FakeClock, ListLog
from hypothesis import given, settings
from hypothesis import strategies as st
from published import read, serve
from worlds import START, decoded, event_sequences, random_model, records, world

from pipeline.config import Config
from pipeline.errors import ConfigError, LogError
from pipeline.explain import PARTS, Explainer, Seen
from pipeline.explained import Explanation, explanation
from pipeline.explained_text import lines, relation_words
from pipeline.graph_state import NEVER
from pipeline.log import Message, Record
from pipeline.messages import PACKED_SCORES
from pipeline.retrace import Moment, find_moment
from pipeline.schema import parse_schema
from pipeline.scorer import Scorer
from pipeline.snapshot_store import SnapshotStore, open_store
from pipeline.twin import Twin

RELATIONS = world().relation_names


def log_of(events: list[dict]) -> ListLog:
    log = ListLog(FakeClock(START + 1e8))  # no event is ahead of it
    log.append("events", [Message(msgspec.json.encode(event)) for event in events])
    return log


def moment_of(model, events: list[dict], name: str, position: int | None = None, **more) -> Moment:
    return find_moment(model, log_of(events), "g", "events", name, position, **more)


def explained(model, events: list[dict], name: str, position: int | None = None, **more) -> Explanation:
    return explanation(model, moment_of(model, events, name, position, **more))


def random_seen(model, count: int, seed: int = 0) -> Seen:
    """What targets might read, all of it at random."""
    rng = np.random.default_rng(seed)
    relations, inputs, hidden = len(model.schema.relations), len(model.input_keep), model.layers[0].width
    shapes = [(count, inputs), (count, relations, inputs)]
    x, means = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return Seen(np.zeros((count, 0), np.float32), x, means, rng.random((count, relations, hidden)).astype(np.float32))


def logit_of(model, seen: Seen) -> np.ndarray:
    h = model.layers[0].forward(seen.x, seen.means)
    return model.logits(model.layers[1].forward(h, seen.hidden_means))


# ---- the slow twin: plain Python, float64, all orders in which knowledge can come in ----


def twin_logit(model, seen: Seen, known: frozenset) -> float:
    """The logit where only the sources in `known` are: "self", or a relation with one of its parts."""
    schema, x = model.schema, []
    for k, c in enumerate(model.input_keep.tolist()):
        name = schema.channel_names[c]
        if c < len(schema.own_channels):
            source, start = "self", 0.0
        else:
            relation, _, what = name.partition(".")
            part = "arrivals" if what in ("count", "since_last") or what.startswith("arrivals_") else "labels"
            part = "deviation" if what.endswith("_deviation") else part
            raw = {"since_last": math.log1p(NEVER)}.get(what, schema.labels.prior if "share" in what else 0.0)
            knots = slice(model.transform.start[c], model.transform.start[c + 1])
            source, start = (relation, part), np.interp(raw, model.transform.x[knots], model.transform.z[knots])
        x.append(float(seen.x[0, k]) if source in known else float(start))
    there = [(name, "members") in known for name in schema.relation_names]
    h = twin_layer(
        model.layers[0], x, [m.tolist() if t else [0.0] * len(x) for m, t in zip(seen.means[0], there, strict=True)]
    )
    of_h = [m.tolist() if t else [0.0] * len(h) for m, t in zip(seen.hidden_means[0], there, strict=True)]
    h2 = twin_layer(model.layers[1], h, of_h)
    return sum(a * b for a, b in zip(h2, model.weight.tolist(), strict=True)) + model.bias


def twin_layer(layer, own, means):
    out = []
    for branch, values in zip(layer.branches, [own, *means], strict=True):
        for o in range(len(branch.bias)):
            total = sum(values[c] * float(branch.weight[k, o]) for k, c in enumerate(branch.keep.tolist()))
            out.append(max(0.0, total + float(branch.bias[o])))
    return out


def twin_split(model, seen: Seen) -> tuple[list[float], dict[str, list[float]]]:
    """Contributions of the players, and of each relation's parts: means over all orders, one step after the other."""
    names = model.schema.relation_names
    players = [("self",), *(tuple((name, part) for part in PARTS) for name in names)]
    logit = cache(lambda known: twin_logit(model, seen, known))
    added, parts = [0.0] * len(players), {name: [0.0] * len(PARTS) for name in names}
    orders = list(itertools.permutations(range(len(players))))
    for order in orders:
        known = frozenset()
        for player in order:
            more = known | frozenset(players[player])
            added[player] += (logit(more) - logit(known)) / len(orders)
            if player:
                _add_parts(parts[names[player - 1]], players[player], known, logit, len(orders))
            known = more
    return added, parts


def _add_parts(parts, sources, known, logit, orders):
    ways = list(itertools.permutations(range(len(sources))))
    for way in ways:
        so_far = known
        for p in way:
            parts[p] += (logit(so_far | {sources[p]}) - logit(so_far)) / len(ways) / orders
            so_far = so_far | {sources[p]}


SMALL = {
    "name": "small",
    "features": {"rating": {"kind": "numeric", "deviation": True}, "weekday": {"kind": "weekday"}},
    "labels": {"half_lives": ["1h"]},
    "relations": {"user": {"group_by": ["user"]}, "friend": {"kind": "edge"}},
}


@pytest.mark.parametrize(("seed", "pruned"), [(0, False), (1, True), (2, False), (3, True)])
def test_the_split_equals_that_of_the_slow_twin(seed, pruned):
    model = random_model(parse_schema(SMALL, "small"), seed, pruned=pruned)
    seen = random_seen(model, 1, seed)
    added, parts = twin_split(model, seen)
    explainer = Explainer(model)
    assert explainer.players == ["self", "user", "friend"]
    np.testing.assert_allclose(explainer.contributions(seen)[0], added, atol=1e-5)
    np.testing.assert_allclose(explainer.parts(seen)[0], list(parts.values()), atol=1e-5)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25)
def test_contributions_add_up_to_the_score_and_parts_to_contributions(seed, pruned):
    model = random_model(world(), seed, pruned=pruned)
    seen, explainer = random_seen(model, 7, seed), Explainer(model)
    nothing = np.zeros((1, 1 + len(RELATIONS) * len(PARTS)), np.bool_)
    added, start = explainer.contributions(seen), explainer.logits(seen, nothing)[:, 0]
    np.testing.assert_allclose(start + added.sum(axis=1), logit_of(model, seen), atol=1e-4)
    np.testing.assert_allclose(explainer.parts(seen).sum(axis=2), added[:, 1:], atol=1e-4)
    assert np.ptp(start) < 1e-5  # where nothing is known, all events are alike


def test_many_targets_at_once_are_split_as_each_alone():
    model = random_model(world(), seed=5)
    seen, explainer = random_seen(model, 150), Explainer(model)
    alone = [explainer.contributions(seen.take(slice(b, b + 1)))[0] for b in (0, 77, 149)]
    np.testing.assert_allclose(explainer.contributions(seen)[[0, 77, 149]], alone, atol=1e-5)


def test_only_spam_is_explained_while_serving():
    model = random_model(world(), seed=5)
    seen = random_seen(model, 40)
    h = model.layers[0].forward(seen.x, seen.means)
    score = model.classify(model.layers[1].forward(h, seen.hidden_means))
    model.threshold = float(np.median(score))
    explainer = Explainer(model)
    why = explainer.of_spam(seen, score)
    spam = score.astype(np.float64) >= model.threshold
    assert 0 < spam.sum() < 40
    np.testing.assert_array_equal(np.isnan(why).all(axis=1), ~spam)
    np.testing.assert_allclose(why[spam], explainer.contributions(seen)[spam], atol=1e-5)


def test_a_schema_of_too_many_relations_is_refused():
    tree = {**SMALL, "relations": {f"r{i}": {"group_by": ["user"]} for i in range(13)}}
    with pytest.raises(ConfigError, match="split over at most 12 relations, the schema has 13"):
        Explainer(random_model(parse_schema(tree, "many")))


# ---- the moment: what the node read, and nothing later ----


@given(event_sequences(), st.integers(0, 3))
@settings(max_examples=20)
def test_every_score_is_explained_as_it_was_published_with_the_lists_that_the_slow_twin_holds(events, seed):
    model = random_model(world(), seed)
    batch = decoded(model.schema, events)
    scored = Scorer(model).score(batch)
    if not len(scored.score):
        return
    pick = seed % len(scored.score)
    position, name = int(scored.event[pick]), batch.id[scored.event[pick]]
    moment = moment_of(model, events, name, position)
    told = explanation(model, moment)
    assert told.score == pytest.approx(float(scored.score[pick]), abs=1e-6)
    assert told.start_logit + sum(added for _, added in told.why) == pytest.approx(told.logit, abs=1e-4)
    twin = Twin(model)
    list(twin.run(batch.part(0, position + 1)))
    for one, then, (about, own_list, _) in zip(told.relations, moment.lists, twin._lists_of(name), strict=True):
        check_list(one, then, twin, name, own_list)
        if about.kind == "group" and then.key is not None:
            assert then.key == own_list[2]


def check_list(one, then, twin, name, own_list):
    arcs = twin.graph.in_edges(own_list, data="number") if twin.graph.has_node(own_list) else []
    there = [(number, m) for (_, m), _, number in arcs if m != name and twin.nodes[m].live]
    expected = [member for _, member in sorted(there, reverse=True)]
    assert then.ids == expected
    labels = [twin.nodes[member].label for member in expected]
    assert [None if label < 0 else label for label in then.label.tolist()] == labels
    known = [label for label in labels if label is not None]
    assert (one.count, one.labelled, one.spam) == (len(expected), len(known), sum(known))
    if not expected:
        # Arrivals may outlast the members.
        assert all(abs(part) < 1e-5 for p, part in one.parts.items() if p != "arrivals")


CAMPAIGN = [
    {"id": "a", "ts": START, "stars": 1, "user": "u", "product": "p", "embedding": [0, 0], "amount": 10},
    {"id": "b", "ts": START + 60, "stars": 3, "user": "v", "product": "p", "embedding": [0, 0], "amount": 10},
    {"type": "label", "id": "a", "label": 1, "ts": START + 90},
    {"id": "c", "ts": START + 3600, "stars": 3, "user": "u", "product": "p", "embedding": [1, 2], "amount": 99},
    {"type": "label", "id": "b", "label": 0, "ts": START + 4000},
    {"id": "d", "ts": START + 5000, "stars": 3, "user": "v", "product": "p", "embedding": [1, 2]},
    {"type": "score", "id": "c", "ts": START + 6000},
]


def test_an_explanation_tells_what_was_known_then_in_raw_units():
    told = explained(random_model(world()), CAMPAIGN, "c", position=3)
    user, _, product_now, friend, _ = told.relations
    assert (told.event, told.ts, told.position) == ("node", START + 3600, 3)
    assert told.own == {"stars": "3", "rating": 3.0, "amount": 99.0, "embedding": [1.0, 2.0], "weekday": "sunday"}
    assert (user.fields, user.count, user.labelled, user.spam) == ({"user": "u"}, 1, 1, 1)
    assert user.since_last_seconds == pytest.approx(3600, rel=1e-5)
    assert user.within == {"1h": 1, "1d": 1, "7d": 1}
    assert user.deviation["rating"] == pytest.approx(2.0)
    assert math.exp(user.deviation["amount"]) == pytest.approx(100 / 11, rel=1e-5)
    assert (product_now.count, product_now.labelled) == (2, 1)
    assert [(m.id, m.age_seconds, m.label) for m in product_now.members] == [("b", 3540.0, None), ("a", 3600.0, 1)]
    published = Scorer(random_model(world())).score(decoded(world(), CAMPAIGN)).score
    assert [m.score for m in product_now.members] == pytest.approx([published[1], published[0]], abs=1e-6)
    assert (friend.kind, friend.fields, friend.count, friend.since_last_seconds) == ("edge", None, 0, None)
    assert [friend.contribution, *friend.parts.values()] == pytest.approx([0.0] * 5, abs=1e-5)


def test_without_a_position_the_last_score_is_explained():
    told = explained(random_model(world()), CAMPAIGN, "c")
    assert (told.event, told.position, told.relations[2].count) == ("score", 6, 3)
    assert told.own["stars"] == "3"  # as its own event said


def test_the_mean_of_the_members_scores_weighs_them_as_the_model_does():
    told = explained(random_model(world(half_life="10m")), CAMPAIGN, "c", position=3)
    newer, older = (m.score for m in told.relations[2].members)
    assert told.relations[2].mean_score == pytest.approx((newer + older * 2**-0.1) / (1 + 2**-0.1), abs=1e-6)


@pytest.fixture
def store(tmp_path):
    """A model's snapshots at positions 2 and 5 of the campaign, and a newer one of another model."""
    model, store = random_model(world()), open_store(str(tmp_path), "", keep=5)
    for position in (2, 5):
        scorer = Scorer(model)
        scorer.score(decoded(world(), CAMPAIGN[:position]))
        store.write(position, model.version, scorer.export(), now=0.0)
    store.write(6, "another", {"graph.rows": np.zeros(1)}, now=0.0)
    yield store
    store.close()


def test_a_snapshot_before_the_event_spares_the_replay_and_changes_nothing(store):
    model = random_model(world())
    whole, short = (explained(model, CAMPAIGN, "d", store=one) for one in (None, store))
    assert short.score == pytest.approx(whole.score, abs=1e-6)
    assert short.relations[0].spam == whole.relations[0].spam == 0
    assert [m.score for m in short.relations[2].members] == [None, None, None]  # they were scored before it
    np.testing.assert_allclose([a for _, a in short.why], [a for _, a in whole.why], atol=1e-5)


def test_a_snapshot_after_the_event_is_no_place_to_begin(store):
    model = random_model(world())
    assert explained(model, CAMPAIGN, "b", store=store).position == 1  # its only score lies before both snapshots
    assert explained(model, CAMPAIGN, "c", 3, store=store).relations[2].labelled == 1


def test_what_an_event_before_the_snapshot_said_is_not_made_up(store):
    told = explained(random_model(world()), CAMPAIGN, "c", store=store)
    assert (told.event, told.own) == ("score", None)
    assert any("lies before the snapshot" in line for line in lines(told, world()))


def test_a_damaged_snapshot_is_named_and_passed_over(store, tmp_path):
    (newest,) = tmp_path.glob("snapshot-*000005*")
    (newest / "graph.rows.npy").write_bytes(b"gone")
    said = []
    told = explained(random_model(world()), CAMPAIGN, "d", store=SnapshotStore(store.files), say=said.append)
    assert told.position == 5
    assert len(said) == 1 and "graph.rows.npy" in said[0]


@pytest.mark.parametrize(
    ("name", "position", "said"),
    [
        ("nobody", None, "no event of node 'nobody' in topic 'events': see how it is spelt"),
        ("d", 4, "no event of node 'd' in topic 'events' up to position 4"),
        ("c", 4, "position 4 of topic 'events' holds no event that scored node 'c': name the position of one of"),
        ("quiet", None, "node 'quiet' was never scored: its events are no targets; a `score` event asks for one"),
        ("late", None, "node 'late' was never scored: its events are duplicates, or older than the ttl"),
    ],
)
def test_who_was_never_scored_is_told_why(name, position, said):
    quiet = {**CAMPAIGN[0], "id": "quiet", "ts": START + 7000, "target": False}
    late = {**CAMPAIGN[0], "id": "late", "ts": START - 30 * 86400}
    with pytest.raises(LogError, match=said.replace("asks for one", "asks for a score")):
        moment_of(random_model(world()), [*CAMPAIGN, quiet, late], name, position)


# ---- words ----


def test_the_words_say_what_the_numbers_say():
    told = explained(random_model(world()), CAMPAIGN, "c", position=3)
    text = " ".join(" ".join(lines(told, world())).split())
    assert f"c is {'' if told.is_spam else 'not '}spam: score {told.score:.2f}" in text
    assert "user: others with user u" in text
    assert "the one that is judged is spam" in text
    assert "1 other: 1 within 1 hour; the last one 1 hour before" in text
    assert "rating 2 above theirs, amount 9.1 times theirs" in text
    assert "friend: the nodes that edges of this kind lead to" in text
    assert "none before it" in text
    assert f"together: score {told.score:.2f}" in text


def test_the_largest_contribution_comes_first_and_all_are_there():
    told = explained(random_model(world()), CAMPAIGN, "d")
    sizes = [abs(added) for _, added in told.why]
    assert sizes == sorted(sizes, reverse=True)
    assert {name for name, _ in told.why} == {"self", *RELATIONS}


def test_a_group_that_the_event_does_not_name_is_told_as_such():
    events = [{**CAMPAIGN[0], "product": None}]
    told = explained(random_model(world()), events, "a")
    assert told.relations[1].fields is None
    assert relation_words(told.relations[1], world()) == "product_stars: the event names no product and stars"


def test_hostile_names_are_made_visible():
    events = [{**CAMPAIGN[0], "id": "\x1b[31ma", "user": "x\x1b]0;title\x07"}]
    text = "\n".join(lines(explained(random_model(world()), events, "\x1b[31ma"), world()))
    assert "\x1b" not in text and "‹U+001B›[31ma" in text


def test_the_drawing_is_a_picture_with_room_for_every_relation(tmp_path):
    from pipeline.explained_drawing import draw

    for count in (1, 6):
        events = [
            {**CAMPAIGN[i % 2], "id": f"n{i}", "ts": START + i, "edges": [["friend", "n0"]]} for i in range(count)
        ]
        data = draw(explained(random_model(world()), events, f"n{count - 1}"), tmp_path / "n.png").read_bytes()
        width, height = np.frombuffer(data[16:24], ">u4").tolist()
        assert data.startswith(b"\x89PNG") and width > 1200 and height > 700


# ---- in score messages ----


@pytest.fixture
def torn():
    """A model to which some of the campaign is spam."""
    model = random_model(world())
    scores = Scorer(model).score(decoded(world(), CAMPAIGN)).score
    model.threshold = float(np.median(scores.astype(np.float64)))
    return model


def published(tmp_path, model, events, explain: bool, form="single") -> list[Record]:
    log = log_of(events)
    serve(model, log, tmp_path / f"{explain}-{form}", form, explain=explain)
    return log.topics["scores"]


@pytest.mark.parametrize("form", ["single", "packed"])
def test_spam_says_why_and_the_rest_is_as_without(tmp_path, torn, form):
    before = published(tmp_path, torn, CAMPAIGN, False, form)
    after = published(tmp_path, torn, CAMPAIGN, True, form)
    plain, told = (read([Message(*record[1:4]) for record in some]) for some in (before, after))
    assert [msgspec.structs.replace(score, why=msgspec.UNSET) for score in told] == plain
    assert {score.is_spam for score in told} == {True, False}
    for score in told:
        if not score.is_spam:
            assert score.why is msgspec.UNSET
            continue
        expected = explained(torn, CAMPAIGN, score.id, score.position)
        assert dict(score.why) == pytest.approx(dict(expected.why), abs=1e-3)
        sizes = [abs(added) for _, added in score.why]
        assert sizes == sorted(sizes, reverse=True)
        total = expected.start_logit + sum(added for _, added in score.why)
        assert 1 / (1 + math.exp(-total)) == pytest.approx(score.score, abs=1e-3)


def test_both_forms_give_the_same_reasons(tmp_path, torn):
    forms = [published(tmp_path, torn, CAMPAIGN, True, form) for form in ("single", "packed")]
    single, packed = (read([Message(*record[1:4]) for record in some]) for some in forms)
    assert single == packed


@pytest.mark.parametrize("form", ["single", "packed"])
def test_without_the_knob_no_byte_of_a_message_tells_of_it(tmp_path, torn, form):
    assert not Config().scores.explain
    for record in published(tmp_path, torn, CAMPAIGN, False, form):
        assert b"why" not in record.value and b"players" not in record.value


def test_a_score_that_is_no_spam_has_the_very_bytes_of_one_without_the_knob(tmp_path, torn):
    before, after = (published(tmp_path, torn, CAMPAIGN, explain) for explain in (False, True))
    for one, other in zip(before, after, strict=True):
        assert (one.value == other.value) is not json.loads(one.value)["is_spam"]


@pytest.mark.parametrize("change", [{"why": b"\0" * 4}, {"why": b"\0" * 7}, {"players": ["self"]}], ids=repr)
def test_reasons_that_do_not_fit_are_no_scores(tmp_path, torn, change):
    from pipeline.messages import ScoreReader

    (record, *_) = published(tmp_path, torn, CAMPAIGN, True, "packed")
    assert record.content_type == PACKED_SCORES
    fields = msgspec.msgpack.decode(record.value) | change
    reader = ScoreReader()
    assert list(reader.read([record._replace(value=msgspec.msgpack.encode(fields))])) == []
    assert reader.unreadable == 1


# ---- the command ----


@pytest.fixture
def served(tmp_path):
    """A folder with a model, a log of the campaign, and the arguments that name them."""
    from pipeline.sqlite_log import SqliteLog

    random_model(world()).save(tmp_path / "model")
    with contextlib.closing(SqliteLog(tmp_path / "log.db")) as log:
        log.append("events", [Message(record.value) for record in records(CAMPAIGN)])
    return ["--model", str(tmp_path / "model"), "--log", f"sqlite:{tmp_path / 'log.db'}"]


def test_the_command_tells_all_as_json_and_draws(served, tmp_path, capsys):
    from pipeline.cli import main

    assert main(["explain", *served, "--id", "c", "--position", "3", "--out", str(tmp_path / "c.png"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report["id"], report["position"], report["picture"]] == ["c", 3, str(tmp_path / "c.png")]
    assert report["why"][0][1] in {report["own_contribution"], *(one["contribution"] for one in report["relations"])}
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--id", "zzz"], "no event of node 'zzz'"),
        (["--id", "c", "--out", "c.jpg"], "--out c.jpg: expected a name that ends in .png"),
        (["--id", "c", "--state", "nowhere"], "the snapshots in nowhere cannot be listed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(served, capsys, words, said):
    from pipeline.cli import main

    assert main(["explain", *served, *words]) == 2
    assert said in capsys.readouterr().err
