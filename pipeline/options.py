"""The command line's words: every command with its options, its help, and an example."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[str, str, str], argparse.ArgumentParser]  # name, what it does, an example

EXAMPLES = """
first steps, on real reviews:
  graphsieve import reviews reviews.txt.gz --label-delay 30d --out events.jsonl.zst
  graphsieve train events.jsonl.zst --schema deploy/schemas/reviews.toml --out model
  graphsieve prune model events.jsonl.zst --budget 4 --out model4
  graphsieve replay events.jsonl.zst --to sqlite:reviews.db
  graphsieve score --model model4 --log sqlite:reviews.db --state state --until-end
  graphsieve quality --log sqlite:reviews.db --last 0.3

on Kafka:
  graphsieve topics create kafka://localhost:9092/events,scores,dead-letters --partitions 4
  graphsieve replay events.jsonl.zst --to kafka://localhost:9092/events --key product
  graphsieve score --model model4 --log kafka://localhost:9092 --state state

without any data:
  graphsieve demo

`graphsieve COMMAND --help` explains a command by example. Every knob stands in deploy/config.toml.
"""

LOG = "sqlite:FILE or kafka://HOST:PORT[,HOST:PORT]"
FILE = ".jsonl, .jsonl.gz or .jsonl.zst"
TO = f"{LOG}/TOPIC (where no topic is named: the knob topics.events)"

# A flag's name in the parsed arguments -> the knob that it sets.
KNOBS = {
    "max_batch": "score.max_batch",
    "max_wait": "score.max_wait",
    "group": "score.group",
    "snapshot_every": "score.snapshot_every",
    "events_topic": "topics.events",
    "scores_topic": "topics.scores",
    "dead_letters_topic": "topics.dead_letters",
    "delivery": "kafka.delivery",
    "instance": "kafka.instance",
    "metrics_port": "metrics.port",
    "metrics_host": "metrics.host",
}


def parser() -> argparse.ArgumentParser:
    """Return what parses a command line; `command` among its results is the command's whole name."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the report as one JSON document, the last line")
    shared.add_argument("--config", type=Path, metavar="FILE", help="knobs, as in deploy/config.toml")
    made = argparse.ArgumentParser(
        prog="graphsieve",
        description="Scores every new node of a graph for spam, milliseconds after the event that announced it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)

    def command_of(commands: Any, prefix: str = "") -> Command:
        def command(name: str, about: str, example: str) -> argparse.ArgumentParser:
            added: argparse.ArgumentParser = commands.add_parser(
                name, help=about, description=about, epilog=f"example:\n  {example}", parents=[shared],
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )  # fmt: skip
            added.set_defaults(command=prefix + name)
            return added

        return command

    def family(name: str, about: str, example: str, metavar: str) -> Command:
        """A word that is followed by another one, which says which command it is."""
        kinds = commands.add_parser(
            name, help=about, description=about, epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ).add_subparsers(metavar=metavar, required=True)  # fmt: skip
        return command_of(kinds, f"{name} ")

    command = command_of(commands)
    example = "graphsieve import reviews reviews.txt.gz --label-delay 30d --out events.jsonl.zst"
    _add_import(family("import", "turn a data set into a recorded event log", example, "KIND"))
    _add_offline(command)
    example = "graphsieve topics create kafka://localhost:9092/events --partitions 4"
    _add_topics(family("topics", "make and list topics of Kafka", example, "WHAT"))
    _add_streaming(command)
    _add_looking(command)
    _add_operating(command)
    _add_trying(command)
    return made


def _add_import(command: Command) -> None:
    delayed = "--label-delay 30d --out events.jsonl.zst"
    about = "lines of: user product rating label date"
    reviews = command("reviews", about, f"graphsieve import reviews reviews.txt.gz {delayed}")
    reviews.add_argument("file", type=Path, metavar="FILE", help="plain or gzip")
    reviews.add_argument("--seed", type=int, default=0, help="shuffles the reviews of one day (default 0)")
    about = "rater,ratee,rating,seconds and user,label"
    network = command("network", about, f"graphsieve import network ratings.csv labels.csv {delayed}")
    network.add_argument("ratings", type=Path, metavar="RATINGS")
    network.add_argument("labels", type=Path, metavar="LABELS")
    about = "made-up users, products and spam campaigns, into a file or live onto a log"
    example = "graphsieve import synthetic --to kafka://localhost:9092/events --rate 1000 --key product"
    synthetic = command("synthetic", about, example)
    many = "how many (default: 100000 into a file; without end onto a log, until Ctrl-C)"
    synthetic.add_argument("--events", type=_positive, metavar="N", help=many)
    synthetic.add_argument("--seed", type=int, default=0)
    burst = "the first N at once, before --rate holds: a past to begin with"
    synthetic.add_argument("--burst", type=_not_negative, default=0, metavar="N", help=burst)
    target = synthetic.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", metavar="LOG", help=TO)
    target.add_argument("--out", type=Path, metavar="EVENTS", help=FILE)
    for kind in (reviews, network):
        kind.add_argument("--out", type=Path, required=True, metavar="EVENTS", help=FILE)
        kind.add_argument("--label-delay", default="30d", metavar="SPAN", help="a label comes this late (default 30d)")
    _add_sending(synthetic)


def _add_offline(command: Command) -> None:
    train = command(
        "train", "train a model on a recorded event log",
        "graphsieve train events.jsonl.zst --schema deploy/schemas/reviews.toml --out model",
    )  # fmt: skip
    train.add_argument("events", type=Path, metavar="EVENTS", help="recorded events, with label events among them")
    train.add_argument("--schema", type=Path, required=True, help="how messages become the graph; see deploy/schemas")
    train.add_argument("--hidden", type=_positive, default=32, help="channels a branch (default 32)")
    train.add_argument("--epochs", type=_positive, default=40, help="at most; validation stops earlier (default 40)")
    train.add_argument("--transform", choices=("quantile", "standardised"), default="quantile", help="of the inputs")
    prune = command(
        "prune", "prune a model's channels to a budget of multiply-adds",
        "graphsieve prune model events.jsonl.zst --budget 4 --out model4",
    )  # fmt: skip
    prune.add_argument("model", type=Path, metavar="MODEL")
    prune.add_argument("events", type=Path, metavar="EVENTS", help="the log that the model was trained on")
    prune.add_argument("--budget", type=float, default=4.0, help="4: a quarter of the work a target (default)")
    schemes = "batched prunes the relations harder than self; full gives all branches one choice"
    prune.add_argument("--scheme", choices=("batched", "full"), default="batched", help=schemes)
    prune.add_argument("--method", choices=("lasso", "random", "first", "magnitude"), default="lasso")
    _add_evaluate(command)
    for added in (train, prune):
        wanted = "the threshold: so much of what is called spam shall be spam (default: where F1 is best)"
        added.add_argument("--precision", type=_share, metavar="SHARE", help=wanted)
        added.add_argument("--seed", type=int, default=0)
        added.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint")


def _add_evaluate(command: Command) -> None:
    evaluate = command(
        "evaluate", "run an experiment: train, prune and judge with several seeds",
        "graphsieve evaluate graph.npz --budgets 2,4,8 --schemes full,batched --methods lasso,magnitude --seeds 5",
    )  # fmt: skip
    evaluate.description = (
        "Run an experiment of this repository (experiments/*.toml), the one on whole graphs on any .npz file, or the\n"
        "one on streams on any recorded events. Every finished training is a line in WORK/NAME.jsonl: a run that was\n"
        "stopped goes on."
    )
    evaluate.add_argument("what", type=Path, metavar="EXPERIMENT.toml|GRAPH.npz|EVENTS")
    evaluate.add_argument("--schema", type=Path, help="of events: how messages become the graph")
    evaluate.add_argument("--quick", action="store_true", help="of a .toml: what its table [quick] makes smaller")
    evaluate.add_argument("--budgets", type=_numbers, metavar="N,N", help="of a file: 4 for a quarter of the work")
    evaluate.add_argument("--schemes", type=_words, metavar="WORD,WORD", help="of a file: full, batched")
    methods = "of a file: lasso, random, first, magnitude; of a graph also paper and small"
    evaluate.add_argument("--methods", type=_words, metavar="WORD,WORD", help=methods)
    evaluate.add_argument("--seeds", type=_positive, metavar="N", help="how many")
    work = Path("experiments/work")
    evaluate.add_argument("--work", type=Path, default=work, metavar="FOLDER", help=f"(default {work})")
    evaluate.add_argument("--out", type=Path, metavar="FOLDER", help="NAME.json and plots (default: the work folder)")
    evaluate.add_argument("--page", type=Path, metavar="FILE.md", help="write the tables into their places there")


def _add_topics(command: Command) -> None:
    example = (
        "graphsieve topics create kafka://localhost:9092/events,scores,dead-letters --partitions 4 --retention 30d"
    )
    create = command("create", "make topics of Kafka, all alike; one that is there already is an error", example)
    create.add_argument("url", metavar="kafka://HOST:PORT/TOPIC[,TOPIC]")
    create.add_argument(
        "--partitions", type=_positive, required=True, metavar="N", help="each is a shard, a graph of its own"
    )
    create.add_argument("--replication", type=_positive, metavar="N", help="copies (default: the brokers' own)")
    kept = "how long messages stay, like 30d, or forever (default: the brokers' own)"
    create.add_argument("--retention", metavar="SPAN", help=kept)
    create.add_argument("--compact", action="store_true", help="keep only the newest message of each key")
    listed = command("list", "list a cluster's topics", "graphsieve topics list kafka://localhost:9092")
    listed.add_argument("url", metavar="kafka://HOST:PORT")


def _add_streaming(command: Command) -> None:
    replay = command(
        "replay", "put recorded events on a log",
        "graphsieve replay events.jsonl.zst --to kafka://localhost:9092/events --key product --rate 5000",
    )  # fmt: skip
    replay.description = (
        "Put recorded events on a log, byte for byte, with their keys and headers. The log gives them positions and\n"
        "times of its own; those of the record stay in the record, which trains and is scored as it is."
    )
    replay.add_argument("events", type=Path, metavar="EVENTS")
    replay.add_argument("--to", required=True, metavar="LOG", help=TO)
    replay.add_argument("--speed", default="max", help="1x as it happened, 60x sixty times faster, max (default)")
    replay.add_argument("--schema", type=Path, help="where an application's own messages hold their time and ids")
    replay.add_argument("--pack", type=_positive, metavar="N", help="N events in one packed message")
    _add_sending(replay)
    score = command(
        "score", "serve: score every target of a log, exactly once",
        "graphsieve score --model model4 --log kafka://localhost:9092 --state state --metrics-port 9108",
    )  # fmt: skip
    score.add_argument("--model", type=Path, required=True)
    score.add_argument("--log", required=True, metavar="LOG", help=LOG)
    score.add_argument("--state", required=True, metavar="DIR|URL", help="snapshots; shared by the group's consumers")
    score.add_argument("--until-end", action="store_true", help="stop at the log's present end")
    score.add_argument("--max-batch", metavar="N", help="messages scored together")
    score.add_argument("--max-wait", metavar="SPAN", help="the longest wait for company")
    score.add_argument("--snapshot-every", metavar="SPAN")
    score.add_argument("--dead-letters", dest="dead_letters_topic", metavar="TOPIC", help="where bad events go")
    score.add_argument("--delivery", choices=("exactly-once", "at-least-once"), help="of scores, on Kafka")
    score.add_argument("--instance", metavar="NAME", help="of this consumer: a quick restart moves no partitions")
    score.add_argument("--group", help="consumers of one group share one position")
    _add_scored(score)
    quality = command(
        "quality", "judge published scores by the labels that came since",
        "graphsieve quality --log sqlite:log.db --last 0.3",
    )  # fmt: skip
    quality.add_argument("--log", required=True, metavar="LOG", help=LOG)
    quality.add_argument("--after", type=int, metavar="POSITION", help="only scores of events behind it")
    quality.add_argument("--last", type=_share, metavar="SHARE", help="only this last share of the labelled scores")
    quality.add_argument("--schema", type=Path, help="where an application's own messages hold their labels")
    told = "a checkpoint, for what to expect and how far events and scores have drifted; its schema is used"
    quality.add_argument("--model", type=Path, help=told)
    quality.add_argument("--follow", action="store_true", help="stay, on all partitions, and serve figures as metrics")
    quality.add_argument("--group", help="the scoring group that is followed")
    _add_scored(quality)
    _add_partition(quality)
    for served in (score, quality):
        served.add_argument("--metrics-port", metavar="PORT", help="serve /metrics, /healthz, /readyz there")
        served.add_argument("--metrics-host", metavar="HOST")


def _add_looking(command: Command) -> None:
    record = command(
        "record", "copy a topic to a recorded file, with positions, times, keys and headers",
        "graphsieve record --log kafka://localhost:9092 --topic events --partition 0 --out events.jsonl.zst",
    )  # fmt: skip
    record.add_argument("--log", required=True, metavar="LOG", help=LOG)
    record.add_argument("--topic", required=True, help="events, scores, dead-letters, or any other")
    record.add_argument("--from", dest="first", type=_not_negative, metavar="POSITION", help="(default: the first)")
    record.add_argument("--to", dest="end", type=_not_negative, metavar="POSITION", help="before it (default: the end)")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help=FILE)
    record.add_argument("--group", help="where topics were merged: the scoring group that merged them")
    _add_partition(record)
    audit = command(
        "audit", "recompute published scores with the slow twin",
        "graphsieve audit --model model4 --log sqlite:log.db --sample 500",
    )  # fmt: skip
    audit.add_argument("--model", type=Path, required=True)
    audit.add_argument("--log", required=True, metavar="LOG", help=LOG)
    audit.add_argument("--sample", type=_positive, default=500, help="how many scores (default 500)")
    audit.add_argument("--group", help="the scoring group")
    _add_scored(audit)
    _add_partition(audit)
    explain = command(
        "explain", "say why a node has its score, in words, numbers and a drawing",
        "graphsieve explain --model model4 --log sqlite:log.db --id r17 --out r17.png",
    )  # fmt: skip
    explain.description = (
        "Replay a log up to a node's event, and split its score over what the event said and each relation, with the\n"
        "lists that it read. docs/explain.md says how to read it. Publishes nothing, moves no position."
    )
    explain.add_argument("--model", type=Path, required=True)
    explain.add_argument("--log", required=True, metavar="LOG", help=LOG)
    explain.add_argument("--id", required=True, help="of the node, as its event names it")
    which = "of the event whose score is explained (default: the node's last one)"
    explain.add_argument("--position", type=_not_negative, metavar="P", help=which)
    begun = "begin at a snapshot of the consumer's where one is early enough (default: at the log's beginning)"
    explain.add_argument("--state", metavar="DIR|URL", help=begun)
    explain.add_argument("--events", dest="events_topic", metavar="TOPIC[,TOPIC]", help="several are merged into one")
    explain.add_argument("--group", help="the scoring group")
    explain.add_argument("--out", type=Path, metavar="FILE.png", help="draw it")
    _add_partition(explain)
    inspect = command("inspect", "say what is in a checkpoint, snapshot or log", "graphsieve inspect model4")
    inspect.add_argument("what", metavar="MODEL|STATE|LOG", help=f"a folder, a recorded file, {LOG}")
    inspect.add_argument("--group", help="of a log: only this one (default: all)")
    inspect.add_argument("--nodes", type=_positive, metavar="N", help="of a checkpoint: what a shard of N will weigh")
    inspect.add_argument("--lists", type=_positive, metavar="N", help="... with so many lists (default: as many)")


def _add_operating(command: Command) -> None:
    doctor = command(
        "doctor", "look at all that a consumer needs: each with ok, or with the fix",
        "graphsieve doctor --model model4 --log kafka://localhost:9092 --state state --events reviews",
    )  # fmt: skip
    doctor.description = (
        "Look at what a consumer needs, before it starts or beside one that runs. Takes the words of `score`.\n"
        "What is not given is not looked at. Publishes nothing, moves no position, joins no group.\n"
        "Exit code 2 where there is a problem."
    )
    doctor.add_argument("--model", type=Path)
    doctor.add_argument("--log", metavar="LOG", help=LOG)
    doctor.add_argument("--state", metavar="DIR|URL")
    doctor.add_argument("--dead-letters", dest="dead_letters_topic", metavar="TOPIC")
    doctor.add_argument("--delivery", choices=("exactly-once", "at-least-once"))
    doctor.add_argument("--instance", metavar="NAME")
    doctor.add_argument("--group")
    doctor.add_argument("--metrics-port", metavar="PORT")
    doctor.add_argument("--metrics-host", metavar="HOST")
    _add_scored(doctor)
    top = command(
        "top", "watch consumers live in a terminal, from their metrics",
        "graphsieve top http://localhost:9108 http://localhost:9109",
    )  # fmt: skip
    top.add_argument(
        "urls", nargs="*", default=["http://127.0.0.1:9108"], metavar="URL", help="(default port 9108 here)"
    )
    top.add_argument("--every", type=_interval, default=2.0, metavar="SECONDS", help="between two looks (default 2)")
    top.add_argument("--once", action="store_true", help="print one picture, of the next so many seconds, and end")


BENCHES = {
    "core": "the stages beside their peers",
    "embedded": "log to scores",
    "kafka": "next to a broker",
    "kafka_handover": "a shard of a million nodes changes its consumer",
    "kafka_soak": "steady load at half the maximum, lag and memory",
    "train": "messages to checkpoint",
    "load": "latency and micro-batches from a quiet log to a full one",
    "recovery": "snapshots of a million nodes",
    "startup": "process start to first score",
    "scale": "time and memory as the graph grows",
    "memory": "bytes a node and a list",
    "full": "whole graphs, all nodes at once",
    "soak": "a long stream",
}


def _add_trying(command: Command) -> None:
    demo = command("demo", "train, prune and serve a synthetic stream", "graphsieve demo --out demo")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="(default demo)")
    demo.add_argument("--seed", type=int, default=0)
    about = "measure: " + ", ".join(f"{name} ({what})" for name, what in BENCHES.items())
    bench = command("bench", about, "graphsieve bench embedded")
    bench.add_argument("which", choices=tuple(BENCHES))
    bench.add_argument("--events", type=_positive, help="how many events, or nodes (default: the bench's own)")
    bench.add_argument("--repeats", type=_positive, default=3)
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="core, load and scale: a picture of the figures")
    bench.add_argument("--out", type=Path, metavar="FOLDER", help="write the report there, as NAME.json")
    bench.add_argument("--page", type=Path, metavar="FILE.md", help="write the tables into their places there")
    bench.add_argument("--log", metavar="kafka://HOST:PORT", help="kafka*: on these brokers (default: one of its own)")
    bench.add_argument("--minutes", type=_positive, default=30, help="kafka_soak: for so long (default 30)")


def _add_sending(command: argparse.ArgumentParser) -> None:
    """How events are put on a log."""
    field = "key messages by this field (a dotted path), labels as the node that they judge (default: their own keys)"
    command.add_argument("--key", metavar="FIELD", help=field)
    command.add_argument("--rate", type=_rate, default=float("inf"), metavar="N", help="events a second at most")


def _add_scored(command: argparse.ArgumentParser) -> None:
    """Where the events and their scores are."""
    command.add_argument("--events", dest="events_topic", metavar="TOPIC[,TOPIC]", help="several are merged into one")
    command.add_argument("--scores", dest="scores_topic", metavar="TOPIC")


def _add_partition(command: argparse.ArgumentParser) -> None:
    command.add_argument("--partition", type=_not_negative, metavar="P", help="of topics that have several: one shard")


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 3600 seconds")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return value
