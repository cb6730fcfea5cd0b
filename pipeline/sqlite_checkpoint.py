"""Copying SQLite's write-ahead log into its file beside the commits, not in one of them.

SQLite does it in the commit that fills the log, which waits for the disk then: 50 ms for 16 MB. Here a thread does it.
What counts is pages: a commit writes each page that it has changed anew, were it by a single message. A copy begins by
making the log durable, and commits that come meanwhile wait for that, the longer the more it is.

    copy      every PAGES pages; commits go on, and what they add meanwhile is copied again while that is much
    restart   commits begin at the log's start again; only while none is under way, so it waits until little is left to
              copy and the file is durable, and is done once in RESTART_PAGES pages

Many processes may write one file, each with a thread of its own; one at a time copies. A failure loses nothing: what is
not copied stays in the log, the next attempt goes on, and from LAST_RESORT_PAGES on a commit does it after all.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.descriptors import open_descriptors

PAGE_BYTES = 4096
# 1 MB: the p99 of scores, with a commit every 2 ms, is 3.7 ms then, with twice as many pages 6; at a slower pace 2.8,
# with twice as many 3.3, four times as many 5, sixteen times as many 12. The speed of a backlog stays the same.
PAGES = 250
RESTART_PAGES = 128 * PAGES
LAST_RESORT_PAGES = 4 * RESTART_PAGES
FEW_PAGES = 500  # that a restart may copy while commits wait
ROUNDS = 3  # of copying what came meanwhile


class Checkpoints:
    """The thread of one connection's file; it is started when there is something to copy for the first time."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._due, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._pages = 0.0  # written since the thread was woken, about

    def wrote(self, size: int) -> None:
        """Tell that so many bytes were added to a table: on its last page, which is written anew, and on new ones."""
        self._pages += 1 + size / PAGE_BYTES
        if self._pages < PAGES:
            return
        self._pages = 0.0
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        self._due.set()

    def close(self) -> None:
        """End the thread; what it is copying is copied to the end."""
        if self._thread is not None:
            self._ended = True
            self._due.set()
            self._thread.join()

    def _work(self) -> None:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as db:
            while self._due.wait() and not self._ended:
                self._due.clear()
                with contextlib.suppress(sqlite3.Error):
                    _copy(db)


def _copy(db: sqlite3.Connection) -> None:
    if _restart_is_due(db):
        with contextlib.suppress(OSError):
            _make_durable(db)
        if _restart_is_due(db):
            db.execute("PRAGMA wal_checkpoint(RESTART)")


def _restart_is_due(db: sqlite3.Connection) -> bool:
    """Copy; tell whether the log is long, and little is left of it to copy."""
    for _ in range(ROUNDS):
        busy, pages, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or pages - copied < FEW_PAGES:
            break
    return not busy and pages > RESTART_PAGES and pages - copied < FEW_PAGES


def _make_durable(db: sqlite3.Connection) -> None:
    """Have the disk take all that was copied while commits go on: a restart sees to it, and they wait for that, 60 ms.

    Through SQLite's own descriptors, for to close another one of a file gives up the locks that it holds there.
    """
    (path,) = (path for _, name, path in db.execute("PRAGMA database_list") if name == "main")
    files = [Path(path + end).stat() for end in ("", "-wal")]
    for number in open_descriptors():
        with contextlib.suppress(OSError):  # of a descriptor that is closed meanwhile
            if any(os.path.samestat(os.fstat(number), file) for file in files):
                os.fsync(number)
