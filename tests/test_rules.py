"""Rules and alerts: sound by promtool, each alert tested to fire and not to fire, each with a page in the runbook."""

import functools
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from prometheus import DEPLOY, eventually, loaded, need, prometheus

from pipeline.metrics import QualityCollector, ScorerCollector, new_registry
from pipeline.options import parser
from pipeline.stats import GroupStats, QualityStats

CASES = sorted((REPOSITORY / "tests/rules").glob("*.yml"))
RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8")
METRIC = re.compile(r"\b(graphsieve_\w+|process_\w+|\w+:graphsieve_\w+:\w+|up|ALERTS)\b(?!\()")


LABELLED = 'label_replace(label_replace(vector(0.625), "instance", "one:9108", "", ""), "partition", "3", "", "")'


def rules_of(name: str) -> list[dict[str, Any]]:
    return [rule for group in loaded(DEPLOY / name)["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules_of("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in rules_of("rules.yml")}


def promtool(*words: object) -> None:
    need("promtool")
    line = ["promtool", *map(str, words)]
    found = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


# ---- promtool ----


def test_the_configuration_and_its_rules_are_sound():
    promtool("check", "config", "deploy/prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", "deploy/rules.yml", "deploy/alerts.yml")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path):
    promtool("test", "rules", path)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_is_recorded_is_evaluated_before_the_alerts_that_ask_for_it(path):
    """promtool evaluates groups that it is told no order of in any, each time anew."""
    names = [group["name"] for file in ("rules.yml", "alerts.yml") for group in loaded(DEPLOY / file)["groups"]]
    assert loaded(path)["group_eval_order"] == names


@functools.cache
def cases() -> list[dict[str, Any]]:
    """Every question that the tests of promtool ask about alerts that fire."""
    tests = [test for path in CASES for test in loaded(path)["tests"]]
    asked = [case for test in tests for case in test["promql_expr_test"] if "ALERTS{" in case["expr"]]
    assert all('alertstate="firing"' in case["expr"] for case in asked)
    return asked


def labels_of(sample: dict[str, Any]) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))


def fired(case: dict[str, Any]) -> list[dict[str, str]]:
    return [labels_of(sample) for sample in case["exp_samples"]]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_to_fire_and_not_to_fire(alert):
    asked = [case for case in cases() if re.fullmatch(re.search(r'alertname=~?"([^"]+)"', case["expr"])[1], alert)]
    names = [{labels["alertname"] for labels in fired(case)} for case in asked]
    assert any(alert in found for found in names)
    assert any(alert not in found for found in names)


# ---- what a person reads ----


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_soon_what_it_means_and_where_to_read_what_to_do(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_a_summary_names_only_labels_that_the_alert_has(alert):
    named = set(re.findall(r"\$labels\.(\w+)", ALERTS[alert]["annotations"]["summary"]))
    there = [labels for case in cases() for labels in fired(case) if labels["alertname"] == alert]
    assert any(named <= set(labels) for labels in there)


def test_prometheus_can_fill_in_what_it_says(tmp_path):
    """Every alert at once, with values of the kind that theirs are: Prometheus puts its errors into the text."""
    rules = loaded(DEPLOY / "alerts.yml")
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule |= {"expr": LABELLED, "for": "0s"}
    (tmp_path / "said.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "all.yml").write_text("rule_files: [said.yml]")
    with prometheus(tmp_path, {}, ["prometheus", "--config.file=all.yml", "--storage.tsdb.path=data"]) as server:
        eventually(lambda: len(server.firing()) == len(ALERTS), "all fire")
        said = {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in server.firing()}
    assert said["GraphsieveConsumerDown"] == "Consumer one:9108 does not answer."
    assert said["GraphsieveRestoreStuck"] == "The restore of partition 3 stands at 62.5%."
    assert said["GraphsieveScoreDrift"].endswith(": PSI 0.62.")
    for summary in said.values():
        assert "<" not in summary and "%!" not in summary
        assert "{{" not in summary and summary.endswith(".")


def test_the_runbook_has_a_page_for_each_alert_and_no_other():
    pages = re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]
    titles = [page.splitlines()[0] for page in pages]
    assert titles == list(ALERTS)
    for page in pages:
        assert all(f"**{part}**" in page for part in ("Means.", "See.", "Do.")), page
        severity = ALERTS[page.splitlines()[0]]["labels"]["severity"]
        assert page.splitlines()[2].startswith(f"{severity.capitalize()}."), page


def test_every_command_of_the_runbook_is_one():
    lines = [line for block in re.findall(r"```bash\n(.*?)```", RUNBOOK, re.DOTALL) for line in block.splitlines()]
    assert lines
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "graphsieve"
        parser().parse_args(words)


# ---- metrics ----


def exported() -> set[str]:
    """The names of every sample that a consumer, or `graphsieve quality`, may serve."""
    registry = new_registry(ScorerCollector(GroupStats(), time.time), QualityCollector(QualityStats()))
    names = set()
    for family in registry.collect():
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        names |= {family.name + suffix for suffix in kinds.get(family.type, ("",))}
    return names


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in (*ALERTS.values(), *RECORDED.values()))
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        yield from (mark["expr"] for mark in dashboard["annotations"]["list"])
        yield from (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))


def test_every_metric_that_a_rule_or_panel_names_is_served():
    served = exported() | set(RECORDED) | {"up", "ALERTS"}
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert named - served == set()


def test_every_recorded_metric_is_used():
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert set(RECORDED) <= named
