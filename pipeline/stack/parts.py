"""What a stack consists of: its knobs, and the command of each process.

    broker -> topics -> Prometheus -> model, producer -> quality -> the history is scored -> two consumers

The model is trained on the first HISTORY events of the stream. The producer sends these at once, so that labels, and
the figures made of them, are there from the start; then it goes on with what is unseen. A consumer that does not stay
scores the history, so that the two that do are measured by what comes as it comes, and no alert is about a backlog.
"""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCHEMA = DEPLOY / "schemas" / "synthetic.toml"

SEED = 1
HISTORY = 30_000  # events: five and a half days of the stream, nearly twice the mean delay of its labels
RATE = 100  # events a second from then on; half of them are labels
PARTITIONS = 4
TOPICS = ("events", "scores", "dead-letters")
# The stream has no end, and a disk has one.
RETENTION = {"retention.ms": "3600000", "segment.bytes": str(16 * 2**20)}

CONSUMERS = ("consumer-1", "consumer-2")
USUAL_PORTS = {"kafka": 9092, "prometheus": 9090, "quality": 9118, "consumer-1": 9108, "consumer-2": 9109}

# A little company, or every event would be a transaction of its own; others take over a session after a kill.
# Four partitions on two cores, beside all the rest: with kafka-python one score in twenty took longer than 0.1 s, with
# confluent-kafka none.
KNOBS = """\
# Knobs of this stack's consumers; deploy/config.toml explains them.
[score]
max_wait = "20ms"
snapshot_every = "20s"
[kafka]
session = "10s"
client = "confluent"
"""

# What stays. It is ended from the last to the first: who writes before who reads.
ABOUT = {
    "kafka": f"topics {', '.join(TOPICS)}",
    "prometheus": "alerts, and any query",
    "quality": "how good the scores are, by late labels",
    **dict.fromkeys(CONSUMERS, "live page; /metrics, /healthz, /readyz"),
    "producer": f"{RATE} events a second, without end",
}

PROMETHEUS_INSTALL = "install prometheus (Debian), or see prometheus.io/download"

Words = tuple[str, ...]
Ports = Mapping[str, int]


def graphsieve(*words: str) -> Words:
    """The command line of a command. -P: a folder `pipeline` where the user stands is none of ours."""
    return (sys.executable, "-P", "-m", "pipeline.cli", *words)


def environment() -> dict[str, str]:
    """The environment of all processes: the user's knobs would make it another stack."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GRAPHSIEVE_")}


# ---- the model ----

HISTORY_WORDS = graphsieve(
    "import", "synthetic", "--events", str(HISTORY), "--seed", str(SEED), "--out", "history.jsonl"
)  # fmt: skip
TRAIN_WORDS = graphsieve(
    "train", "history.jsonl", "--schema", str(SCHEMA), "--epochs", "15", "--seed", str(SEED), "--out", "model"
)  # fmt: skip
PRUNE_WORDS = graphsieve(
    "prune", "model", "history.jsonl", "--budget", "4", "--seed", str(SEED), "--out", "model4"
)  # fmt: skip


# ---- what stays ----


def consumer_words(broker: str, *options: str) -> Words:
    return graphsieve(
        "score", "--model", "model4", "--log", broker, "--state", "snapshots", "--config", "config.toml", *options
    )  # fmt: skip


def quality_words(broker: str, port: int) -> Words:
    return graphsieve("quality", "--log", broker, "--follow", "--model", "model4", "--metrics-port", str(port))


def producer_words(broker: str) -> Words:
    return graphsieve(
        "import", "synthetic", "--to", f"{broker}/{TOPICS[0]}", "--key", "product", "--seed", str(SEED),
        "--burst", str(HISTORY), "--rate", str(RATE),
    )  # fmt: skip


def prometheus_words(port: int) -> Words:
    return (
        "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    )  # fmt: skip


def write_prometheus_files(folder: Path, ports: Ports) -> None:
    """Copy deploy's Prometheus configuration and rules, with this stack's targets in place of the usual ones."""
    for path in DEPLOY.glob("*.yml"):
        shutil.copyfile(path, folder / path.name)
    targets = {"graphsieve": [ports[name] for name in CONSUMERS], "graphsieve-quality": [ports["quality"]]}
    text = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    (folder / "prometheus.yml").write_text(with_targets(text, targets), encoding="utf-8")


def with_targets(configuration: str, targets: Mapping[str, list[int]]) -> str:
    """Return a Prometheus configuration with other ports of this host as the targets of its jobs."""

    def replaced(job: re.Match[str]) -> str:
        ports = ", ".join(f'"127.0.0.1:{port}"' for port in targets[job["name"]])
        return f"{job['head']}[{ports}]"

    return re.sub(r"(?s)(?P<head>job_name: (?P<name>\S+)\n.*?targets: )\[.*?\]", replaced, configuration)
