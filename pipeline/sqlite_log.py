"""The embedded log: one SQLite file, a table per topic and one of positions.

    topic_NAME   blocks of messages, as `sqlite_blocks` says
    positions    consumer_group, topic -> position

The outputs of a micro-batch and the positions it ends at are one transaction. It survives the end of the process at any
instant. A power cut may take the latest ones, newest first and each as a whole: the file is never half written, but may
be some milliseconds older than what was seen of it.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.errors import LogError
from pipeline.log import Log, Message, Move, Progress, Read, Record, check_moves
from pipeline.sqlite_blocks import COLUMNS, Block, blocks_of, records_of, rows_of
from pipeline.sqlite_checkpoint import LAST_RESORT_PAGES, Checkpoints

TOPIC_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
APPLICATION_ID = 0x67734C47  # "gsLG" in the file's header: this SQLite file is a log
FORMAT = 3  # user_version in the header; raise it when the tables change
MAX_READ_BYTES = 4 << 20  # one read_batch stops here: a flood of huge messages or packed ones is many micro-batches
ROW_BYTES = 60  # of a row besides its messages, about
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.0002, 0.005

# SQLite's result code -> what happened and what to do about it
ERRORS = {
    sqlite3.SQLITE_NOTADB: ("it is not a log", "name another file, or remove this one"),
    sqlite3.SQLITE_CORRUPT: ("the file is damaged", "restore it from a copy, or replay the events to a new log"),
    sqlite3.SQLITE_FULL: ("the disk is full, nothing of this batch was written", "free some space and start again"),
    sqlite3.SQLITE_IOERR: ("the disk failed, nothing of this batch was written", "check its health and free space"),
    sqlite3.SQLITE_READONLY: ("cannot be written to", "make the file, its folder and its disk writable"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "make the file and its folder readable and writable"),
    sqlite3.SQLITE_PERM: ("cannot be opened", "make the file and its folder readable and writable"),
    sqlite3.SQLITE_BUSY: ("another process has kept it locked", "end that process, or wait for it"),
}


class SqliteLog(Log):
    """The embedded log, one SQLite file.  Many processes may write and read it at once.

    Cost: some 0.4 µs a message to read and to append, besides 20 µs a call; 2.5 µs to read one that was appended alone.
    """

    def __init__(
        self,
        path: str | Path,
        create: bool = True,
        *,
        busy_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(path)
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._tables: set[str] = set()  # topics whose table is known to exist
        self._checkpoints = Checkpoints(lambda: self._connect(create=False))
        self._one_line_errors = _OneLineErrors(self._path)
        self._check_path(create)
        with self._one_line_errors:
            self._db = self._connect(create)
            self._transaction = _Transaction(self._db, self._execute)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def append(self, topic: str, messages: Sequence[Message]) -> int:
        blocks = blocks_of(messages)
        with self._one_line_errors, self._transaction:
            return self._insert(topic, blocks)

    def read_batch(self, topic: str, position: int, max_records: int, timeout_seconds: float) -> Read:
        """Wait for a record at `position`, then return it and what follows.

        Returns at most `max_records`, and fewer once they exceed `MAX_READ_BYTES` together.
        """
        read = self._read_now(topic, position, max_records)
        if read.records or timeout_seconds <= 0:
            return read
        self.wait({topic: position}, timeout_seconds)
        return self._read_now(topic, position, max_records)

    def _read_now(self, topic: str, position: int, max_records: int) -> Read:
        with self._one_line_errors:
            if not self._exists(topic):
                return Read([], position, position)
            records, left = self._read(topic, position, max_records)
            next_position = records[-1].position + 1 if records else position
            return Read(records, next_position, max(next_position, self._end(topic)) if left else next_position)

    def wait(self, positions: Mapping[str, int], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        pause = SHORTEST_POLL_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if any(self.end(topic) > position for topic, position in positions.items()):
                return
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_POLL_SECONDS)

    def commit(self, group: str, moves: Mapping[str, Move], outputs: Mapping[str, Sequence[Message]]) -> None:
        blocks = {topic: blocks_of(messages) for topic, messages in outputs.items()}
        with self._one_line_errors, self._transaction:
            for topic, move in moves.items():
                self._move(group, topic, move)
            for topic, of_topic in blocks.items():
                self._insert(topic, of_topic)

    def committed(self, group: str, topic: str) -> Progress:
        with self._one_line_errors:
            return Progress(0, self._position(group, topic))

    def flush(self) -> None:
        """Nothing: what was committed is written."""

    def end(self, topic: str) -> int:
        with self._one_line_errors:
            return self._end(topic) if self._exists(topic) else 0

    def topics(self) -> list[str]:
        """Return the names of the topics that hold messages, sorted."""
        with self._one_line_errors:
            tables = self._execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'topic_*'")
            return sorted(name.removeprefix("topic_") for (name,) in tables)

    def close(self) -> None:
        """Copy the write-ahead log into the file and close it."""
        self._checkpoints.close()
        # Whatever fails here loses nothing: the write-ahead log keeps it and the next to open the file goes on with it.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._db.close()

    def _check_path(self, create: bool) -> None:
        """Refuse what SQLite would report as "unable to open database file"."""
        if not create and not self._path.exists():
            raise LogError(f"no log at {self._path}: `graphsieve replay EVENTS --to sqlite:{self._path}` makes one")
        if not self._path.parent.is_dir():
            raise LogError(f"no folder {self._path.parent} for the log {self._path.name}: make it first")

    def _connect(self, create: bool) -> sqlite3.Connection:
        # As a URI, because only that can say "do not create"; isolation_level None: transactions are begun here, not
        # by the module.
        uri = f"{self._path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        """Make an empty file a log and refuse any other file that is not one, before anything is written to it."""
        if self._header() != (APPLICATION_ID, FORMAT):
            self._found()
        self._execute("PRAGMA journal_mode = WAL")  # readers go on while one writes; the file remembers it
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute(f"PRAGMA wal_autocheckpoint = {LAST_RESORT_PAGES}")

    def _header(self) -> tuple[int, int]:
        (application_id,) = self._execute("PRAGMA application_id").fetchone()
        (user_version,) = self._execute("PRAGMA user_version").fetchone()
        return application_id, user_version

    def _found(self) -> None:
        with self._one_line_errors, self._transaction:
            application_id, format_found = self._header()  # asked again: another process may just have founded the log
            (table_count,) = self._execute("SELECT count(*) FROM sqlite_master").fetchone()
            if table_count == 0:
                self._execute(
                    "CREATE TABLE positions (consumer_group TEXT, topic TEXT, position INTEGER NOT NULL,"
                    " PRIMARY KEY (consumer_group, topic)) WITHOUT ROWID"
                )
                self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._execute(f"PRAGMA user_version = {FORMAT}")
            elif application_id != APPLICATION_ID:
                raise LogError(f"{self._path} is an SQLite file of another program: name another file for the log")
            elif format_found != FORMAT:
                raise LogError(
                    f"{self._path} is a log of format {format_found}, this graphsieve's is {FORMAT}: "
                    "use the graphsieve that wrote it, or replay the events to a new log"
                )

    def _execute(self, statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run a statement, waiting up to `busy_seconds` for whoever has the file locked.

        SQLite's own waiting backs off to 100 ms and in some places does not happen at all; asked again this often, a
        commit is not starved by a producer that appends without a pause.
        """
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._db.execute(statement, parameters)
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(SHORTEST_POLL_SECONDS)

    def _exists(self, topic: str) -> bool:
        """Tell whether the topic has a table.  Asked in each transaction until so: the one that makes it may fail."""
        if topic in self._tables:
            return True
        if not TOPIC_NAME.fullmatch(topic):
            raise LogError(f"topic {topic!r}: expected 1 to 100 of a-z 0-9 . _ - with a letter or a digit first")
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if self._execute(query, (f"topic_{topic}",)).fetchone() is None:
            return False
        self._tables.add(topic)
        return True

    def _insert(self, topic: str, blocks: Sequence[Block]) -> int:
        """Append blocks; return the topic's end."""
        if not self._exists(topic):
            self._execute(f'CREATE TABLE "topic_{topic}" ({COLUMNS})')
        end = self._end(topic)
        now, statement = self._clock(), f'INSERT INTO "topic_{topic}" VALUES (?, ?, ?, ?, ?)'
        for row in rows_of(blocks, end, now):
            self._db.execute(statement, row)
            self._checkpoints.wrote(len(row[-1]) + ROW_BYTES)
            end = row[0] + 1
        return end

    def _move(self, group: str, topic: str, move: Move) -> None:
        changed = "UPDATE positions SET position = ? WHERE consumer_group = ? AND topic = ? AND position = ?"
        if not self._execute(changed, (move.position, group, topic, move.start)).rowcount:  # its first, or a wrong one
            check_moves(group, {topic: move}, {topic: self._position(group, topic)})
            self._execute("INSERT INTO positions VALUES (?, ?, ?)", (group, topic, move.position))
        self._checkpoints.wrote(ROW_BYTES)

    def _read(self, topic: str, position: int, max_records: int) -> tuple[list[Record], bool]:
        """Return records from `position` on, and whether there may be more."""
        rows = self._execute(f'SELECT * FROM "topic_{topic}" WHERE last >= ? ORDER BY last', (position,))
        records: list[Record] = []
        bytes_left = MAX_READ_BYTES
        try:
            while len(records) < max_records and bytes_left > 0:
                if (row := rows.fetchone()) is None:
                    return records, False
                records += records_of(row, position, max_records - len(records))
                bytes_left -= len(row[-1])
        except ValueError as error:
            what, fix = ERRORS[sqlite3.SQLITE_CORRUPT]
            raise LogError(f"log {self._path}: {what} (the block up to {row[0]}: {error}); {fix}") from error
        finally:
            rows.close()  # an open cursor would keep the write-ahead log from being emptied
        return records, True

    def _end(self, topic: str) -> int:
        (last,) = self._execute(f'SELECT max(last) FROM "topic_{topic}"').fetchone()
        return 0 if last is None else int(last) + 1

    def _position(self, group: str, topic: str) -> int:
        query = "SELECT position FROM positions WHERE consumer_group = ? AND topic = ?"
        row = self._execute(query, (group, topic)).fetchone()
        return 0 if row is None else int(row[0])


class _OneLineErrors:
    """Says what is wrong with the file, and what to do about it.

    Neither this nor `_Transaction` is a generator: each micro-batch would pay a microsecond for it, four times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.DatabaseError) or (code := _code(error)) == sqlite3.SQLITE_OK:
            return  # the latter is a misuse of the module, not a failure of the file
        what, fix = ERRORS.get(code, (str(error), "see https://www.sqlite.org/rescode.html"))
        raise LogError(f"log {self._path}: {what} ({error.sqlite_errorname}); {fix}") from error


class _Transaction:
    """All statements of a `with`, or none."""

    def __init__(self, db: sqlite3.Connection, execute: Callable[[str], object]) -> None:
        self._db, self._execute = db, execute

    def __enter__(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._roll_back()
            return
        try:
            self._execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # not if a full disk has ended it already
            self._execute("ROLLBACK")


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; SQLITE_OK for an error that the Python module raised of itself."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)) & 0xFF
