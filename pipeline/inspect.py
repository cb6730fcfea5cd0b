"""What is in a checkpoint, a shard's state, or a log: told by looking, and nothing is changed.

    sqlite:FILE or an SQLite file        a log: topics, their times, how far each group has come
    kafka://HOST:PORT[,HOST:PORT]        the topics of a cluster, and how far each group has come, by partition
    *.jsonl[.gz|.zst] or file:PATH       a recorded file
    a folder with model.json             a checkpoint
    a folder with manifest.json          one snapshot
    a folder or URL of a state           the snapshots of its shards

Reports hold numbers and texts, nested by topic, group or snapshot; times are ISO 8601, in UTC.
"""

import contextlib
import math
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError, LogError, SnapshotError
from pipeline.footprint import footprint
from pipeline.log import Record
from pipeline.log_url import DEFAULTS, KAFKA, is_kafka, open_cluster
from pipeline.model import Layer, load_model
from pipeline.recorded import read_messages
from pipeline.snapshot import MANIFEST, StoredArray, position_of
from pipeline.snapshot_files import MARKER, LocalFiles, open_files
from pipeline.snapshot_store import SnapshotStore, shards_of
from pipeline.sqlite_log import SqliteLog

Report = dict[str, Any]

SQLITE_START = b"SQLite format 3\0"
RECORDED_ENDS = (".jsonl", ".gz", ".zst")
EXPECTED = (
    "expected a checkpoint or state folder, a snapshot, sqlite:FILE, or a recorded file (.jsonl, .gz, .zst), "
    f"or {KAFKA}"
)


def inspect(
    what: str,
    config: Config = DEFAULTS,
    group: str | None = None,
    nodes: int | None = None,
    lists: int | None = None,
) -> Report:
    """Return what is at a path or log URL; GraphsieveError says what was found if it is none of ours.

    group         of a log: the only group to tell of; None: all
    nodes, lists  of a checkpoint: what a shard of so many will weigh; as many lists as nodes where `lists` is None
    """
    report = _look(what, config, group)
    if nodes is not None:
        if report["kind"] != "checkpoint":
            raise ConfigError(f"--nodes asks what a checkpoint's shard will weigh, and {what!r} is a {report['kind']}")
        report["memory"] |= footprint(load_model(Path(what))).report(nodes, nodes if lists is None else lists)
    return report


def _look(what: str, config: Config, group: str | None) -> Report:
    if is_kafka(what):
        return _cluster(what, config, group)
    if "://" in what and not what.startswith(("sqlite:", "file:")):
        return _state(what)
    path = Path(what.removeprefix("sqlite:").removeprefix("file:"))
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ConfigError(f"nothing at {what!r}: {EXPECTED}")
    if _is_sqlite(path):
        return _log(path, group)
    if what.startswith("file:") or path.name.endswith(RECORDED_ENDS):
        return _recorded(path)
    raise ConfigError(f"{what!r} is a file of another kind: {EXPECTED}")


def _folder(path: Path) -> Report:
    if (path / "model.json").exists() or (path / "model.safetensors").exists():
        return _checkpoint(path)
    if (path / MANIFEST).exists() or position_of(path.name) is not None:
        return {"kind": "snapshot", **_snapshot(SnapshotStore(LocalFiles(path.parent), shard=None), path.name)}
    state = _state(str(path))
    if (path / MARKER).exists() or state["snapshots"] or "shards" in state:
        return state
    names = sorted(one.name for one in path.iterdir())
    found = f"holds {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else "is empty"
    raise ConfigError(f"the folder {str(path)!r} {found}: {EXPECTED}")


# ---- checkpoint ----


def _checkpoint(path: Path) -> Report:
    model = load_model(path)
    schema, report = model.schema, model.report
    branches = ("self", *schema.relation_names)
    about: Report = {
        "kind": "checkpoint",
        "model": model.version,
        "schema": schema.name,
        "relations": schema.relation_names,
        "channels": {"raw": len(schema.channel_names), "read": len(model.input_keep)},
        "layer1": _layer(model.layers[0], branches),
        "layer2": _layer(model.layers[1], branches),
        "multiply_adds": model.multiply_adds,
        "threshold": model.threshold,
        "memory": footprint(model).each(),
    }
    return about | {key: report[key] for key in ("training", "pruning", "metrics") if key in report}


def _layer(layer: Layer, branches: Iterable[str]) -> Report:
    """Channels that each branch reads, and that it gives."""
    return {
        name: {"reads": len(branch.keep), "gives": len(branch.bias)}
        for name, branch in zip(branches, layer.branches, strict=True)
    }


# ---- state ----


def _state(where: str) -> Report:
    """Tell the snapshots of the shard that has no name, and those of the others."""
    state = {"kind": "state", "snapshots": _snapshots(where, "")}
    shards = {shard: _snapshots(where, shard) for shard in shards_of(where)}
    return state | ({"shards": shards} if shards else {})


def _snapshots(where: str, shard: str) -> Report:
    store = SnapshotStore(open_files(where, shard), shard)
    return {name: _snapshot_or_damage(store, name) for name in store.names()}


def _snapshot_or_damage(store: SnapshotStore, name: str) -> Report:
    try:
        return _snapshot(store, name)
    except SnapshotError as error:
        return {"sound": False, "error": str(error)}


def _snapshot(store: SnapshotStore, name: str) -> Report:
    """Look at a snapshot and check every file; SnapshotError if it has no manifest to check by."""
    manifest = store.read_manifest(name)
    files = {f"{array}.npy": _damage(store, name, array, stored) for array, stored in manifest.arrays.items()}
    damaged = {file: damage for file, damage in files.items() if damage}
    return {
        "position": manifest.position,
        "model": manifest.model,
        "written_at": _time(manifest.written_at),
        "bytes": manifest.bytes,
        "files": len(files),
        "sound": not damaged,
        "damaged": damaged,
    }


def _damage(store: SnapshotStore, name: str, array: str, stored: StoredArray) -> str | None:
    found = store.read_array(name, array, stored)
    return found if isinstance(found, str) else None


# ---- logs ----


def _is_sqlite(path: Path) -> bool:
    """Tell by the file's first bytes: opening an empty file would make a log of it."""
    with path.open("rb") as file:
        return file.read(len(SQLITE_START)) == SQLITE_START


def _cluster(url: str, config: Config, group: str | None) -> Report:
    cluster = open_cluster(url, config)
    from pipeline.kafka_log.overview import overview

    return {"kind": "cluster", **overview(cluster, group)}


def _log(path: Path, only: str | None) -> Report:
    with contextlib.closing(SqliteLog(path, create=False)) as log:
        topics = {topic: _topic(log, topic) for topic in log.topics()}
        groups: dict[str, Report] = {}
        for group, topic, position in _positions(path):
            if only not in (None, group):
                continue
            groups.setdefault(group, {})[topic] = {"position": position, "behind": log.end(topic) - position}
    return {"kind": "log", "topics": topics, "groups": groups}


def _topic(log: SqliteLog, topic: str) -> Report:
    end = log.end(topic)
    first, last = (log.read_batch(topic, position, 1, 0.0).records for position in (0, end - 1)) if end else ([], [])
    ends = {"first_appended": first, "last_appended": last}
    return {"messages": end} | {
        name: _time(found[0].appended_at if found else math.nan) for name, found in ends.items()
    }


def _positions(path: Path) -> list[tuple[str, str, int]]:
    """Return each group's positions: a log answers for one group at a time, only its table knows them all."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT consumer_group, topic, position FROM positions ORDER BY 1, 2").fetchall()
    except sqlite3.Error as error:
        raise LogError(f"log {path}: its positions cannot be read ({error}); restore it from a copy") from error


class _Timed(msgspec.Struct):
    ts: float | None = None


_decode_timed = msgspec.json.Decoder(_Timed).decode


def _recorded(path: Path) -> Report:
    """Count a recorded file's messages; `ts` is told where the messages are in our own words."""
    count, appended, times = 0, _Range(), _Range()
    for record in read_messages(path):
        count += 1
        appended.add(record.appended_at)
        times.add(_ts(record))
    return {
        "kind": "recorded file",
        "messages": count,
        "bytes": path.stat().st_size,
        "first_appended": _time(appended.least),
        "last_appended": _time(appended.greatest),
        "first_ts": _time(times.least),
        "last_ts": _time(times.greatest),
    }


def _ts(record: Record) -> float:
    try:
        ts = _decode_timed(record.value).ts
    except (ValueError, RecursionError):
        return math.nan
    return math.nan if ts is None else float(ts)


class _Range:
    """The least and the greatest of numbers, nan before the first."""

    def __init__(self) -> None:
        self.least = self.greatest = math.nan

    def add(self, value: float) -> None:
        if not math.isnan(value):
            self.least, self.greatest = min(value, self.least), max(value, self.greatest)


def _time(seconds: float) -> str | None:
    """Return a time as people read it; None where there is none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # nan, or a number that is no time
        return None
