"""The command line: options in, one of the commands below, a report out.

A command's function imports what it needs when it is called, so that `graphsieve score` starts without torch,
scikit-learn or networkx. Nothing imports this module.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, GraphsieveError

if TYPE_CHECKING:
    from consumers.windows import Expected
    from pipeline.config import Config
    from pipeline.log import Log, Record
    from pipeline.schema import Schema

Args = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 2 for an error that its reader can mend, 130 after Ctrl-C."""
    # Small matrices on few cores: a thread pool costs more than it gives. Set before numpy is imported.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from pipeline.options import parser

    args = parser().parse_args(argv)
    _configure_logs()
    try:
        report = COMMANDS[args.command](args)
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


def _configure_logs(config: "Config | None" = None) -> None:
    from pipeline.config import Logging
    from pipeline.logs import configure

    configure(Logging() if config is None else config.logging)


def _fail(message: str) -> int:
    from pipeline.logs import ERROR, line, say

    say(line(message, ERROR))
    return 2


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import msgspec

        print(msgspec.json.encode(report).decode(), flush=True)
        return
    from pipeline.report_text import readable

    for line in readable(report):
        print(line)


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
    from pipeline.log import JSON, Record
    from producers.synthetic import synthetic_events

    if args.out is not None:
        if args.key is not None or math.isfinite(args.rate) or args.burst:
            how = "--key, --rate and --burst say how events are put on a log"
            raise ConfigError(f"{how}: name one with --to, in place of --out")
        count = _write_lines(args.out, synthetic_events(args.seed, args.events or 100_000))
        return {"events": count, "out": str(args.out), "seed": args.seed}
    lines = synthetic_events(args.seed, args.events)
    records = (Record(i, line, None, JSON, math.nan) for i, line in enumerate(lines))
    sent = _send(args, records if args.events else _until_stopped(records), None, burst=args.burst)
    return {**sent, "seed": args.seed}


def _train(args: Args) -> dict[str, Any]:
    from pipeline.fit import FitOptions
    from pipeline.schema import load_schema
    from pipeline.train import TrainOptions, train

    fit = FitOptions(seed=args.seed, epochs=args.epochs)
    options = TrainOptions(hidden=args.hidden, transform=args.transform, precision=args.precision, fit=fit)
    model, report = train(load_schema(args.schema), _with_progress(_recorded(args.events), "replay"), options)
    model.save(args.out)
    return {**report, "multiply_adds": model.multiply_adds, "model": model.version, "out": str(args.out)}


def _prune(args: Args) -> dict[str, Any]:
    from dataclasses import replace

    from pipeline.model import load_model
    from pipeline.prune import PruneOptions, prune

    options = PruneOptions(budget=args.budget, scheme=args.scheme, method=args.method, precision=args.precision)
    options = replace(options, fit=replace(options.fit, seed=args.seed))
    model, report = prune(load_model(args.model), _with_progress(_recorded(args.events), "replay"), options)
    model.save(args.out)
    return {**report, "model": model.version, "out": str(args.out)}


def _evaluate(args: Args) -> dict[str, Any]:
    import msgspec

    from pipeline.experiments.command import Wanted, evaluate_any
    from pipeline.page import as_text

    names = ("budgets", "schemes", "methods", "seeds")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    wanted = Wanted(args.what, given, args.quick, args.schema)
    found, tables = evaluate_any(wanted, args.work, args.out or args.work, args.page)
    if not args.json:
        print(as_text(tables))
        return {}
    report: dict[str, Any] = msgspec.to_builtins(found)
    return report


def _replay(args: Args) -> dict[str, Any]:
    from pipeline.schema import load_schema

    schema = None if args.schema is None else load_schema(args.schema)
    if args.pack and schema is None:
        raise ConfigError("--pack needs --schema: a packed message holds the channels and relations of one")
    return _send(args, _recorded(args.events), schema, _speed(args.speed), args.pack)


def _create_topics(args: Args) -> dict[str, Any]:
    from pipeline.log_url import open_cluster, split_kafka_url

    _, names = split_kafka_url(args.url)
    if names is None:
        raise ConfigError(f"{args.url} names no topic: expected kafka://HOST:PORT/TOPIC[,TOPIC]")
    cluster = open_cluster(args.url, _config(args))
    from pipeline.kafka_log.topics import create_topic, partition_counts

    configs: dict[str, str] = {}
    if args.retention is not None:
        forever = args.retention == "forever"
        configs["retention.ms"] = "-1" if forever else str(round(_duration(args.retention) * 1000))
    if args.compact:
        configs["cleanup.policy"] = "compact"
    topics = list(dict.fromkeys(names.split(",")))
    if existing := sorted(set(topics) & set(partition_counts(cluster))):
        raise ConfigError(f"{', '.join(existing)}: there already; nothing was made, leave these out")
    for topic in topics:
        create_topic(cluster, topic, args.partitions, args.replication, configs)
    return {"topics": {topic: {"partitions": args.partitions, **configs} for topic in topics}}


def _list_topics(args: Args) -> dict[str, Any]:
    from pipeline.log_url import open_cluster

    cluster = open_cluster(args.url, _config(args))
    from pipeline.kafka_log.topics import partition_counts

    return {"topics": {topic: {"partitions": count} for topic, count in partition_counts(cluster).items()}}


def _score(args: Args) -> dict[str, Any]:
    from consumers.service import serve_scores
    from pipeline.logs import say
    from pipeline.model import load_model

    with _progress("recover", "event") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        config = _config(args)  # first: it says how to log
        return serve_scores(load_model(args.model), args.log, args.state, config, args.until_end, say, show)


def _quality(args: Args) -> dict[str, Any]:
    from consumers.quality import quality
    from consumers.service import serve_quality
    from consumers.windows import Windows
    from pipeline.decoder import Decoder
    from pipeline.logs import say

    schema, expected = _judged_by(args)
    config, decoder = _config(args), Decoder(schema)
    if args.follow:
        if args.after is not None or args.last is not None:
            raise ConfigError("--after and --last choose from a log that is read to its end: leave out --follow")
        return serve_quality(args.log, args.partition, decoder, expected, config, say)
    log, windows = _existing_log(args, config), Windows(config.quality, expected)
    try:
        figures = quality(log, decoder, after=args.after, last=args.last, topics=config.topics, windows=windows)
        return {**figures, **windows.report()}
    finally:
        log.close()


def _judged_by(args: Args) -> "tuple[Schema, Expected | None]":
    """Return how labels are read, and what is expected where there is a checkpoint."""
    from pipeline.schema import load_schema, parse_schema

    if args.model and args.schema:
        raise ConfigError("--model and --schema: a model has a schema of its own, expected one of the two")
    if args.schema:
        return load_schema(args.schema), None
    if not args.model:  # our own label events need no more than this
        plain = {"name": "labels", "features": {"day": {"kind": "weekday"}}, "relations": {"id": {"group_by": ["id"]}}}
        return parse_schema(plain, "labels"), None
    from consumers.windows import Expected
    from pipeline.logs import say
    from pipeline.model import load_model

    model = load_model(args.model)
    expected = Expected.of(model)
    if expected.reference is None:
        say(f"the model in {args.model} holds no reference, for an older version trained it: drift is not told")
    return model.schema, expected


def _audit(args: Args) -> dict[str, Any]:
    import msgspec

    from pipeline.audit import audit
    from pipeline.model import load_model

    config = _config(args)
    log = _existing_log(args, config)
    try:
        with _progress("audit", "message") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            topics = config.topics
            result = audit(
                load_model(args.model), log, config.score.group, topics.events, topics.scores, args.sample, show
            )
    finally:
        log.close()
    report: dict[str, Any] = msgspec.to_builtins(result)
    return report


def _explain(args: Args) -> dict[str, Any]:
    from pipeline.explained import as_report, explanation
    from pipeline.explained_text import lines
    from pipeline.logs import say
    from pipeline.model import load_model
    from pipeline.retrace import find_moment
    from pipeline.snapshot_store import look_into_shard_store

    if args.out is not None and args.out.suffix != ".png":
        raise ConfigError(f"--out {args.out}: expected a name that ends in .png")
    config, model = _config(args), load_model(args.model)
    log = _existing_log(args, config)
    store = look_into_shard_store(args.state, args.log, config, args.partition or 0) if args.state else None
    try:
        with _progress("explain", "message") as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            where = config.score.group, config.topics.events, args.id, args.position
            explained = explanation(model, find_moment(model, log, *where, store, say, show))
    finally:
        log.close()
    report = as_report(explained)
    if args.out is not None:
        from pipeline.explained_drawing import draw

        report["picture"] = str(draw(explained, args.out))
    if args.json:
        return report
    print(*lines(explained, model.schema), sep="\n")
    return {}


def _record(args: Args) -> dict[str, Any]:
    from pipeline.log import JSON, read_to_end
    from pipeline.log_url import is_kafka
    from pipeline.recorded import RecordedWriter

    config, topic = _config(args), args.topic
    ours = not is_kafka(args.log) and topic in (config.topics.scores, config.topics.dead_letters)
    log = _existing_log(args, _reading(config, topic))
    count = 0
    try:
        begin = log.begin(topic) if args.first is None else args.first
        end = log.end(topic) if args.end is None else min(args.end, log.end(topic))
        with RecordedWriter(args.out) as writer, _progress("record", "message") as bar:
            for records in read_to_end(log, topic, begin, end):
                for record in records:
                    if (
                        ours and record.content_type == JSON
                    ):  # it tells its position itself: a line that people can read
                        writer.write_line(record.value)
                    else:
                        writer.write_record(record)
                count += len(records)
                bar.update(len(records))
        return {"messages": count, "topic": topic, "out": str(args.out)}
    finally:
        log.close()


def _inspect(args: Args) -> dict[str, Any]:
    from pipeline.inspect import inspect

    return inspect(args.what, _config(args), args.group, args.nodes, args.lists)


def _doctor(args: Args) -> dict[str, Any]:
    import shutil

    from pipeline.doctor.examine import as_report, examine
    from pipeline.doctor.finding import Setup
    from pipeline.doctor.report import is_coloured, table

    examined = examine(Setup(args.config, _flags(args), args.model, args.log, args.state))
    report = as_report(examined)
    if args.json:
        _print_report(report, as_json=True)
    else:
        width = shutil.get_terminal_size((100, 0)).columns
        print(*table(examined, width, is_coloured(sys.stdout)), sep="\n")
    sys.exit(2 if report["problems"] else 0)


def _top(args: Args) -> dict[str, Any]:
    from pipeline.top.live import as_report, live, once, picture

    if args.json:
        return as_report(once(args.urls, args.every))
    if args.once:
        print(*picture(once(args.urls, args.every), args.every), sep="\n")
    else:
        live(args.urls, args.every)
    return {}


def _demo(args: Args) -> dict[str, Any]:
    from pipeline.demo import demo
    from pipeline.demo_report import table
    from pipeline.logs import say

    report = demo(args.out, args.seed, say)
    if args.json:
        return report
    print(table(report))
    return {}


def _bench(args: Args) -> dict[str, Any]:
    import importlib

    from pipeline.bench.published import insert, write_report
    from pipeline.page import as_text

    bench = importlib.import_module(f"pipeline.bench.{args.which}")
    if not hasattr(bench, "tables") and (args.out or args.page):
        raise ConfigError(f"bench {args.which}: it tells its figures as it goes and leaves no file; drop --out, --page")
    report: dict[str, Any] = bench.run(args)
    if hasattr(bench, "tables"):
        tables = bench.tables(report)
        print(as_text(tables), flush=True)
        if args.out:
            write_report(report, args.out)
        if args.page:
            args.page.write_text(insert(args.page.read_text(encoding="utf-8"), report, tables), encoding="utf-8")
    return report


COMMANDS: dict[str, Callable[[Args], dict[str, Any]]] = {
    "import reviews": _import_reviews,
    "import network": _import_network,
    "import synthetic": _import_synthetic,
    "train": _train,
    "prune": _prune,
    "evaluate": _evaluate,
    "topics create": _create_topics,
    "topics list": _list_topics,
    "replay": _replay,
    "score": _score,
    "quality": _quality,
    "record": _record,
    "audit": _audit,
    "explain": _explain,
    "inspect": _inspect,
    "doctor": _doctor,
    "top": _top,
    "demo": _demo,
    "bench": _bench,
}

# ---- what commands share ----


def _config(args: Args) -> "Config":
    from pipeline.config import load_config

    config = load_config(args.config, _flags(args))
    _configure_logs(config)
    return config


def _flags(args: Args) -> dict[str, Any]:
    """The knobs that flags set, None where a flag was not given."""
    from pipeline.options import KNOBS

    return {knob: getattr(args, name, None) for name, knob in KNOBS.items()}


def _reading(config: "Config", topic: str) -> "Config":
    """The same configuration for a log of one topic, or of several that were merged."""
    from msgspec.structs import replace

    if "," not in topic + config.topics.events:
        return config
    return replace(config, topics=replace(config.topics, events=topic))


def _send(
    args: Args,
    source: Iterator["Record"],
    schema: "Schema | None",
    speed: float = math.inf,
    pack: int | None = None,
    burst: int = 0,
) -> dict[str, Any]:
    """Put messages on the log of --to."""
    from pipeline.log_url import open_log, split_topic
    from producers.keys import keyed, with_keys
    from producers.pace import time_reader
    from producers.replay import packed, replay

    config = _config(args)
    url, topic = split_topic(args.to)
    topic = topic or config.topics.events
    if "," in topic:
        raise ConfigError(f"{topic!r} are several topics, expected one; name it in --to, or in topics.events")
    partitions = _partitions(url, topic, config)
    if args.key is not None:
        source = keyed(source, args.key, schema)
    elif partitions > 1:
        source = with_keys(source, partitions)
    if pack and schema is not None:
        source = packed(source, schema, pack, _partition_by_key(partitions))
    log = open_log(url, _reading(config, topic))
    try:
        with _progress("replay", "message") as bar:
            report = replay(
                source, log, topic,
                speed=speed, rate=args.rate / (pack or 1), burst=burst, ts_of=time_reader(schema), progress=bar.update,
            )  # fmt: skip
    finally:
        log.close()
    rounded = {"seconds": round(report.seconds, 3), "events_per_s": round(report.events_per_second)}
    return {"events": report.events, **rounded}


def _partitions(url: str, topic: str, config: "Config") -> int:
    """How many partitions a topic has; 1 where there is no such topic, which appending to it will say."""
    from pipeline.log_url import is_kafka, open_cluster

    if not is_kafka(url):
        return 1
    cluster = open_cluster(url, config)
    from pipeline.kafka_log.topics import partition_counts

    return partition_counts(cluster).get(topic, 1)


def _partition_by_key(partitions: int) -> Callable[["Record"], int]:
    if partitions == 1:
        return lambda record: 0
    from pipeline.kafka_log.partitioner import partition_of

    return lambda record: partition_of(record.key, partitions)


def _until_stopped(items: Iterator[Any]) -> Iterator[Any]:
    """Yield items until Ctrl-C or SIGTERM; what a second one does is as ever."""
    import signal

    stopped = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        for item in items:
            if stopped:
                return
            yield item
    finally:
        restore()


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


def _existing_log(args: Args, config: "Config") -> "Log":
    from pipeline.log_url import open_log

    return open_log(args.log, config, create=False, partition=args.partition)


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


if __name__ == "__main__":
    sys.exit(main())
