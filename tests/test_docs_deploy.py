"""docs/deploy.md: what can run here runs; of the rest, every file, service and target that is named is there."""

import re
import shlex
import subprocess

import pytest
import yaml
from conftest import REPOSITORY
from manifests import DEPLOY, documents
from test_docs import blocks, graphsieve
from worlds import random_model

from pipeline.footprint import footprint
from pipeline.schema import load_schema

PAGE = "docs/deploy.md"
CONSOLE = "".join(blocks(PAGE, "console")).replace("\\\n", "")
LINES = [shlex.split(line) for line in CONSOLE.splitlines() if not line.startswith((" ", "for", "done"))]


def test_every_graphsieve_command_of_the_page_runs(tmp_path):
    random_model(load_schema(DEPLOY / "schemas/synthetic.toml"), width=16).save(tmp_path / "model4")
    commands = [line.split() for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert len(commands) == 2
    for program, *words in commands:
        process = graphsieve(words, tmp_path)
        output, said = process.communicate(timeout=60)
        assert (program, process.returncode) == ("graphsieve", 0), said
        assert "bytes_a_node" in output


def test_compose_commands_name_the_file_and_its_services():
    (compose,) = documents(DEPLOY / "compose.yaml")
    said = [*LINES, *(shlex.split(code) for code in re.findall(r"`(docker compose [^`]+)`", text()))]
    commands = [words for words in said if words[:2] == ["docker", "compose"]]
    assert {words[4] for words in commands} == {"up", "kill", "start", "down"}
    for _, _, flag, file, _, *rest in commands:
        assert (flag, REPOSITORY / file) == ("--file", DEPLOY / "compose.yaml")
        assert {word for word in rest if not word.startswith("-")} <= set(compose["services"])


def test_the_addresses_of_the_page_are_ports_of_the_stack():
    (compose,) = documents(DEPLOY / "compose.yaml")
    published = {port.split(":")[1] for service in compose["services"].values() for port in service.get("ports", [])}
    named = set(re.findall(r"localhost:(\d+)", text()))
    assert named and named <= published


def test_kustomize_commands_name_folders_that_are_there():
    folders = [words[words.index("--kustomize") + 1] for words in LINES if "--kustomize" in words]
    assert folders
    assert all((REPOSITORY / folder / "kustomization.yaml").is_file() for folder in folders)
    tabled = re.findall(r"^\| `(\w+)` \|", text(), re.MULTILINE)
    assert set(tabled) == {path.parent.name for path in DEPLOY.glob("kubernetes/*/kustomization.yaml")}


def test_what_is_created_by_hand_has_the_names_that_the_manifests_refer_to():
    created = {
        words[words.index("create") + 1 :][:3][-1 if "secret" in words else 1] for words in LINES if "create" in words
    }
    example = (DEPLOY / "kubernetes/example/login.yaml").read_text()
    assert created == {"graphsieve", "graphsieve-model", "graphsieve-kafka"}
    assert "graphsieve-kafka" in example
    assert "graphsieve-model" in (DEPLOY / "kubernetes/base/score.yaml").read_text()


@pytest.mark.parametrize("name", ["rules", "alerts"])
def test_rules_become_resources_of_the_prometheus_operator_as_the_page_says(name):
    (loop,) = [block for block in blocks(PAGE, "console") if block.startswith("for")]
    made = loop.partition("do\n")[2].partition("|")[0].strip()
    script = f"rules={name}\n{made}"
    resource = yaml.safe_load(
        subprocess.run(["bash", "-euc", script], cwd=REPOSITORY, capture_output=True, check=True).stdout
    )
    (plain,) = documents(DEPLOY / f"{name}.yml")
    assert (resource["kind"], resource["metadata"]["name"]) == ("PrometheusRule", f"graphsieve-{name}")
    assert resource["spec"] == plain


def test_make_targets_of_the_page_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in LINES if words[0] == "make"} | set(re.findall(r"`make ([a-z-]+)`", text()))
    assert {"stack", "stack-stop", "image-test"} == named <= targets


def test_the_table_of_memory_is_what_inspect_says():
    each = footprint(random_model(load_schema(DEPLOY / "schemas/synthetic.toml"), width=16))
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text(), re.MULTILINE)
    assert rows
    for cells in rows:
        nodes, lists, *sizes = (int(cell.replace(",", "")) for cell in cells)
        assert list(each.report(nodes, lists).values())[2:] == sizes


def text() -> str:
    return (REPOSITORY / PAGE).read_text(encoding="utf-8")
