"""What counts as a sample, how samples are split, and that machine code follows its sources."""

import re
from pathlib import Path

import numpy as np
import pytest
from worlds import START, records, world

import pipeline
from pipeline.compiled import SOURCES
from pipeline.errors import DataError
from pipeline.history import History, Split


def node(name: str, at: float, **fields: object) -> dict:
    return {"id": name, "ts": START + at, "stars": 1, "user": "u", "product": "p", "embedding": [0, 0], **fields}


def label(name: str, said: int, at: float) -> dict:
    return {"type": "label", "id": name, "label": said, "ts": START + at}


def test_a_sample_is_a_scored_event_whose_label_comes_later():
    events = [
        node("early", 0),
        label("early", 1, 1),
        {"type": "score", "id": "early", "ts": START + 2},  # its label is known: no sample
        node("never", 3),  # nobody labels it
        node("no target", 4, target=False),
        label("no target", 1, 5),
        node("late", 6),
        {"type": "score", "id": "late", "ts": START + 7},
        label("late", 0, 8),
        label("late", 1, 9),  # a correction: the first label judges
    ]
    history = History(world(), records(events))
    assert history.entries == 6
    assert history.sample_entry.tolist() == [0, 4, 5]
    assert history.truth.tolist() == [1, 0, 0]


def test_samples_are_those_that_a_walk_through_the_log_finds():
    rng, events = np.random.default_rng(0), []
    for at in range(900):
        name, kind = f"n{rng.integers(120)}", rng.integers(4)
        score, judged = {"type": "score", "id": name, "ts": START + at}, label(name, int(rng.integers(2)), at)
        events.append([node(name, at), node(name, at, target=False), score, judged][kind])
    known, entries, found = set(), 0, []
    for at, event in enumerate(events):
        if event.get("type") == "label" or (event.get("type") == "score" and event["id"] not in known):
            continue
        known.add(event["id"])
        later = [e["label"] for e in events[at:] if e.get("type") == "label" and e["id"] == event["id"]]
        if event.get("target", True) and later:
            found.append((entries, later[0]))
        entries += 1
    history = History(world(), records(events))
    assert history.entries == entries
    assert list(zip(history.sample_entry.tolist(), history.truth.tolist(), strict=True)) == found


def test_the_split_is_by_time_and_loses_none():
    split = Split.of(90, (0.6, 0.1, 0.3))
    assert (split.train, split.validation, split.test) == (slice(0, 54), slice(54, 63), slice(63, 90))


def test_a_log_without_a_node_is_refused():
    with pytest.raises(DataError, match="no node event that fits the schema among 1 events"):
        History(world(), records([label("x", 1, 0)]))


def test_events_of_another_schema_are_refused_with_the_first_reason():
    with pytest.raises(DataError, match="among 1 events; the first bad one: missing_field, .*stars"):
        History(world(), records([{"id": "a", "ts": START, "colour": "blue"}]))


def test_a_replay_in_chunks_gives_what_one_scorer_gives():
    events = [node(f"n{i}", i, user="uv"[i % 2]) for i in range(50)]
    history = History(world(), records(events))
    raw = history.raw_until(history.entries)
    assert raw.shape == (50, len(world().channel_names))
    assert np.isfinite(raw).all()


def test_machine_code_is_kept_by_all_the_sources_that_it_comes_from():
    folder = Path(pipeline.__file__).parent
    texts = {path.stem: path.read_text() for path in folder.glob("*.py")}
    users = {name for name, text in texts.items() if re.search(r"^from pipeline\.compiled import compiled", text, re.M)}
    assert users <= set(SOURCES)
    for name in users:  # what they take constants and functions from counts too, but for errors and types
        taken = set(re.findall(r"^from pipeline\.(\w+) import", texts[name], re.M))
        assert taken <= set(SOURCES), name
