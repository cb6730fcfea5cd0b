"""The documents say what the code does: commands run, trees and tables are compared, imports keep their rules."""

import ast
import functools
import gzip
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import REPOSITORY
from worlds import random_model, world

from pipeline.config import environment_name, knobs
from pipeline.decoder import Decoder
from pipeline.events import REASONS
from pipeline.log import JSON, Record
from pipeline.metrics import QualityCollector, ScorerCollector, new_registry
from pipeline.schema import load_schema, parse_schema
from pipeline.stats import OUTCOMES, GroupStats, QualityStats

PACKAGES = ("pipeline", "producers", "consumers")


def text_of(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(name, language):
    """The fenced blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(name), re.MULTILINE | re.DOTALL)


def rows(name, heading):
    """The cells of a table's rows, by the table's first heading."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text_of(name), re.MULTILINE)
    assert table, f"no table {heading!r} in {name}"
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]


# ---- commands ----


def review_file(path, count=1500):
    """Reviews whose spam has few authors and the best stars."""
    rng = np.random.default_rng(0)
    spam = rng.random(count) < 0.2
    users = np.where(spam, rng.integers(0, 40, count), rng.integers(40, 800, count))
    stars = np.where(spam, 5, rng.integers(1, 6, count))
    days = np.datetime64("2011-01-01") + np.sort(rng.integers(0, 300, count))
    columns = (users, rng.integers(0, 25, count), stars, np.where(spam, -1, 1), days)
    lines = (
        f"{user} {product} {star}.0 {label} {day}\n" for user, product, star, label, day in zip(*columns, strict=True)
    )
    path.write_bytes(gzip.compress("".join(lines).encode()))


def graphsieve(words, cwd):
    """Start a command as the README spells it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAPHSIEVE_")}
    line = [sys.executable, "-P", "-m", "pipeline.cli", *words]
    return subprocess.Popen(line, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that looks like a clone with a review file in it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "deploy").symlink_to(REPOSITORY / "deploy")
    review_file(folder / "reviews.txt.gz")
    return folder


def test_every_command_of_the_readme_runs(workplace):
    commands = [line for block in blocks("README.md", "bash") for line in block.splitlines()]
    assert [line.split()[1] for line in commands] == [
        "import", "train", "prune", "replay", "score", "quality", "audit", "inspect", "score",
    ]  # fmt: skip
    for line in commands:
        program, *words = line.split()
        assert program == "graphsieve"
        if "--metrics-port" in words:
            serve_until_ready_and_stop(words, workplace)
            continue
        process = graphsieve(words, workplace)
        output, said = process.communicate()
        assert process.returncode == 0, f"{line}\n{said}"
        assert output.strip(), line


def test_every_command_of_the_page_on_explanations_runs(tmp_path):
    (tmp_path / "deploy").symlink_to(REPOSITORY / "deploy")
    (block,), (shown, *_) = blocks("docs/explain.md", "bash"), blocks("docs/explain.md", "text")
    for line in block.splitlines():
        words = line.split()[1:] + (["--epochs", "1", "--hidden", "2"] if " train " in line else [])
        output, said = (process := graphsieve(words, tmp_path)).communicate()
        assert process.returncode == 0, f"{line}\n{said}"
    assert (tmp_path / "explain.png").read_bytes().startswith(b"\x89PNG")
    # Whatever the model thinks of it, the review stands where the page shows it.
    for fact in ("Scored at position 27262, 2020-01-07 05:37:46 UTC", "2 of the 3 that are judged are spam"):
        assert fact in shown and fact in output


def serve_until_ready_and_stop(words, cwd):
    """A command that serves: it answers on its port, and SIGTERM ends it with 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = words[words.index("--metrics-port") + 1] = str(probe.getsockname()[1])
    process = graphsieve(words, cwd)
    try:
        deadline = time.monotonic() + 60
        while not answers(port, "/readyz"):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answers(port, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def answers(port, page):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


def test_the_make_targets_of_the_readme_are_there_and_help_tells_of_each():
    makefile = text_of("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {line.split()[1] for block in blocks("README.md", "console") for line in block.splitlines()}
    assert {"demo", "stack", "stack-stop", "test"} == named <= targets
    assert {"install", "demo", "test", "lint", "bench", "trials", "clean", "help"} <= targets
    helped = subprocess.run(["make", "-s", "-C", REPOSITORY], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in helped.splitlines() if line.startswith("  ")} == targets


def test_every_option_of_the_command_contract_is_in_the_commands_help():
    (contract,) = [block for block in blocks("README.md", "text") if "graphsieve import reviews" in block]
    options_of = {}
    for line in contract.replace("\n    ", " ").splitlines():
        command = re.match(r"graphsieve ((?:import |topics )?[a-z]+)", line)[1]
        options_of[command] = set(re.findall(r"--[a-z-]+", line))
    helps = {name: graphsieve([*name.split(), "--help"], REPOSITORY) for name in options_of}
    for name, process in helps.items():
        told, _ = process.communicate()
        missing = {
            option for option in options_of[name] | {"--json"} if f"{option} " not in told and f"{option}]" not in told
        }
        assert not missing, name


def test_results_name_commands_that_exist():
    commands = {line.split()[1] for block in blocks("docs/performance.md", "console") for line in block.splitlines()}
    told, _ = graphsieve(["--help"], REPOSITORY).communicate()
    assert all(f"\n    {command} " in told for command in commands)


# ---- examples ----


def test_the_example_schema_reads_the_example_messages():
    (toml,), (lines,) = blocks("README.md", "toml"), blocks("README.md", "jsonl")
    schema = parse_schema(tomllib.loads(toml), "README.md")
    records = [Record(i, line.encode(), None, JSON, math.nan) for i, line in enumerate(lines.splitlines())]
    events, bad = Decoder(schema).decode(records)
    assert bad == []
    assert events.id == ["p1", "p1"]
    assert events.label.tolist() == [-1, 1]


def test_the_example_score_has_the_fields_of_a_score_message():
    from pipeline.messages import ScoreMessage

    every = list(ScoreMessage.__struct_fields__)
    (line,), (explained,) = blocks("README.md", "json"), blocks("docs/explain.md", "json")
    assert [*json.loads(line), "why"] == list(json.loads(explained)) == every


@pytest.mark.parametrize("pruned", [False, True])
def test_a_score_recomputed_as_the_checkpoint_page_says_is_the_models_own(tmp_path, pruned):
    (code,) = blocks("docs/checkpoint.md", "python")
    page = {}
    exec(compile(code, "docs/checkpoint.md", "exec"), page)
    model = random_model(world(), seed=3, pruned=pruned)
    model.save(tmp_path)
    about, tensors = page["load"](tmp_path)
    rng = np.random.default_rng(0)
    relations, channels, width = model.schema.relation_names, len(about["channels"]), model.layers[0].width
    raw = rng.normal(0, 3, channels).astype(np.float32)
    of_x = rng.normal(size=(1, len(relations), len(model.input_keep))).astype(np.float32)
    of_h = rng.random((1, len(relations), width)).astype(np.float32)
    h1 = model.layers[0].forward(model.transform.apply(raw[None], model.input_keep), of_x)
    expected = model.classify(model.layers[1].forward(h1, of_h))[0]
    means = [dict(zip(relations, values[0], strict=True)) for values in (of_x, of_h)]
    assert page["score"](about, tensors, raw, *means)[0] == pytest.approx(expected, abs=1e-5)


def test_the_checkpoint_page_names_every_key_and_tensor(tmp_path):
    model = random_model(world())
    model.report = {"training": {}, "pruning": {}, "metrics": {}, "reference": {}}
    model.save(tmp_path)
    keys = {key for cells in rows("docs/checkpoint.md", "key") for key in re.findall(r"`(\w+)`", cells[0])}
    assert keys == set(json.loads((tmp_path / "model.json").read_text()))
    page = text_of("docs/checkpoint.md")
    for tensor in ("transform.start", "transform.x", "transform.z", "classifier.weight", "classifier.bias"):
        assert f"`{tensor}`" in page


# ---- tables ----


def test_the_dead_letter_table_has_every_reason():
    assert [cells[0].strip("`") for cells in rows("docs/semantics.md", "reason")] == list(REASONS)


def test_the_outcome_table_has_every_outcome():
    assert [cells[0].strip("`") for cells in rows("docs/semantics.md", "outcome")] == list(OUTCOMES)


def test_every_channel_of_the_graph_is_defined():
    defined = {cells[0].strip("`").partition(".")[2] for cells in rows("docs/semantics.md", "channel")}
    schema = load_schema(REPOSITORY / "deploy/schemas/reviews.toml")
    found = {name.partition(".")[2] for name in schema.channel_names if "." in name}
    general = {re.sub(r"_\d+[hd]$", "_H", name).replace("rating", "F") for name in found}
    assert general == defined


def test_every_metric_of_the_readme_is_served():
    registry = new_registry(ScorerCollector(GroupStats(), time.time), QualityCollector(QualityStats()))
    families = {metric.name: metric for metric in registry.collect()}
    served = {sample.name for metric in families.values() for sample in metric.samples} | set(families)
    named = set(re.findall(r"`(graphsieve_\w+)", text_of("README.md")))
    assert named and named <= served


def test_the_configuration_file_has_every_knob_with_its_default_and_variable():
    text = text_of("deploy/config.toml")
    tree = tomllib.loads(text)
    assert {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()} == knobs()
    section = ""
    for line in text.splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if not line.startswith("#") and (knob := re.match(r"(\w+) = ", line)):
            assert line.endswith(f"# {environment_name(section, knob[1])}"), line


def test_every_dependency_is_explained_with_its_range():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = [d for extra in project["optional-dependencies"].values() for d in extra]
    wanted = [d.partition(";")[0] for d in (*project["dependencies"], *extras)]
    found = re.findall(r"^\| ([\w.\[\],-]+) \| ([<>=.,\d]+) \|", text_of("docs/dependencies.md"), re.MULTILINE)
    assert ["".join(cells) for cells in found] == wanted


def test_a_dependency_is_imported_where_the_page_says():
    page = text_of("docs/dependencies.md")
    for name, where in re.findall(r"^\| ([\w-]+)[^|]*\| [^|]+ \| ([^|]+) \|", page, re.MULTILINE):
        module = {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_"))
        said = set(re.findall(r"`([\w/]+\.py)`", where))
        if said:
            assert importers(module) == said, name


# ---- the tree ----


def test_the_tree_of_the_readme_is_the_tree():
    (tree,) = [block for block in blocks("README.md", "text") if block.startswith("producers/ ") and "log.py" in block]
    named, folder = [], ""
    for line in tree.splitlines():
        path, about = re.fullmatch(r"( *\S+) +(\S.*)|(\S+/)", line).group(1, 2)
        path = path or line
        folder = path if not path.startswith(" ") else folder
        if path.startswith(" "):
            assert about, line
            named.append(folder + path.strip())
    watching = (
        "deploy/*.yml",
        "deploy/compose.yaml",
        "deploy/grafana/*.json",
        "deploy/grafana/*.py",
        "deploy/grafana/provisioning/*/*",
    )
    patterns = [
        *(f"{package}/**/*.py" for package in PACKAGES),
        "deploy/**/*.toml",
        *watching,
        "docs/*.*",
        "experiments/*.toml",
    ]
    files = {path.relative_to(REPOSITORY).as_posix() for pattern in patterns for path in REPOSITORY.glob(pattern)}
    assert sorted(named) == sorted(file for file in files if not file.endswith("__init__.py"))


def test_the_documents_links_lead_somewhere():
    for page in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


# ---- imports ----


def sources():
    """The files of all our modules."""
    return [path for package in PACKAGES for path in REPOSITORY.glob(f"{package}/**/*.py")]


@functools.cache
def imports():
    """Which modules each of our modules imports, by dotted names; names imported from a package count as modules."""
    found = {}
    for path in sources():
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        found[name] = set(imported_by(path))
    return found


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(module):
    """The files that import a module or anything in it."""
    return {
        name.replace(".", "/") + ".py"
        for name, imported in imports().items()
        if any(one == module or one.startswith(f"{module}.") for one in imported)
    }


def test_the_parts_of_a_shard_know_nothing_of_one_another():
    parts = {"graph": ("graph", "graph_kernel", "graph_lists", "graph_state"), "lists": ("lists",), "cache": ("cache",)}
    parts |= {"model": ("model",), "batcher": ("batcher",), "log": ("log",)}
    part_of = {f"pipeline.{module}": part for part, modules in parts.items() for module in modules}
    for module, imported in imports().items():
        if module in part_of:
            assert {part_of[one] for one in imported if one in part_of} <= {part_of[module]}, module


def test_producers_and_consumers_import_the_pipeline_and_never_each_other():
    for module, imported in imports().items():
        package = module.partition(".")[0]
        others = {one.partition(".")[0] for one in imported} & set(PACKAGES) - {package}
        if package != "pipeline":
            assert others <= {"pipeline"}, module
        elif not module.startswith(("pipeline.bench.", "pipeline.experiments.recordings")):
            assert not others or module == "pipeline.cli", module


def test_each_heavy_library_has_its_doors():
    graphs = {f"experiments/graphs/{module}" for module in ("sage", "paper_lasso", "inference")}
    baselines = {f"experiments/baselines/{module}" for module in ("mlp", "sage")}
    doors = {
        "prometheus_client": {"metrics"}, "dgl": {"experiments/message_passing"},
        "torch": {"device", "bench/core_peers", "experiments/message_passing"} | graphs | baselines,
        "sklearn": {"channels_kept", "teacher", "experiments/baselines/trees", "bench/core_peers", "bench/train"},
        "networkx": {"twin", "explained_drawing", "bench/memory"}, "matplotlib": {"figure"},
        "numba": {"compiled", "instructions"}, "scipy": {"experiments/graphs/files"},
        "safetensors": {"model"}, "fsspec": {"snapshot_files"}, "confluent_kafka": {"kafka_log/confluent"},
    }  # fmt: skip
    for library, modules in doors.items():
        assert importers(library) == {f"pipeline/{module}.py" for module in modules}, library


def test_one_package_alone_knows_kafka():
    assert importers("kafka")
    assert all(name.startswith("pipeline/kafka_log/") for name in importers("kafka"))


def test_decoders_of_a_type_are_made_at_import():
    """With msgspec 0.22 two threads that are the first to decode a type take the process down."""
    for path in sources():
        if path.name == "fields.py":  # each of its decoders is of a type of its own
            continue
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            late = isinstance(statement, ast.FunctionDef | ast.ClassDef)
            for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call)):
                place, called = f"{path}:{call.lineno}", ast.unparse(call.func)
                assert not (late and call.args and called in ("msgspec.json.Decoder", "msgspec.msgpack.Decoder")), place
                assert not (called.endswith(".decode") and "type" in {given.arg for given in call.keywords}), place


def test_nothing_imports_the_command_line():
    assert importers("pipeline.cli") == set()


def test_serving_loads_no_library_of_training():
    code = (
        "import sys, consumers.service, consumers.quality, pipeline.model;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numba", "prometheus_client"} <= set(loaded)
    assert not {"torch", "sklearn", "dgl", "networkx", "matplotlib", "kafka", "fsspec"} & set(loaded)
