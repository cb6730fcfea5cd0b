"""kafka-python compiles what decodes an answer at the first of its kind; shards get their first at the same time."""

import threading

import pytest

pytest.importorskip("pipeline.kafka_log.client", reason="needs kafka-python: pip install '.[kafka]'")

from kafka.protocol.consumer import FetchResponse
from kafka.protocol.schemas.fields import struct

VERSION = 12  # what our readers speak
EMPTY = bytes(4 + 2 + 4 + 1 + 1)  # how long it was throttled, its error, its session, no topics, no tagged fields
IN_VAIN_SECONDS = 0.5


def test_answers_are_decoded_though_two_threads_get_the_first_of_a_kind_at_once(monkeypatch: pytest.MonkeyPatch):
    second_began, first_ended = threading.Event(), threading.Event()

    class Compiling(struct.CodegenContext):
        """What a thread begins by: the second is held between lending the class and reading it."""

        def __init__(self) -> None:
            super().__init__()
            if threading.current_thread() is first:
                second.start()
                second_began.wait(IN_VAIN_SECONDS)
            else:
                second_began.set()
                first_ended.wait()

    def decode() -> None:
        FetchResponse.decode(EMPTY, VERSION)
        first_ended.set()

    monkeypatch.setattr(struct, "CodegenContext", Compiling)
    monkeypatch.setattr(FetchResponse._struct, "_compiled_encoders", {})
    first, second = (threading.Thread(target=decode) for _ in range(2))
    first.start()
    first.join()
    second.join()

    assert FetchResponse.decode(EMPTY, VERSION).session_id == 0
