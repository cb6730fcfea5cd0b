"""Which log a URL means: the one place that knows them all."""

from pipeline.errors import LogError
from pipeline.log import Log
from pipeline.recorded import RecordedFile
from pipeline.sqlite_log import SqliteLog


def open_log(url: str, create: bool = True) -> Log:
    """Open `sqlite:FILE`, or a recorded file by its path; with `create=False` it must exist."""
    scheme, colon, path = url.partition(":")
    if colon and scheme == "sqlite" and path:
        return SqliteLog(path, create)
    if (colon and scheme == "file" and path) or url.endswith((".jsonl", ".gz", ".zst")):
        return RecordedFile(path if scheme == "file" else url, create=create)
    raise LogError(f"log {url!r}: expected sqlite:FILE, or a recorded file (.jsonl, .jsonl.gz, .jsonl.zst, file:PATH)")
