"""The family `detector`: a variant each, judged on both parts, on a small stream."""

from pathlib import Path

import msgspec
import pytest

from pipeline.errors import SchemaError
from pipeline.experiments.detector import family
from pipeline.experiments.detector.refresh import judge_nodes_alone, refreshed
from pipeline.experiments.evaluate import evaluate, load_settings
from pipeline.experiments.page import Results
from pipeline.experiments.recordings import SCHEMAS, as_records, open_recording
from pipeline.experiments.summary import select
from pipeline.history import History
from pipeline.schema import load_schema

EXPERIMENT = Path(__file__).parents[1] / "experiments/detector.toml"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    _, settings = load_settings(EXPERIMENT, quick=True)
    settings = msgspec.structs.replace(settings, seeds={"synthetic": 1})
    folder = tmp_path_factory.mktemp("detector")
    return evaluate("detector", family, settings, folder, folder, "graphsieve evaluate experiments/detector.toml")


def test_every_variant_is_judged_on_both_parts(results):
    variants = {row.key["variant"] for row in results.rows}
    assert variants == {"default", "one network of 16", family.LAYER_1, family.BY_ITSELF}
    for variant in variants:
        parts = select(results.rows, variant=variant)
        assert [row.key["part"] for row in parts] == ["validation", "test"]
        assert all(0.5 < row.figures["auroc"].mean <= 1 for row in parts)


def test_variants_differ(results):
    assert len({row.figures["auroc"].mean for row in select(results.rows, part="test")}) > 1


def test_the_table_has_a_line_a_variant(results):
    (table,) = family.tables(results)
    assert [line[0] for line in table.cells][0] == "default"
    assert all(len(line) == len(table.header) for line in table.cells)


def test_a_schema_is_overlaid_key_by_key():
    schema = load_schema(SCHEMAS / "reviews.toml")
    more = family.overlaid(schema, {"relations": {"stars": {"group_by": ["stars"]}}})
    assert more.relation_names == [*schema.relation_names, "stars"]
    assert family.overlaid(schema, {}) == schema
    with pytest.raises(SchemaError, match="a variant"):
        family.overlaid(schema, {"relations": {"stars": {"group_by": []}}})


def test_the_experiments_variants_are_all_read():
    _, settings = load_settings(EXPERIMENT)
    assert next(iter(settings.variants)) == family.DEFAULT
    assert len(settings.variants) > 10
    about = [job.about for job in family.jobs(settings)]
    assert all(one not in about[:i] for i, one in enumerate(about))
    schema = load_schema(SCHEMAS / "reviews.toml")
    for variant in settings.variants.values():
        family.overlaid(schema, variant.schema)


def test_a_refresh_scores_the_last_of_each_list_before_a_node_joins_it():
    schema = load_schema(SCHEMAS / "reviews.toml")
    events = [
        {"type": "node", "id": "a", "ts": 1e9, "user": "u", "product": "p", "stars": 5},
        {"type": "label", "id": "a", "ts": 1e9 + 1, "label": 1},
        {"type": "node", "id": "b", "ts": 1e9 + 2, "user": "v", "product": "p", "stars": 1},
        {"type": "node", "id": "c", "ts": 1e9 + 3, "user": "u", "product": "p", "stars": 1},
    ]
    found = [msgspec.json.decode(r.value) for r in refreshed(schema, as_records(map(msgspec.json.encode, events)), 1)]
    assert [(event["type"], event["id"]) for event in found] == [
        ("node", "a"), ("label", "a"), ("score", "a"), ("node", "b"), ("score", "a"), ("score", "b"), ("node", "c")
    ]  # fmt: skip
    assert found[2]["ts"] == events[2]["ts"]


def test_refreshed_histories_are_judged_on_the_same_samples():
    recording = open_recording("synthetic", "own", 0)
    records = recording.records[:3000]
    plain = History(recording.schema, records)
    fresh = History(recording.schema, refreshed(recording.schema, records, 1))
    assert fresh.entries > plain.entries
    judge_nodes_alone(fresh)
    assert (fresh.truth == plain.truth).all()
    assert (fresh.entry_node[fresh.sample_entry] == plain.entry_node[plain.sample_entry]).all()
