"""docs/kafka.md from its first command to the dashboard: a real broker, a real consumer, a real Prometheus."""

import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import REPOSITORY
from prometheus import eventually, free_port, prometheus
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
        targets = {"graphsieve": [ports["9108"]], "graphsieve-quality": [ports["9118"]]}
        with prometheus(tmp_path, targets, words_of_prometheus()) as server:
            for query in queries():
                eventually(functools.partial(server.query, query), query)


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


def words_of_prometheus() -> list[str]:
    """How the page starts it."""
    (console,) = [line for block in blocks(PAGE, "console") for line in block.splitlines() if line.startswith("prome")]
    return console.split()


def queries() -> list[str]:
    (block,) = blocks(PAGE, "promql")
    return block.splitlines()


def test_the_schema_of_the_page_is_one(tmp_path: Path):
    (toml,) = blocks(PAGE, "toml")
    path = tmp_path / "graph.toml"
    path.write_text((REPOSITORY / "deploy/schemas/reviews.toml").read_text() + "\n" + toml)
    assert load_schema(path).topics == ["verdicts"]
