"""The doctor looks at the state: can snapshots be read and written, whose are they, and is there room for more?"""

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pipeline.doctor.finding import Finding, Setup, ok, problem, warning
from pipeline.errors import SnapshotError
from pipeline.log_url import is_kafka
from pipeline.report_text import byte_text, counted
from pipeline.snapshot_files import open_files, shown
from pipeline.snapshot_store import SnapshotStore, open_store, shards_of

PROBE = b"0" * 64 * 1024  # as much as a disk that is just not full has no room for


def look_at_state(setup: Setup) -> Iterator[Finding]:
    assert setup.state is not None
    yield from _try_to_write(setup.state)
    where = shown(setup.state)
    for shard in _own_shards(setup):
        store = SnapshotStore(open_files(setup.state, shard), shard)
        setup.snapshots[shard] = []
        for name in store.names():
            try:
                setup.snapshots[shard].append(store.read_manifest(name))
            except SnapshotError as error:
                yield warning(str(error), "the next older one is used; nothing need be done, but a longer replay")
    newest = [kept[0] for kept in setup.snapshots.values() if kept]
    if not newest:
        yield ok(f"{where} can be written to; no snapshot there: a start replays the log from where the group began")
        return
    age = max(setup.now() - manifest.written_at for manifest in newest)
    shards = counted(len(newest), "shard")
    told = f"{where} can be written to; snapshots of {shards}, the newest of each at most {age:,.0f} s old"
    others = {manifest.model for manifest in newest} - {setup.model.version if setup.model else ""}
    if setup.model and others:
        found = f"{told}, of model {', '.join(sorted(others))} and not {setup.model.version}"
        yield warning(found, "the first start with this model replays the log from where the group began: plan for it")
    else:
        yield ok(told)


def _try_to_write(state: str) -> Iterator[Finding]:
    """Do in a shard of the doctor's own what a snapshot does, and remove it again."""
    made = not ("://" in state or Path(state).exists())
    own = f"doctor-{secrets.token_hex(4)}"
    open_store(state, own, keep=1).close()
    try:
        open_files(state, own).put("probe", PROBE)
    except OSError as error:
        room = "make room there" if error.errno == errno.ENOSPC else "name a folder that can be written to"
        yield problem(f"{shown(state)} cannot be written to: {error.strerror or error}", f"{room}; a start needs it")
    finally:
        with contextlib.suppress(OSError):
            open_files(state).remove(own, "probe")
            if made:
                Path(state).rmdir()


def _own_shards(setup: Setup) -> list[str]:
    """Return the shards of this group and these topics that have a place in the state."""
    assert setup.state is not None
    if "://" not in setup.state and not Path(setup.state).exists():
        return []
    if setup.log_url is None or not is_kafka(setup.log_url):
        return [""]
    first, last = f"{setup.config.topics.events}-", f"@{quote(setup.config.score.group, safe='')}"
    return [shard for shard in shards_of(setup.state) if shard.startswith(first) and shard.endswith(last)]


def look_at_disk(setup: Setup) -> Iterator[Finding]:
    assert setup.state is not None
    if "://" in setup.state:
        yield ok(f"{shown(setup.state)} is no disk of this machine")
        return
    free = shutil.disk_usage(_existing(Path(setup.state))).free
    kept, sizes = setup.config.score.snapshots_kept, [kept[0].bytes for kept in setup.snapshots.values() if kept]
    if not sizes:
        yield ok(f"{byte_text(free)} are free; what snapshots take is known after the first one")
        return
    there = sum(manifest.bytes for kept in setup.snapshots.values() for manifest in kept)
    missing = max(0, sum(sizes) * (kept + 1) - there)  # one more than stays: it is written beside the others
    shards = counted(len(sizes), "shard")
    told = f"{byte_text(free)} are free; {kept} + 1 snapshots of {shards} take {byte_text(missing)} more"
    if free < max(sizes):
        yield problem(f"{told}: not one fits", "make room, or give --state a larger volume")
    elif free < missing:
        yield warning(told, "make room, or give --state a larger volume, or lower score.snapshots_kept")
    else:
        yield ok(told)


def _existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that there is."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
