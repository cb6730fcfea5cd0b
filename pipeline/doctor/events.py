"""The doctor looks at the model, at its schema, and at whether the newest events fit it."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import msgspec
import numpy as np

from pipeline.doctor.finding import Finding, Setup, ok, problem, warning
from pipeline.log import Record, read_to_end
from pipeline.log_url import open_log
from pipeline.report_text import counted
from pipeline.schema_fit import check_topics

NEWEST = 500  # events of each partition that are decoded
MOST_BAD = 0.5  # a larger share of them says that the schema is another topic's
FUTURE_SECONDS = 3600.0  # what an event's time may be ahead of the clock: zones that somebody mixed up are more


def look_at_model(setup: Setup) -> Iterator[Finding]:
    from pipeline.model import load_model

    assert setup.model_folder is not None
    model = load_model(setup.model_folder)
    told = msgspec.json.decode((setup.model_folder / "model.json").read_bytes()).get("version")
    if told not in (None, model.version):
        found = (
            f"{setup.model_folder} is damaged: its numbers are those of {model.version}, its model.json tells of {told}"
        )
        yield problem(found, "copy both files of the checkpoint again")
        return
    setup.model = model
    yield ok(f"{model.version}, schema {model.schema.name}, {model.multiply_adds:,} multiply-adds a target")


def look_at_schema(setup: Setup) -> Iterator[Finding]:
    assert setup.model is not None
    check_topics(setup.model.schema, setup.config.topics.events)
    own = len(setup.model.schema.topics)
    yield ok(f"its words are for {setup.config.topics.events}" if own else "its words are for any topic")


def look_at_events(setup: Setup) -> Iterator[Finding]:
    from pipeline.decoder import Decoder

    assert setup.model is not None
    records = list(chain.from_iterable(_newest(setup, topic, p) for topic in setup.feeds for p in setup.partitions))
    if not records:
        yield ok("there are none yet")
        return
    with contextlib.suppress(ValueError):
        setup.newest_appended_at = max(r.appended_at for r in records if not math.isnan(r.appended_at))
    events, bad = Decoder(setup.model.schema, setup.config.score.max_message_bytes).decode(records)
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(b.reason for b in bad).most_common())
        found = f"of the newest {counted(len(records), 'message')} {len(bad):,} would be bad: {reasons}"
        fix = "a producer has changed, or the model's schema is another topic's; docs/semantics.md explains the reasons"
        yield problem(found, fix) if len(bad) > MOST_BAD * len(records) else warning(found, fix)
    else:
        yield ok(f"the newest {counted(len(records), 'message')} fit the schema")
    ahead = float(np.max(events.ts, initial=-math.inf)) - setup.now()
    if ahead > FUTURE_SECONDS:
        found = f"an event is {ahead / 3600:,.1f} h ahead of this machine's clock"
        yield warning(found, "mend that producer's time or unit: expiry goes by the largest time that was seen")


def _newest(setup: Setup, topic: str, partition: int | None) -> Iterator[Record]:
    """Yield the newest messages of a partition, each with its topic where several are merged."""
    assert setup.log_url is not None
    own = msgspec.structs.replace(setup.config.topics, events=topic)
    config = msgspec.structs.replace(setup.config, topics=own)
    with contextlib.closing(open_log(setup.log_url, config, create=False, partition=partition)) as log:
        end = log.end(topic)
        for records in read_to_end(log, topic, max(log.begin(topic), end - NEWEST), end):
            yield from (record._replace(topic=topic) for record in records) if setup.is_merged else records
