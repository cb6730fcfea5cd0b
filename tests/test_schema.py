"""graph.toml: what it says is what the schema holds; a mistake is named with its key and what would be right."""

import re
import tomllib
from itertools import combinations

import msgspec
import pytest
from conftest import REPOSITORY
from worlds import WORLD, random_model, world

from pipeline.errors import SchemaError
from pipeline.schema import Schema, load_schema, parse_schema
from pipeline.sections import (
    Arrivals,
    Events,
    Labels,
    Log1p,
    Nodes,
    Numeric,
    OneHot,
    Relation,
    Time,
    TopicWords,
    Vector,
    Weekday,
)

LEAST = """
name = "least"
[features.day]
kind = "weekday"
[relations.user]
group_by = ["user"]
"""
SHIPPED = sorted((REPOSITORY / "deploy" / "schemas").glob("*.toml"))
SHIPPED_REVIEWS = REPOSITORY / "deploy" / "schemas" / "reviews.toml"


def parse(text: str) -> Schema:
    return parse_schema(tomllib.loads(text), "graph.toml")


# ---- what it holds ----


def test_the_least_schema_has_a_feature_and_a_relation():
    schema = parse(LEAST)
    assert schema.features == {"day": Weekday()}
    assert schema.relations == {"user": Relation(group_by=["user"])}
    assert (schema.ttl, schema.max_ahead, schema.half_lives) == (float("inf"), 86_400.0, [float("inf")])
    assert schema.ts_range == (631_152_000.0, 4_102_444_800.0)
    assert schema.nodes.target


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_schemas_are_sound_and_named_after_their_files(path):
    assert load_schema(path).name == path.stem


def test_the_schema_of_reviews_shows_every_key_and_what_it_shows_in_comments_is_sound():
    text = re.sub(r"^# (?=\[|\w+ = )", "", SHIPPED_REVIEWS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    schema = parse(text)
    assert (schema.of_topic("verdicts").path("label"), schema.time.missing) == ("outcome", "log")
    sections = (Events, TopicWords, Time, Nodes, Arrivals, Labels, Numeric, Log1p, OneHot, Vector, Relation)
    keys = {name for section in sections for name in section.__struct_fields__}
    shown = set(re.findall(r"^(\w+) = ", text, re.MULTILINE)) | set(re.findall(r"^\[\w+\.(\w+)", text, re.MULTILINE))
    assert keys <= shown


def test_every_kind_of_feature_has_its_channels_in_the_order_of_the_file():
    schema = world()
    assert [type(feature) for feature in schema.features.values()] == [OneHot, Numeric, Log1p, Vector, Weekday]
    assert schema.own_channels == [
        "stars=1", "stars=2", "stars=3", "rating", "amount", "embedding[0]", "embedding[1]",
        "weekday=monday", "weekday=tuesday", "weekday=wednesday", "weekday=thursday", "weekday=friday",
        "weekday=saturday", "weekday=sunday",
    ]  # fmt: skip
    assert schema.own_slices["embedding"] == slice(5, 7)
    assert [schema.own_channels[c] for c in schema.deviating] == ["rating", "amount"]


def test_the_graphs_channels_follow_kind_by_kind_and_relation_by_relation():
    names = world().channel_names[len(world().own_channels) :]
    assert names[:5] == [f"user.{n}" for n in ("count", "since_last", "arrivals_1h", "arrivals_1d", "arrivals_7d")]
    assert names[5] == "product_stars.count"
    assert names[25:29] == [f"user.{n}" for n in ("spam_share", "labelled", "spam_share_1h", "spam_share_30d")]
    assert names[45:48] == ["user.rating_deviation", "user.amount_deviation", "product_stars.rating_deviation"]
    assert len(names) == 55
    assert len(set(world().channel_names)) == len(world().channel_names)


def test_indicators_are_the_channels_that_are_0_or_1():
    schema = world()
    flagged = {name for name, flag in zip(schema.channel_names, schema.indicators, strict=True) if flag}
    assert flagged == {name for name in schema.own_channels if "=" in name}


def test_another_value_has_a_channel_of_its_own_where_the_schema_says_so():
    schema = parse(LEAST + '[features.stars]\nkind = "one_hot"\nvalues = [1, 2.5, "x", true]\nother = true')
    assert schema.own_channels[7:] == ["stars=1", "stars=2.5", "stars=x", "stars=true", "stars=other"]


def test_a_schema_is_the_same_after_its_way_through_a_checkpoint():
    for schema in (world(), *map(load_schema, SHIPPED)):
        tree = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(schema)))
        again = parse_schema(tree, "model.json")
        assert again == schema
        assert (again.fingerprint, again.layout) == (schema.fingerprint, schema.layout)


def test_the_fingerprint_changes_with_everything_and_the_layout_with_what_packed_columns_mean():
    changes = ['ttl = "{ttl}"', "values = [1, 2, 3]", 'field = "stars"', '"1h", "30d"', 'group_by = ["user"]']
    to = ['ttl = "9d"', "values = [1, 2]", 'field = "rate"', '"1h", "31d"', 'group_by = ["author"]']
    schemas = [world()]
    for change, wanted in zip(changes, to, strict=True):
        schemas.append(parse(WORLD.replace(change, wanted, 1).format(ttl="3d", half_life="10m")))
    assert len({schema.fingerprint for schema in schemas}) == 6
    assert [schema.layout == schemas[0].layout for schema in schemas] == [True, True, False, True, True, False]


def test_keys_that_came_later_change_no_fingerprint_and_no_checkpoint_that_does_not_use_them():
    """A checkpoint's version is a digest of its schema too: another one would make a scorer start from nothing."""
    assert (parse(LEAST).fingerprint, world().fingerprint) == ("16433e8f3165", "d8305cc7fcf1")
    assert random_model(world()).version == "98385fa09591"
    used = ['[time]\nmissing = "log"', '[events]\ntombstones = "ignore"', "[events.topics.a]"]
    assert len({parse(LEAST + text).fingerprint for text in ["", *used]}) == 4
    assert {parse(LEAST + text).layout for text in used} == {parse(LEAST).layout}


def test_a_topic_without_words_of_its_own_has_those_of_all():
    schema = parse(LEAST + '[events]\ntype = "kind"\n[events.topics.a]\nunit = "iso8601"\nfields = { id = "key" }')
    assert schema.topics == ["a"]
    assert schema.of_topic("b") is schema is schema.of_topic("")
    one = schema.of_topic("a")
    assert (one.events.type, one.path("id"), one.time.unit, one.time.latest) == ("kind", "key", "iso8601", "2100-01-01")
    assert (one.features, one.relations, one.topics) == (schema.features, schema.relations, [])


def test_a_date_without_an_offset_is_utc():
    times = {
        "2001-09-09": 999_993_600.0,
        "2001-09-09T02:00:00": 1_000_000_800.0,
        "2001-09-09T02:00:00+02:00": 999_993_600.0,
    }
    for text, seconds in times.items():
        assert parse(LEAST + f'[time]\nearliest = "{text}"').ts_range[0] == seconds


# ---- what is wrong with it ----

WRONG = {
    # other keys and kinds
    "[nodes]\ntarget = 1": "nodes.target: is a whole number, 1; expected true or false",
    '[nodes]\nttl = 90': "nodes.ttl: is a whole number, 90; expected a text",
    '[nodes]\ntll = "90d"': "nodes.tll: unknown key; did you mean 'ttl'?",
    '[node]\nttl = "90d"': "node: unknown key; did you mean 'nodes'?",
    "[colours]": "colours: unknown key; known are name, features, relations, events, time, nodes, arrivals, labels",
    '[relations.r]\ngroup_by = "user"': "relations.r.group_by: is a text, 'user'; expected a list",
    '[relations.r]\ngroup_by = ["user", 3]': "relations.r.group_by[1]: is a whole number, 3; expected a text",
    '[relations.r]\ngroupby = ["user"]': "relations.r.groupby: unknown key; did you mean 'group_by'?",
    '[relations.r]\nkind = "grp"': "relations.r.kind: unknown 'grp'; did you mean 'group'?",
    '[relations.r]\nkind = "edge"\nmax_neighbours = 0': "relations.r.max_neighbours: is 0, expected at least 1",
    '[relations.r]\nkind = "edge"\nmax_neighbours = 2.5':
        "relations.r.max_neighbours: is a number, 2.5; expected a whole number",
    '[relations.r.s]\ngroup_by = ["user"]':
        "relations.r.s: unknown key; known are kind, group_by, half_life, optional, directed, max_neighbours",
    '[time]\nunit = "minutes"': "time.unit: unknown 'minutes'; known are iso8601, milliseconds, seconds",
    "[time]\nearliest = 1990-01-01":
        "time.earliest: is a date or time, 1990-01-01; expected a text: put it in quotes",
    "[labels]\nprior = 2": "labels.prior: is 2, expected at most 1",
    "[labels]\nprior = nan": "labels.prior: is nan, expected at least 0",
    "[labels]\nstrength = 0": "labels.strength: is 0, expected above 0",
    "[labels]\nstrength = inf": "labels.strength: is inf, expected at most 1e+09",
    "[labels]\nspam = true": "labels.spam: is true or false, true; expected a list",
    "[labels]\nspam = [1, []]": "labels.spam[1]: is a list, []; expected a number or a text or true or false",
    "[labels]\nspam = []": "labels.spam: has 0 items, expected at least 1",
    '[labels]\nhalf_lives = "10d"': "labels.half_lives: is a text, '10d'; expected a list",
    '[events]\ndefault_type = "vertex"':
        "events.default_type: unknown 'vertex'; known are edge, label, node, retract, score",
    '[events.types]\nposted = "nod"': "events.types.posted: unknown 'nod'; did you mean 'node'?",
    '[events.types]\n"review posted" = "x"':
        'events.types."review posted": unknown \'x\'; known are edge, label, node, retract, score',
    "[events.fields]\nid = 3": "events.fields.id: is a whole number, 3; expected a text",
    '[events]\ntombstones = "keep"': "events.tombstones: unknown 'keep'; known are ignore, retract",
    '[time]\nmissing = "now"': "time.missing: unknown 'now'; known are bad, log",
    # topics
    "[events]\ntopics = ['a']": "events.topics: is a list, ['a']; expected a table",
    '[events.topics]\na = "label"': "events.topics.a: is a text, 'label'; expected a table",
    '[events.topics.a]\ndefault_type = "lable"': "events.topics.a.default_type: unknown 'lable'; did you mean 'label'?",
    '[events.topics.a]\nunit = "ms"': "events.topics.a.unit: unknown 'ms'; known are iso8601, milliseconds, seconds",
    '[events.topics.a]\ntombstones = true':
        "events.topics.a.tombstones: is true or false, true; expected one of ignore, retract",
    '[events.topics.verdicts.v2]\ndefault_type = "label"':
        "events.topics.verdicts.v2: unknown key; known are type, default_type, types, fields, tombstones, unit",
    '[events.topics."my topic"]\ndefault_type = "label"':
        'events.topics."my topic": no topic has such a name; it is 1 to 249 of a-z A-Z 0-9 . _ -',
    '[events.topics."a.b"]\nfields = { user = "author" }':
        'events.topics."a.b".fields.user: no such field; ours are id, ts, label, relation, src, dst, target, edges',
    '[events.topics.a]\nfields = { id = "review..id" }':
        "events.topics.a.fields.id: 'review..id' is no path; write field names with dots between, like 'user.id'",
    '[events.topics.a]\ntype = ""':
        "events.topics.a.type: '' is no path; write field names with dots between, like 'user.id'",
    '[events.topics.a]\nfields = { id = "user.id" }':
        "events.topics.a.fields.id: 'user.id' lies within 'user', which relations.user.group_by[0] reads as scalar",
    '[events.fields]\nid = "key"\n[events.topics.a]\nfields = { ts = "key.at" }':
        "events.topics.a.fields.ts: 'key.at' lies within 'key', which events.fields.id reads as name",
    # features
    '[features.a]\nkind = "numric"':
        "features.a.kind: unknown 'numric'; write one of numeric, log1p, one_hot, vector, weekday",
    '[features.a]\nfield = "x"': "features.a.kind: missing; write one of numeric, log1p, one_hot, vector, weekday",
    "[features.a]\nkind = 3": "features.a.kind: unknown 3; write one of numeric, log1p, one_hot, vector, weekday",
    '[features.a]\nkind = "one_hot"': "features.a.values: missing; expected a list",
    '[features.a]\nkind = "one_hot"\nvalues = []':
        "features.a.values: empty; list the values that get a channel, for example [1, 2, 3]",
    '[features.a]\nkind = "one_hot"\nvalues = [1, [2]]':
        "features.a.values[1]: is a list, [2]; expected a number or a text or true or false",
    '[features.a]\nkind = "one_hot"\nvalues = [5, 4, 5.0]':
        "features.a.values[2]: 5.0 stands there twice (5, 5.0 and '5' are one value); list each once",
    '[features.a]\nkind = "one_hot"\nvalues = [nan]':
        "features.a.values[0]: nan is no value that a message can hold; remove it",
    '[features.a]\nkind = "one_hot"\nvalues = ["other"]\nother = true':
        "features.a.other: 'other' is one of the values; rename it, or remove `other`",
    '[features.a]\nkind = "vector"': "features.a.length: missing; expected a whole number",
    '[features.a]\nkind = "vector"\nlength = 0': "features.a.length: is 0, expected at least 1",
    '[features.a]\nkind = "vector"\nlength = 70000': "features.a.length: is 70000, expected at most 65536",
    '[features.a]\nkind = "weekday"\nfield = "x"': "features.a.field: unknown key; known are kind",
    '[features.a]\nkind = "numeric"\ndefault = "0"': "features.a.default: is a text, '0'; expected a number",
    '[features.a]\nkind = "numeric"\ndefault = nan':
        "features.a.default: nan is out of range; write a number of at most 1e+30",
    '[features.a]\nkind = "numeric"\ndefault = 2e9\ndeviation = true':
        "features.a.default: 2e+09 is out of range; write a number of at most 1e+09",
    '[features.a]\nkind = "log1p"\ndefault = -1':
        "features.a.default: -1 is out of range; write a number from 0 to 1e+30",
    # durations and dates
    '[nodes]\nttl = "90 days"':
        "nodes.ttl: '90 days' is no duration: write a number and one of ms, s, m, h, d, w, like '30d'",
    '[nodes]\nttl = "0d"': "nodes.ttl: '0d' is not above zero; write for example '30d'",
    '[time]\nmax_ahead = "soon"':
        "time.max_ahead: 'soon' is no duration: write a number and one of ms, s, m, h, d, w, like '30d'",
    '[relations.r]\ngroup_by = ["user"]\nhalf_life = "0s"':
        "relations.r.half_life: '0s' is not above zero; write for example '30d'",
    '[arrivals]\nhalf_lives = ["1h", "x"]':
        "arrivals.half_lives[1]: 'x' is no duration: write a number and one of ms, s, m, h, d, w, like '30d'",
    '[labels]\nhalf_lives = ["1d", "7d", "1d"]':
        "labels.half_lives[2]: '1d' stands there twice; list each once",
    '[time]\nearliest = "yesterday"': "time.earliest: 'yesterday' is no date; write for example '1990-01-01'",
    '[time]\nlatest = "2100-13-01"': "time.latest: '2100-13-01' is no date; write for example '1990-01-01'",
    '[time]\nearliest = "2050-01-01"\nlatest = "2040-01-01"':
        "time.latest: '2040-01-01' is not after earliest, '2050-01-01'; no event could be believed",
    # sections that do not go together
    "[relations.r]": "relations.r.group_by: missing; name the fields that members share, for example ['user']",
    '[relations.r]\ngroup_by = ["user"]\nmax_neighbours = 5':
        "relations.r.max_neighbours: belongs to a relation of kind = 'edge'; remove it or set the kind",
    '[relations.r]\ngroup_by = ["user"]\ndirected = true':
        "relations.r.directed: belongs to a relation of kind = 'edge'; remove it or set the kind",
    '[relations.r]\nkind = "edge"\ngroup_by = ["user"]':
        "relations.r.group_by: belongs to a relation of kind = 'group'; remove it or set the kind",
    '[relations.r]\nkind = "edge"\noptional = true':
        "relations.r.optional: belongs to a relation of kind = 'group'; remove it or set the kind",
    '[labels]\nspam = ["bad", 1]\nnot_spam = ["good", "1"]':
        "labels.not_spam: '1' stands in spam too; a word means one of them",
    '[labels]\nspam = ["bad", "bad"]':
        "labels.spam[1]: 'bad' stands there twice (5, 5.0 and '5' are one value); list each once",
    # names and places
    '[relations.self]\ngroup_by = ["user"]': "relations.self: 'self' is the model's own branch; choose another name",
    '[features."meta.stars"]\nkind = "numeric"':
        "features.\"meta.stars\": a name is 1 to 64 letters, digits, '_' and '-'; put a path into "
        "`field` or `group_by`",
    '[relations."same user"]\ngroup_by = ["user"]':
        "relations.\"same user\": a name is 1 to 64 letters, digits, '_' and '-'",
    '[features.""]\nkind = "numeric"': "features.\"\": a name is 1 to 64 letters, digits, '_' and '-'",
    '[events.fields]\nuser = "author"':
        "events.fields.user: no such field; ours are id, ts, label, relation, src, dst, target, edges",
    '[events.fields]\nid = "review..id"':
        "events.fields.id: 'review..id' is no path; write field names with dots between, like 'user.id'",
    '[relations.r]\ngroup_by = [""]':
        "relations.r.group_by[0]: '' is no path; write field names with dots between, like 'user.id'",
    '[relations.r]\ngroup_by = ["user.id"]':
        "relations.r.group_by[0]: 'user.id' lies within 'user', which relations.user.group_by[0] reads as scalar",
    '[features.e]\nkind = "vector"\nlength = 2\nfield = "user"':
        "relations.user.group_by[0]: 'user' is read as scalar here and as vector by features.e.field; rename one",
    '[features.edges]\nkind = "numeric"':
        "features.edges.field: 'edges' is read as number here and as edges by events.fields.edges; rename one",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_named_with_its_key_and_what_would_be_right(text):
    with pytest.raises(SchemaError) as error:
        parse(LEAST + text)
    assert str(error.value) == f"graph.toml: {WRONG[text]}"


def test_a_schema_without_name_features_or_relations_says_which_is_missing():
    day, user = '[features.day]\nkind = "weekday"\n', '[relations.user]\ngroup_by = ["user"]\n'
    for text, problem in {
        "": "name: missing; expected a text",
        'name = ""': "name: is empty",
        'name = "x"\n' + user:
            "features: none given; a node needs at least one, for example [features.weekday] kind = 'weekday'",
        'name = "x"\n' + day:
            "relations: none given; a graph needs at least one, for example [relations.user] group_by = ['user']",
        'name = "x"\nfeatures = ["stars"]\n' + user: "features: is a list, ['stars']; expected a table",
        'name = "x"\nfeatures.stars = "one_hot"\n' + user: "features.stars: is a text, 'one_hot'; expected a table",
    }.items():  # fmt: skip
        with pytest.raises(SchemaError) as error:
            parse(text)
        assert str(error.value) == f"graph.toml: {problem}"


def test_a_long_value_is_shown_in_part():
    with pytest.raises(SchemaError) as error:
        parse(LEAST + f"[nodes]\nttl = '{'x' * 100}'\ntarget = '{'x' * 100}'")
    assert str(error.value) == f"graph.toml: nodes.target: is a text, '{'x' * 56}...; expected true or false"


def test_a_file_that_is_no_schema_says_so(tmp_path):
    path = tmp_path / "graph.toml"
    with pytest.raises(SchemaError) as error:
        load_schema(path)
    assert str(error.value) == (
        f"cannot read the schema {path}: [Errno 2] No such file or directory: '{path}'; examples are in deploy/schemas"
    )
    with pytest.raises(SchemaError, match=r"cannot read the schema .*Is a directory"):
        load_schema(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SchemaError, match=r"cannot read the schema .*graph.toml: 'utf-8' codec can't decode byte 0xff"):
        load_schema(path)
    path.write_text("name = reviews\n")
    with pytest.raises(SchemaError) as error:
        load_schema(path)
    assert str(error.value) == (
        f"{path} is not valid TOML: Invalid value (at line 1, column 8); examples are in deploy/schemas"
    )
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(SchemaError, match="is not valid TOML"):
        load_schema(path)


def test_no_two_places_that_nest_are_both_read():
    """A sound schema gives each place one type, so that building its decoder cannot fail."""
    for schema in (world(), *map(load_schema, SHIPPED)):
        paths = {read.path for read in schema.reads}
        assert not any(
            one.startswith(other + ".") for pair in combinations(paths, 2) for one, other in (pair, pair[::-1])
        )
