"""docs/kafka.md from its first command to the dashboard: a real broker, a real consumer, a real Prometheus."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_docs import answers, blocks, graphsieve

from pipeline.broker import Broker
from pipeline.schema import load_schema

PAGE = "docs/kafka.md"


def commands(broker: Broker) -> list[list[str]]:
    """The page's commands, at the broker of the test."""
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert all(line.startswith("graphsieve ") for line in lines)
    return [line.replace("localhost:9092", broker.address).split()[1:] for line in lines]


def test_every_command_of_the_page_runs_and_every_query_has_data(own_broker: Broker, tmp_path: Path):
    (tmp_path / "deploy").symlink_to(REPOSITORY / "deploy")
    with contextlib.ExitStack() as serving:
        ports = {}
        for words in commands(own_broker):
            if "--metrics-port" in words:  # it stays
                port = words[words.index("--metrics-port") + 1]
                ports[port] = serving.enter_context(serve(words, tmp_path))
            else:
                run(words, tmp_path)
        assert list(ports) == ["9108", "9118"]
        with prometheus(ports, tmp_path) as address:
            for query in queries():
                assert eventually(address, query), query


def run(words: list[str], cwd: Path) -> None:
    process = graphsieve(words, cwd)
    output, said = process.communicate(timeout=300)
    assert process.returncode == 0, f"{' '.join(words)}\n{said}"
    assert output.strip(), words


@contextlib.contextmanager
def serve(words: list[str], cwd: Path) -> Iterator[str]:
    port = words[words.index("--metrics-port") + 1] = str(free_port())
    process = graphsieve(words, cwd)
    try:
        deadline = time.monotonic() + 90
        while not answers(port, "/readyz"):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def prometheus(ports: dict[str, str], folder: Path) -> Iterator[str]:
    """Run Prometheus as the page says, but for the ports."""
    (console,) = [line for block in blocks(PAGE, "console") for line in block.splitlines() if line.startswith("prome")]
    program, *flags = console.split()
    if shutil.which(program) is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("no prometheus here: apt-get install prometheus")
    config = folder / "prometheus.yml"
    text = (REPOSITORY / "deploy/prometheus.yml").read_text()
    config.write_text(re.sub(r"(?<=localhost:)\d+", lambda port: ports.get(port[0], port[0]), text))
    own = f"127.0.0.1:{free_port()}"
    flags = [flag.replace("deploy/prometheus.yml", str(config)) for flag in flags]
    with (folder / "prometheus.log").open("w") as said:
        process = subprocess.Popen([program, *flags, f"--web.listen-address={own}"], cwd=folder, stderr=said)
        try:
            yield own
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def queries() -> list[str]:
    (block,) = blocks(PAGE, "promql")
    return block.splitlines()


def eventually(address: str, query: str) -> bool:
    """Tell whether a query gives data within a minute. A rate over nothing is still a number; only NaN is none."""
    deadline = time.monotonic() + 60
    wanted = f"http://{address}/api/v1/query?query={urllib.parse.quote(query)}"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(wanted, timeout=5) as answer:
            if json.load(answer)["data"]["result"]:
                return True
        time.sleep(0.5)
    return False


def test_the_schema_of_the_page_is_one(tmp_path: Path):
    (toml,) = blocks(PAGE, "toml")
    path = tmp_path / "graph.toml"
    path.write_text((REPOSITORY / "deploy/schemas/reviews.toml").read_text() + "\n" + toml)
    assert load_schema(path).topics == ["verdicts"]
