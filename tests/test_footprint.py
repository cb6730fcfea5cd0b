"""What a shard will weigh, held to what the arrays of a scorer at work do weigh."""

import json
import math

import pytest
from conftest import REPOSITORY
from worlds import random_model

from pipeline.cli import main
from pipeline.decoder import Decoder
from pipeline.errors import ConfigError
from pipeline.footprint import PROCESS_BYTES, footprint
from pipeline.inspect import inspect
from pipeline.log import JSON, Record
from pipeline.schema import load_schema
from pipeline.scorer import Scorer
from producers.synthetic import synthetic_events

BATCH = 500  # events a micro-batch


@pytest.fixture(scope="module")
def model():
    """As wide as an unpruned one of the synthetic stream."""
    return random_model(load_schema(REPOSITORY / "deploy/schemas/synthetic.toml"), width=16)


def scorer_after(model, count):
    scorer, decoder = Scorer(model), Decoder(model.schema)
    lines = list(synthetic_events(seed=1, limit=count))
    for start in range(0, count, BATCH):
        batch = [Record(i, line, None, JSON, math.nan) for i, line in enumerate(lines[start : start + BATCH], start)]
        scorer.score(decoder.decode(batch)[0])
    return scorer


@pytest.mark.parametrize("count", [500, 3_000, 12_000, 40_000])
def test_the_formula_over_a_scorers_capacities_is_what_its_arrays_weigh(model, count):
    scorer, each = scorer_after(model, count), footprint(model)
    graph, parts = scorer.graph, scorer.memory_bytes()
    links = parts["links"] // each.link
    arrays = (each.row + each.values) * graph.capacity.rows + each.link * links
    arrays += (each.list + each.sums) * graph.capacity.lists
    assert sum(parts.values()) - parts["names"] == arrays


@pytest.mark.parametrize("count", [12_000, 40_000])
def test_a_shard_weighs_between_the_least_and_the_most_for_its_nodes_and_lists(model, count):
    scorer, each = scorer_after(model, count), footprint(model)
    nodes, lists = scorer.graph.row_count, scorer.graph.list_count
    weighed = sum(scorer.memory_bytes().values())
    room = each.most(BATCH, BATCH * each.links_a_node)  # that a micro-batch asks for before it is applied
    assert each.least(nodes, lists) * 0.95 < weighed < each.most(nodes, lists) + room
    assert each.most(nodes, lists) > 1.5 * each.least(nodes, lists)


def test_inspect_tells_what_a_shard_of_a_checkpoint_will_weigh(model, tmp_path, capsys):
    model.save(tmp_path)
    assert main(["inspect", str(tmp_path), "--nodes", "1000000", "--lists", "500000", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    each = footprint(model)
    assert memory["bytes_a_node"] == each.least(1, 0)
    assert memory["bytes_a_list"] == each.least(0, 1)
    assert memory["least_mb"] == math.ceil((PROCESS_BYTES + each.least(10**6, 5 * 10**5)) / 1e6)
    assert memory["least_mb"] < memory["most_mb"]


def test_as_many_lists_as_nodes_are_meant_where_none_are_told(model, tmp_path):
    model.save(tmp_path)
    told = inspect(str(tmp_path), nodes=1000, lists=1000)["memory"]
    assert inspect(str(tmp_path), nodes=1000)["memory"] == told
    assert "least_mb" not in inspect(str(tmp_path))["memory"]


def test_only_a_checkpoint_can_tell_what_its_shards_will_weigh(tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text('{"type":"retract","id":"a"}\n')
    with pytest.raises(ConfigError, match=r"--nodes asks what a checkpoint's shard will weigh.*is a recorded file"):
        inspect(str(events), nodes=1000)
