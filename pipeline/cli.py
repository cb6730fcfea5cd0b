"""The command line: options in, one of the commands below, a report out.

A command's function imports what it needs when it is called, so that `graphsieve score` starts without torch,
scikit-learn or networkx. Nothing imports this module.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, GraphsieveError

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.log import Log, Record

Args = argparse.Namespace

EXAMPLES = """
first steps, on real reviews:
  graphsieve import reviews reviews.txt.gz --label-delay 30d --out events.jsonl.zst
  graphsieve train events.jsonl.zst --schema deploy/schemas/reviews.toml --out model
  graphsieve prune model events.jsonl.zst --budget 4 --out model4
  graphsieve replay events.jsonl.zst --to sqlite:reviews.db
  graphsieve score --model model4 --log sqlite:reviews.db --state state --until-end
  graphsieve quality --log sqlite:reviews.db --last 0.3

without any data:
  graphsieve demo

`graphsieve COMMAND --help` explains a command by example. Every knob stands in deploy/config.toml.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 2 for an error that its reader can mend, 130 after Ctrl-C."""
    # Small matrices on few cores: a thread pool costs more than it gives. Set before numpy is imported.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    args = _parser().parse_args(argv)
    try:
        report = args.run(args)
    except GraphsieveError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(f"this command needs {error.name}: pip install 'graphsieve[train]'")
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    _print_report(report, args.json)
    return 0


def _fail(message: str) -> int:
    print(f"graphsieve: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import msgspec

        print(msgspec.json.encode(report).decode(), flush=True)
        return
    for line in _readable(report):
        print(line)


def _readable(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each value, wrapped; a table within a table one step to the right."""
    import textwrap

    width = max(map(len, report), default=0)
    for name, value in report.items():
        if isinstance(value, dict) and any(isinstance(inner, dict | list) for inner in value.values()):
            yield indent + name
            yield from _readable(value, indent + "  ")
        else:
            start = f"{indent}{name:<{width}}  "
            yield from textwrap.wrap(_text(value), 110, initial_indent=start, subsequent_indent=" " * len(start)) or [
                start
            ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)


def _say(line: str) -> None:
    print(f"graphsieve: {line}", file=sys.stderr, flush=True)


# ---- commands ----


def _import_reviews(args: Args) -> dict[str, Any]:
    from producers.reviews import read_reviews, review_events, review_summary

    table = read_reviews(args.file)
    count = _write_lines(args.out, review_events(table, _duration(args.label_delay), args.seed))
    return {"events": count, "out": str(args.out), **review_summary(table, args.seed)}


def _import_network(args: Args) -> dict[str, Any]:
    from producers.networks import network_events, network_summary, read_network

    table = read_network(args.ratings, args.labels)
    count = _write_lines(args.out, network_events(table, _duration(args.label_delay)))
    return {"events": count, "out": str(args.out), **network_summary(table)}


def _import_synthetic(args: Args) -> dict[str, Any]:
    from producers.synthetic import synthetic_events

    count = _write_lines(args.out, synthetic_events(args.seed, args.events))
    return {"events": count, "out": str(args.out), "seed": args.seed}


def _train(args: Args) -> dict[str, Any]:
    from pipeline.fit import FitOptions
    from pipeline.schema import load_schema
    from pipeline.train import TrainOptions, train

    fit = FitOptions(seed=args.seed, epochs=args.epochs)
    options = TrainOptions(hidden=args.hidden, transform=args.transform, fit=fit)
    model, report = train(load_schema(args.schema), _with_progress(_recorded(args.events), "replay"), options)
    model.save(args.out)
    return {**report, "multiply_adds": model.multiply_adds, "model": model.version, "out": str(args.out)}


def _prune(args: Args) -> dict[str, Any]:
    from dataclasses import replace

    from pipeline.model import load_model
    from pipeline.prune import PruneOptions, prune

    options = PruneOptions(budget=args.budget, scheme=args.scheme, method=args.method)
    options = replace(options, fit=replace(options.fit, seed=args.seed))
    model, report = prune(load_model(args.model), _with_progress(_recorded(args.events), "replay"), options)
    model.save(args.out)
    return {**report, "model": model.version, "out": str(args.out)}


def _replay(args: Args) -> dict[str, Any]:
    from pipeline.log_url import open_log
    from producers.replay import replay

    source = _recorded(args.events)
    if args.pack:
        source = _packed(source, args.pack, args.schema)
    with _progress("replay", "message") as bar:
        log = open_log(args.to)
        try:
            report = replay(
                source, log, _config(args).topics.events,
                speed=_speed(args.speed), ts_of=_ts_reader(args.schema), progress=bar.update,
            )  # fmt: skip
        finally:
            log.close()
    speed = round(report.events_per_second)
    return {"events": report.events, "seconds": round(report.seconds, 3), "events_per_s": speed}


def _score(args: Args) -> dict[str, Any]:
    from consumers.service import serve_scores
    from pipeline.model import load_model

    with _progress("recover", "event") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return serve_scores(load_model(args.model), args.log, args.state, _config(args), args.until_end, _say, show)


def _quality(args: Args) -> dict[str, Any]:
    import functools

    from consumers.quality import quality
    from consumers.service import serve_quality
    from pipeline.decoder import Decoder, labels_of
    from pipeline.schema import load_schema, parse_schema

    if args.schema:
        schema = load_schema(args.schema)
    else:  # our own label events need no more than this
        plain = {"name": "labels", "features": {"day": {"kind": "weekday"}}, "relations": {"id": {"group_by": ["id"]}}}
        schema = parse_schema(plain, "labels")
    labels = functools.partial(labels_of, Decoder(schema))
    if args.follow:
        return serve_quality(args.log, labels, _config(args), _say)
    log = _existing_log(args.log)
    try:
        return quality(log, labels, after=args.after, last=args.last)
    finally:
        log.close()


def _audit(args: Args) -> dict[str, Any]:
    import msgspec

    from pipeline.audit import audit
    from pipeline.model import load_model

    topics = _config(args).topics
    log = _existing_log(args.log)
    try:
        with _progress("audit", "message") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = audit(load_model(args.model), log, topics.events, topics.scores, args.sample, show)
    finally:
        log.close()
    report: dict[str, Any] = msgspec.to_builtins(result)
    return report


def _record(args: Args) -> dict[str, Any]:
    from pipeline.recorded import RecordedWriter

    topics = _config(args).topics
    log = _existing_log(args.log)
    flat = args.topic in (topics.scores, topics.dead_letters)  # our own JSON, which carries its position
    try:
        with RecordedWriter(args.out) as writer:
            for record in _with_progress(_records(log, args.topic), "record"):
                if flat:
                    writer.write_line(record.value)
                else:
                    writer.write_record(record)
        return {"messages": log.end(args.topic), "topic": args.topic, "out": str(args.out)}
    finally:
        log.close()


def _inspect(args: Args) -> dict[str, Any]:
    from pipeline.inspect import inspect

    return inspect(args.what)


def _demo(args: Args) -> dict[str, Any]:
    from pipeline.demo import demo
    from pipeline.demo_report import table

    report = demo(args.out, args.seed, _say)
    if args.json:
        return report
    print(table(report))
    return {}


def _bench(args: Args) -> dict[str, Any]:
    import importlib

    bench = importlib.import_module(f"pipeline.bench.{args.which}")
    report: dict[str, Any] = bench.run(args)
    return report


# ---- what commands share ----


def _config(args: Args) -> "Config":
    from pipeline.config import load_config

    flags = {knob: getattr(args, name, None) for name, knob in FLAGS.items()}
    return load_config(args.config, flags)


# A flag's name in `args` -> the knob that it sets.
FLAGS = {
    "max_batch": "score.max_batch",
    "max_wait": "score.max_wait",
    "group": "score.group",
    "snapshot_every": "score.snapshot_every",
    "metrics_port": "metrics.port",
    "metrics_host": "metrics.host",
}


def _duration(text: str) -> float:
    from pipeline.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _speed(text: str) -> float:
    try:
        return float("inf") if text == "max" else float(text.removesuffix("x"))
    except ValueError:
        raise ConfigError(f"speed {text!r}: expected 1x, 60x, any other number, or max") from None


def _recorded(path: Path) -> Iterator["Record"]:
    from pipeline.recorded import read_messages

    return read_messages(path)


def _ts_reader(schema_path: Path | None) -> Callable[["Record"], float | None]:
    """How to tell a message's event time: by the schema, or by our own field `ts`."""
    import msgspec

    if schema_path is None:
        struct = msgspec.defstruct("Timed", [("ts", float | None, None)])
        decode = msgspec.json.Decoder(struct).decode

        def ts_of(record: "Record") -> float | None:
            try:
                timed: Any = decode(record.value)
            except (ValueError, RecursionError):
                return None
            ts: float | None = timed.ts
            return ts

        return ts_of
    from pipeline.decoder import Decoder
    from pipeline.schema import load_schema

    decoder = Decoder(load_schema(schema_path))

    def ts_by_schema(record: "Record") -> float | None:
        batch, _ = decoder.decode([record])
        return float(batch.ts[0]) if len(batch) and batch.ts[0] > 0 else None

    return ts_by_schema


def _packed(source: Iterator["Record"], size: int, schema_path: Path | None) -> Iterator["Record"]:
    from pipeline.schema import load_schema
    from producers.replay import packed

    if schema_path is None:
        raise ConfigError("--pack needs --schema: a packed message holds the channels and relations of one")
    return packed(source, load_schema(schema_path), size)


def _existing_log(url: str) -> "Log":
    from pipeline.log_url import open_log

    return open_log(url, create=False)


def _records(log: "Log", topic: str) -> Iterator["Record"]:
    from pipeline.log import read_to_end

    for records in read_to_end(log, topic):
        yield from records


def _write_lines(path: Path, lines: Iterator[bytes]) -> int:
    from pipeline.recorded import RecordedWriter

    count = 0
    with RecordedWriter(path) as writer:
        for line in _with_progress(lines, "import"):
            writer.write_line(line)
            count += 1
    return count


def _progress(title: str, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(desc=title, unit=unit, unit_scale=True, leave=False, disable=None)


def _with_progress(items: Iterator[Any], title: str) -> Iterator[Any]:
    with _progress(title, "event") as bar:
        for item in items:
            yield item
            bar.update()


# ---- the options ----


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the report as one JSON document, the last line")
    shared.add_argument("--config", type=Path, metavar="FILE", help="knobs, as in deploy/config.toml")
    parser = argparse.ArgumentParser(
        prog="graphsieve",
        description="Scores every new node of a graph for spam, milliseconds after the event that announced it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, about: str, example: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=about, epilog=f"example:\n  {example}", parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(run=run)
        return added

    _add_import(commands, shared)
    _add_offline(command)
    _add_streaming(command)
    _add_looking(command)
    return parser


def _add_import(commands: Any, shared: argparse.ArgumentParser) -> None:
    about = "turn a data set into a recorded event log"
    example = "graphsieve import reviews reviews.txt.gz --label-delay 30d --out events.jsonl.zst"
    kinds = commands.add_parser(
        "import", help=about, description=about, epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).add_subparsers(metavar="KIND", required=True)  # fmt: skip
    reviews = kinds.add_parser("reviews", parents=[shared], help="lines of: user product rating label date")
    reviews.add_argument("file", type=Path, metavar="FILE", help="plain or gzip")
    reviews.add_argument("--seed", type=int, default=0, help="shuffles the reviews of one day (default 0)")
    reviews.set_defaults(run=_import_reviews)
    network = kinds.add_parser("network", parents=[shared], help="rater,ratee,rating,seconds and user,label")
    network.add_argument("ratings", type=Path, metavar="RATINGS")
    network.add_argument("labels", type=Path, metavar="LABELS")
    network.set_defaults(run=_import_network)
    synthetic = kinds.add_parser("synthetic", parents=[shared], help="made-up users, products and spam campaigns")
    synthetic.add_argument("--events", type=_positive, default=100_000, help="how many (default 100000)")
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(run=_import_synthetic)
    for kind in (reviews, network, synthetic):
        kind.add_argument("--out", type=Path, required=True, metavar="EVENTS", help=".jsonl, .jsonl.gz or .jsonl.zst")
    for kind in (reviews, network):
        kind.add_argument("--label-delay", default="30d", metavar="SPAN", help="a label comes this late (default 30d)")


def _add_offline(command: Callable[..., argparse.ArgumentParser]) -> None:
    train = command(
        "train", _train, "train a model on a recorded event log",
        "graphsieve train events.jsonl.zst --schema deploy/schemas/reviews.toml --out model",
    )  # fmt: skip
    train.add_argument("events", type=Path, metavar="EVENTS", help="recorded events, with label events among them")
    train.add_argument("--schema", type=Path, required=True, help="how messages become the graph; see deploy/schemas")
    train.add_argument("--hidden", type=_positive, default=16, help="channels a branch (default 16)")
    train.add_argument("--epochs", type=_positive, default=40, help="at most; validation stops earlier (default 40)")
    train.add_argument("--transform", choices=("quantile", "standardised"), default="quantile", help="of the inputs")
    prune = command(
        "prune", _prune, "prune a model's channels to a budget of multiply-adds",
        "graphsieve prune model events.jsonl.zst --budget 4 --out model4",
    )  # fmt: skip
    prune.add_argument("model", type=Path, metavar="MODEL")
    prune.add_argument("events", type=Path, metavar="EVENTS", help="the log that the model was trained on")
    prune.add_argument("--budget", type=float, default=4.0, help="4: a quarter of the work a target (default)")
    schemes = "batched prunes the relations harder than self; full gives all branches one choice"
    prune.add_argument("--scheme", choices=("batched", "full"), default="batched", help=schemes)
    prune.add_argument("--method", choices=("lasso", "random", "first", "magnitude"), default="lasso")
    for added in (train, prune):
        added.add_argument("--seed", type=int, default=0)
        added.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint")


def _add_streaming(command: Callable[..., argparse.ArgumentParser]) -> None:
    replay = command(
        "replay", _replay, "put recorded events on a log", "graphsieve replay events.jsonl.zst --to sqlite:log.db"
    )
    replay.add_argument("events", type=Path, metavar="EVENTS")
    replay.add_argument("--to", required=True, metavar="LOG", help="sqlite:FILE")
    replay.add_argument("--speed", default="max", help="1x as it happened, 60x sixty times faster, max (default)")
    replay.add_argument("--schema", type=Path, help="where an application's own messages hold their time")
    replay.add_argument("--pack", type=_positive, metavar="N", help="N events in one packed message")
    score = command(
        "score", _score, "serve: score every target of a log, exactly once",
        "graphsieve score --model model4 --log sqlite:log.db --state state --metrics-port 9108",
    )  # fmt: skip
    score.add_argument("--model", type=Path, required=True)
    score.add_argument("--log", required=True, metavar="LOG", help="sqlite:FILE")
    score.add_argument("--state", type=Path, required=True, metavar="DIR", help="snapshots; one consumer each")
    score.add_argument("--until-end", action="store_true", help="stop at the log's present end")
    score.add_argument("--max-batch", metavar="N", help="messages scored together")
    score.add_argument("--max-wait", metavar="SPAN", help="the longest wait for company")
    score.add_argument("--snapshot-every", metavar="SPAN")
    score.add_argument("--group", help="consumers of one group share one position")
    quality = command(
        "quality", _quality, "judge published scores by the labels that came since",
        "graphsieve quality --log sqlite:log.db --last 0.3",
    )  # fmt: skip
    quality.add_argument("--log", required=True, metavar="LOG")
    quality.add_argument("--after", type=int, metavar="POSITION", help="only scores of events behind it")
    quality.add_argument("--last", type=_share, metavar="SHARE", help="only this last share of the labelled scores")
    quality.add_argument("--schema", type=Path, help="where an application's own messages hold their labels")
    quality.add_argument("--follow", action="store_true", help="stay, and serve the figures as metrics")
    quality.add_argument("--group", help="the scoring group that is followed")
    for served in (score, quality):
        served.add_argument("--metrics-port", metavar="PORT", help="serve /metrics, /healthz, /readyz there")
        served.add_argument("--metrics-host", metavar="HOST")


def _add_looking(command: Callable[..., argparse.ArgumentParser]) -> None:
    record = command(
        "record", _record, "copy a topic to a recorded file",
        "graphsieve record --log sqlite:log.db --topic scores --out scores.jsonl",
    )  # fmt: skip
    record.add_argument("--log", required=True, metavar="LOG")
    record.add_argument("--topic", required=True, help="events, scores or dead-letters")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jsonl, .jsonl.gz or .jsonl.zst")
    audit = command(
        "audit", _audit, "recompute published scores with the slow twin",
        "graphsieve audit --model model4 --log sqlite:log.db --sample 500",
    )  # fmt: skip
    audit.add_argument("--model", type=Path, required=True)
    audit.add_argument("--log", required=True, metavar="LOG")
    audit.add_argument("--sample", type=_positive, default=500, help="how many scores (default 500)")
    inspect = command("inspect", _inspect, "say what is in a checkpoint, snapshot or log", "graphsieve inspect model4")
    inspect.add_argument("what", metavar="MODEL|STATE|LOG")
    demo = command("demo", _demo, "train, prune and serve a synthetic stream", "graphsieve demo --out demo")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="(default demo)")
    demo.add_argument("--seed", type=int, default=0)
    about = "measure: embedded (log to scores) or soak (a long stream)"
    bench = command("bench", _bench, about, "graphsieve bench embedded")
    bench.add_argument("which", choices=("embedded", "soak"))
    bench.add_argument("--events", type=_positive, help="how many events (default: the bench's own)")
    bench.add_argument("--repeats", type=_positive, default=3)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
