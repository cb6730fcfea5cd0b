"""The doctor looks at what the process itself needs: knobs, versions, compiled code, clock, port, memory."""

import importlib.util
import os
import socket
import stat
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import NOT_KNOBS, PREFIX, load_config
from pipeline.device import CPU, usable
from pipeline.doctor.finding import Finding, Setup, ok, problem, warning
from pipeline.errors import ConfigError
from pipeline.log_url import is_kafka
from pipeline.memory_limit import memory_limit_bytes
from pipeline.report_text import byte_text, counted
from pipeline.top.scrape import fetch
from pipeline.versions import versions

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
SKEW_SECONDS = 5.0  # between clocks that are kept in step
PROBE_SECONDS = 2.0

# A serving process without any state, and how its state's size in memory compares with that of its snapshots: what
# grows has room to grow, and a snapshot is written from copies of some arrays.
EMPTY_PROCESS_BYTES = 300 * 10**6
MEMORY_OF_SNAPSHOT = 2.0


def look_at_config(setup: Setup) -> Iterator[Finding]:
    setup.config = load_config(setup.config_file, setup.flags)
    variables = [name for name in os.environ if name.startswith(PREFIX) and name not in NOT_KNOBS]
    flags = [knob for knob, value in setup.flags.items() if value is not None]
    told = [f"file {setup.config_file}" if setup.config_file else "no file"]
    told += [f"{counted(len(variables), 'variable')} ({', '.join(sorted(variables))})" if variables else "no variables"]
    told += [counted(len(flags), "flag") if flags else "no flags"]
    yield ok(", ".join(told))
    if setup.config_file is not None:
        yield from _secrets_in(setup.config_file)


def _secrets_in(path: Path) -> Iterator[Finding]:
    password = tomllib.loads(path.read_text(encoding="utf-8")).get("kafka", {}).get("password")
    if password and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield warning(
            f"{path} holds kafka.password, and others than its owner may read it",
            "set GRAPHSIEVE_KAFKA_PASSWORD in its place, or chmod 600",
        )


def look_at_software(setup: Setup) -> Iterator[Finding]:
    found = versions()
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        yield problem(told, "run it on Python 3.11, 3.12 or 3.13")
        return
    yield ok(told)
    yield from _device(setup.config.score.device)
    if setup.log_url is None or not is_kafka(setup.log_url):
        return
    if setup.config.kafka.client == "confluent" and "confluent-kafka" not in found:
        yield problem(
            "kafka.client is 'confluent', which is not installed", "pip install 'graphsieve[kafka,confluent]'"
        )
    if "kafka-python" in found and importlib.util.find_spec("crc32c") is None:
        yield warning(
            "crc32c is missing: kafka-python computes checksums in Python, at a fraction of the speed",
            "pip install 'graphsieve[kafka]'",
        )


def _device(name: str) -> Iterator[Finding]:
    if name == CPU:
        return
    try:
        usable(name)
    except ConfigError as error:
        told, _, fix = str(error).partition(": ")
        yield problem(told, fix)


def look_at_compiled_code(setup: Setup) -> Iterator[Finding]:
    from pipeline.compiled import cache_folder  # numba, which takes a moment

    folder = cache_folder()
    if folder is None:
        yield warning(
            "no folder for compiled code can be made: every start compiles anew, for a minute",
            "let NUMBA_CACHE_DIR name a folder that this user can write to",
        )
        return
    kept = len(list(folder.rglob("*.nbc")))
    if not os.access(folder, os.W_OK) and not kept:
        yield warning(
            f"{folder} is empty and cannot be written to", "make it writable, or fill it when the image is built"
        )
    else:
        yield ok(
            f"{folder}, {counted(kept, 'function') if kept else 'nothing compiled yet: the first start takes a minute'}"
        )


def look_at_clock(setup: Setup) -> Iterator[Finding]:
    now, ahead = setup.now(), 0.0
    times = [manifest.written_at for kept in setup.snapshots.values() for manifest in kept[:1]]
    if setup.newest_appended_at is not None:
        times.append(setup.newest_appended_at)
    ahead = max((time - now for time in times), default=0.0)
    if ahead > SKEW_SECONDS:
        yield warning(
            f"the newest message or snapshot is {ahead:,.0f} s ahead of this machine's clock",
            "keep the clocks of brokers, producers and consumers in step, by NTP; lags and ages are wrong until then",
        )
    elif not times:
        yield ok("nothing to compare it with yet: no message, no snapshot")
    else:
        yield ok("behind no message and no snapshot")


def look_at_port(setup: Setup) -> Iterator[Finding]:
    host, port = setup.config.metrics.host, setup.config.metrics.port
    if not port:
        yield warning("none: nothing is served for probes and Prometheus", "set metrics.port, 9108 by convention")
        return
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        yield _taken(host, port, error.strerror or str(error))
        return
    yield ok(f"{host}:{port} is free")


def _taken(host: str, port: int, reason: str) -> Finding:
    if _serves_graphsieve(host, port):
        found = f"{host}:{port} is taken by a graphsieve consumer that runs"
        return warning(found, "well so if it is the one that you look at; a second one needs a port of its own")
    fix = "end what listens there, or choose another metrics.port; metrics.host must be an address of this machine"
    return problem(f"cannot listen on {host}:{port}: {reason}", fix)


def _serves_graphsieve(host: str, port: int) -> bool:
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    url = f"http://[{reachable}]:{port}/metrics" if ":" in reachable else f"http://{reachable}:{port}/metrics"
    try:
        return b"graphsieve_" in fetch(url, PROBE_SECONDS)
    except OSError:
        return False


def look_at_memory(setup: Setup) -> Iterator[Finding]:
    limit, newest = memory_limit_bytes(), [kept[0].bytes for kept in setup.snapshots.values() if kept]
    if not newest:
        yield ok(f"{byte_text(limit)} may be used; what the state takes is known after the first snapshot")
        return
    expected = round(EMPTY_PROCESS_BYTES + MEMORY_OF_SNAPSHOT * sum(newest))
    shards = counted(len(newest), "shard")
    told = f"{byte_text(limit)} may be used; {shards} in one process take about {byte_text(expected)}"
    if limit < expected:
        yield warning(told, "raise the container's limit, or make sure that enough consumers share the partitions")
    else:
        yield ok(told)
