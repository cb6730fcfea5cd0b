"""Kafka's answers, for threads that begin at once: what decodes a kind of answer is compiled by one at a time.

kafka-python (3.0.12) compiles it where the first such answer comes, and meanwhile lends the kind the answers' class. A
thread that is about to read the class when another one takes it back compiles what always fails. Its fault ends the
task that reads from the broker, in every client of the process that gets such an answer from then on: to a partition
the log looks as if it held nothing more.
"""

import threading
from typing import Any

from kafka.protocol.schemas.fields.struct import StructField

_compiling = threading.Lock()
_compiled_decode_from = StructField.compiled_decode_from


def _compiled_alone(kind: Any, *version: Any, **how: Any) -> Any:
    with _compiling:
        return _compiled_decode_from(kind, *version, **how)


def compile_one_at_a_time() -> None:
    """Hold for every client of the process, those that are at work included."""
    StructField.compiled_decode_from = _compiled_alone
