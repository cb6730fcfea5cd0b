"""Dashboards: built from their description, laid out soundly, and every query asked of a real Prometheus.

It watches a real consumer under load, some of whose events are bad, and `graphsieve quality`, which follows its scores.
"""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPOSITORY
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus import DEPLOY, Prometheus, eventually, free_port, loaded, prometheus
from test_docs import answers
from test_rules import METRIC

from pipeline.log import Message
from pipeline.sqlite_log import SqliteLog
from producers.synthetic import synthetic_events

GRAFANA = DEPLOY / "grafana"
NAMES = ("service", "detection")
PAST = 8_000  # events that are there at the start: labels come days later, and these are days
CHUNK, PAUSE_SECONDS = 60, 0.2  # events, and how long until the next ones
BAD_EVERY = 50
SNAPSHOT_EVERY = "2s"
WAIT_SECONDS = 90.0
SETTLE_SECONDS = 12.0  # until a rate over the shortest window has samples to rest on

# What Grafana would put for its variables: all consumers, and its rule for $__rate_interval.
SCRAPE = loaded(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"][0]["jsonData"][
    "timeInterval"
]
VARIABLES = {
    "$__rate_interval": f"{4 * int(SCRAPE.removesuffix('s'))}s",
    "$instance": ".*",
    "$job": "graphsieve",
    "$quality": "graphsieve-quality",
}


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text(encoding="utf-8"))
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


class Asked(NamedTuple):
    """A query of a panel, as Grafana would send it."""

    panel: str
    expression: str
    instant: bool


def asked() -> list[Asked]:
    found = []
    for name in NAMES:
        for panel in panels(name):
            title = f"{name}: {panel['title']}"
            found += [Asked(title, put(target["expr"]), target["instant"]) for target in panel["targets"]]
    return found


def put(expression: str) -> str:
    """Put values in the place of variables."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


# ---- what is written ----


def test_the_dashboards_are_what_their_description_builds(tmp_path: Path):
    subprocess.run([sys.executable, GRAFANA / "build.py", tmp_path], check=True)
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_bytes() == (GRAFANA / f"{name}.json").read_bytes(), "run build.py"


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_places_of_their_own_and_say_what_they_show(name: str):
    found = dashboard(name)["panels"]
    assert sorted(panel["id"] for panel in found) == list(range(1, len(found) + 1))
    taken = set()
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles)
    for panel in panels(name):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["type"] == "table" or panel["type"] == "state-timeline" or panel["fieldConfig"]["defaults"]["unit"]


def lost(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The places of `ours` that are not the same in `theirs`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs.get(key), f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for value, other in zip(ours, theirs, strict=True):
            yield from lost(value, other, path)
    elif ours != theirs:
        yield path


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_own_types_have_a_place_for_every_key(name: str):
    register_default_plugins()  # panels and the data source have types of their own
    ours = dashboard(name)
    theirs = json.loads(json.dumps(Dashboard.from_json(ours), cls=JSONEncoder))
    of_the_data_source = {f"/annotations/list/{key}" for key in ("step", "titleFormat", "textFormat")}
    assert set(lost(ours, theirs)) <= of_the_data_source | {"/templating/list/definition"}
    misspelt = dashboard(name)
    misspelt["panels"][0]["options"]["colourMode"] = "value"
    theirs = json.loads(json.dumps(Dashboard.from_json(misspelt), cls=JSONEncoder))
    assert "/panels/options/colourMode" in set(lost(misspelt, theirs))


def test_the_data_source_asks_as_often_as_prometheus_scrapes_and_grafana_finds_the_dashboards():
    assert loaded(DEPLOY / "prometheus.yml")["global"]["scrape_interval"] == SCRAPE
    (provider,) = loaded(GRAFANA / "provisioning/dashboards/graphsieve.yml")["providers"]
    assert provider["type"] == "file"
    assert sorted(path.stem for path in GRAFANA.glob("*.json")) == sorted(NAMES)


# ---- what Prometheus answers ----


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with watching(tmp_path_factory.mktemp("watched")) as server:
        time.sleep(SETTLE_SECONDS)
        yield server


@contextmanager
def watching(folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that watches a consumer under load and its quality."""
    model, log = trained(folder), f"sqlite:{folder / 'log.db'}"
    scorer, quality = free_port(), free_port()
    score = ["score", "--model", model, "--log", log, "--state", folder / "state", "--metrics-port", scorer]
    follow = ["quality", "--log", log, "--follow", "--model", model, "--metrics-port", quality]
    with ExitStack() as stack:
        stack.enter_context(feeding(folder / "log.db"))
        stack.enter_context(running(folder, scorer, *score))
        stack.enter_context(running(folder, quality, *follow))
        yield stack.enter_context(prometheus(folder, {"graphsieve": [scorer], "graphsieve-quality": [quality]}))


def trained(folder: Path) -> Path:
    """A model with all that a checkpoint promises, after one epoch."""
    events = folder / "history.jsonl"
    graphsieve(folder, "import", "synthetic", "--seed", 7, "--events", PAST, "--out", events)
    schema = DEPLOY / "schemas/synthetic.toml"
    graphsieve(folder, "train", events, "--schema", schema, "--epochs", 1, "--out", folder / "model")
    return folder / "model"


def graphsieve(folder: Path, *words: object) -> None:
    subprocess.run(line_of(words), cwd=folder, check=True, capture_output=True, env=environment())


def line_of(words: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-P", "-m", "pipeline.cli", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "GRAPHSIEVE_SCORE_SNAPSHOT_EVERY": SNAPSHOT_EVERY, "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def running(folder: Path, port: int, *words: object) -> Iterator[None]:
    """A command that serves metrics, once it does; SIGTERM ends it."""
    with (folder / f"{words[0]}.log").open("w") as said:
        process = subprocess.Popen(line_of(words), cwd=folder, env=environment(), stdout=said, stderr=said)
        try:
            eventually(lambda: answers(port, "/metrics"), f"{words[0]} answers")
            yield
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


@contextmanager
def feeding(path: Path) -> Iterator[None]:
    """A stream with a past, that goes on; now and then an event is bad."""
    lines, stop = synthetic_events(seed=3), threading.Event()
    with closing(SqliteLog(path)) as log:
        log.append("events", chunk(lines, PAST))

    def feed() -> None:
        with closing(SqliteLog(path)) as log:
            while not stop.wait(PAUSE_SECONDS):
                log.append("events", chunk(lines, CHUNK))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        stop.set()
        feeder.join()


def chunk(lines: Iterator[bytes], count: int) -> list[Message]:
    events = list(itertools.islice(lines, count))
    return [Message(line[:30] if i % BAD_EVERY == BAD_EVERY - 1 else line) for i, line in enumerate(events)]


def without_data(questions: dict[str, Callable[[], bool]]) -> list[str]:
    """The questions that have no answer, after all the time that it takes to have one."""
    deadline = time.monotonic() + WAIT_SECONDS
    left = questions
    while left and time.monotonic() < deadline:
        left = {name: answered for name, answered in left.items() if not answered()}
        time.sleep(0.2 if left else 0)
    return list(left)


def gives_numbers(server: Prometheus, question: Asked) -> bool:
    """Does the panel show something? NaN is nothing."""
    if question.instant:
        return server.has_data(question.expression)
    series = server.course(question.expression, seconds=20, step=5)
    return any(not math.isnan(float(value)) for _, values in series for _, value in values)


def test_every_query_of_every_panel_has_data(watched: Prometheus):
    questions = {
        f"{question.panel}: {question.expression}": lambda question=question: gives_numbers(watched, question)
        for question in asked()
    }
    assert without_data(questions) == []


def test_every_variable_offers_what_is_watched(watched: Prometheus):
    for name in NAMES:
        for variable in dashboard(name)["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", put(variable["query"]["query"])).groups()
                offered = {series[label] for series in watched.ask("series", **{"match[]": metric})}
                assert offered, variable["name"]
                assert VARIABLES[f"${variable['name']}"] in offered | {".*"}


def test_every_rule_is_healthy_and_what_is_recorded_has_data(watched: Prometheus):
    rules = [rule for group in watched.groups() for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert without_data({name: lambda name=name: watched.has_data(name) for name in recorded}) == []


def selectors(expression: str) -> Iterator[str]:
    """What an expression reads: metrics with their matchers."""
    for found in METRIC.finditer(expression):
        matchers = re.match(r"\{[^}]*\}", expression[found.end() :])
        yield found[0] + (matchers[0] if matchers else "")


def test_what_alerts_and_marks_compare_is_there_though_they_are_silent(watched: Prometheus):
    rules = [rule for group in watched.groups() for rule in group["rules"]]
    expressions = [rule["query"] for rule in rules if rule["type"] == "alerting"]
    expressions += [put(mark["expr"]) for name in NAMES for mark in dashboard(name)["annotations"]["list"]]
    read = {selector for expression in expressions for selector in selectors(expression)}
    read = {selector for selector in read if not selector.startswith("ALERTS")}
    assert without_data({selector: lambda selector=selector: watched.has_data(selector) for selector in read}) == []
    for expression in expressions:
        watched.query(expression)


def test_a_consumer_under_load_wakes_nobody(watched: Prometheus):
    pages = [alert["labels"] for alert in watched.firing() if alert["labels"]["severity"] == "page"]
    # How fast this machine is, is not what is tested.
    assert [page for page in pages if not page["alertname"].startswith("GraphsieveLatency")] == []
