"""What can go wrong, for the person who can mend it.

    GraphsieveError        the command line prints it as one line and exits with 2
    ├── ConfigError        a knob, an option or an environment variable
    ├── SchemaError        graph.toml
    ├── CheckpointError    a model folder
    ├── SnapshotError      a shard's state set down
    │   └── UnsoundSnapshot    this one is damaged: another will do
    ├── LogError           the event log, its file or its broker
    │   └── FencedError    another consumer of the group has moved it
    └── DataError          an input file: reviews, ratings, recorded events

Every message says what was found, what was expected, and what to do. A bad *event* is none of these: it is data
(`events.BadEvent`), counted and set aside while the stream goes on.
"""


class GraphsieveError(Exception):
    """An error that its reader can mend; `retriable` if time may do it too."""

    retriable = False


class ConfigError(GraphsieveError):
    """A knob, an option or an environment variable has an unusable value."""


class SchemaError(GraphsieveError):
    """The schema is malformed, or does not fit the model it is used with."""


class CheckpointError(GraphsieveError):
    """A model folder is missing, damaged, or of another kind than is needed."""


class SnapshotError(GraphsieveError):
    """A snapshot is damaged, or cannot be written."""


class UnsoundSnapshot(SnapshotError):
    """One snapshot is damaged, or of another format or shard; an older one may be sound."""


class LogError(GraphsieveError):
    """The event log cannot be opened, read or committed to."""


class FencedError(LogError):
    """Another consumer of the group is at work on the same partition: nothing was written, the state here is stale."""


class DataError(GraphsieveError):
    """An input file is missing or not what it should be."""
