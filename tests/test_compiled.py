"""Compiled functions that take the types of their arguments for granted."""

import math
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compiled import compiled, direct
from pipeline.held import Held
from pipeline.instructions import taken_apart
from pipeline.logarithm import log1p


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


@compiled
def into(pair, factor):
    for i in range(len(pair.a)):
        pair.b[i] = factor * pair.a[i]
    return len(pair.a)


@compiled
def logarithm(x):
    return log1p(x)


@compiled
def into_noted(address, kind, more):
    (a, b), factor = taken_apart(address, kind)
    for i in range(len(a)):
        b[i] = factor * a[i] + more
    return len(a)


@compiled
def twice_noted(address, kind):
    a, b = taken_apart(address, kind)
    for i in range(len(a)):
        b[i] = 2 * a[i]
    return b.sum()


@given(st.floats(0.0, 3.4e38))
def test_our_log1p_is_the_logarithm(x):
    assert logarithm(x) == pytest.approx(math.log1p(x), rel=5e-14, abs=1.2e-16)


def test_every_call_gives_what_the_function_itself_gives():
    call = direct(into)
    for n in (3, 0, 5):
        pair = Pair(np.arange(n, dtype=np.float64), np.zeros(n))
        assert call(pair, 2.0) == n
        assert pair.b.tolist() == [2.0 * i for i in range(n)]


def test_what_was_compiled_for_other_types_is_not_taken():
    assert into(Pair(np.ones(2, np.float32), np.zeros(2, np.float32)), 2.0) == 2
    call, pair = direct(into), Pair(np.ones(3), np.zeros(3))
    for _ in range(2):
        call(pair, 3.0)
        assert pair.b.tolist() == [3.0, 3.0, 3.0]


def test_what_is_noted_is_what_compiled_code_works_on():
    call, held = direct(into_noted), Held()
    for n, factor in ((3, 2.0), (0, 1.0), (5, -1.0)):
        a, b = np.arange(n, dtype=np.float64), np.zeros(n)
        held.note(((a, b), factor))  # no type of this file: who reads the cache of `held` knows none
        for more in (0.5, 1.5):
            assert call(held.address, held.kind, more) == n
            assert b.tolist() == [factor * i + more for i in range(n)]


def test_values_of_other_classes_are_noted_as_what_they_are():
    first, second = Held(), Held()
    first.note(((np.ones(2), np.zeros(2)), 2.0))
    second.note((np.arange(3.0), np.zeros(3)))
    assert twice_noted(second.address, second.kind) == 6.0
    assert into_noted(first.address, first.kind, 0.0) == 2


def test_what_is_noted_stays():
    held, b = Held(), np.zeros(1000)
    held.note(((np.ones(1000), b), 2.0))
    others = [np.full(1000, 7.0) for _ in range(100)]  # these would lie where it was
    assert into_noted(held.address, held.kind, 0.0) == 1000
    assert b.tolist() == [2.0] * 1000
    del others


def test_where_nothing_is_compiled_the_function_is_called():
    call = direct(lambda a, b: a + b)
    assert [call(1, 2), call("a", "b")] == [3, "ab"]


# In a process of its own, for in this one other tests have called everything.
SERVED = """
import sys
from consumers.service import warm_up
from pipeline.decoder import Decoder
from pipeline.messages import ScoreWriter
from pipeline.scorer import Scorer
from worlds import START, random_model, records, world

def loaded():
    modules = [vars(module) for name, module in sys.modules.items() if name.startswith("pipeline")]
    return sum(len(thing.overloads) for names in modules for thing in names.values() if hasattr(thing, "overloads"))

model = random_model(world())
warm_up(model)
before = loaded()
node = {"ts": START, "stars": 1, "user": "u", "embedding": [0, 1], "product": "p"}
events = [{"id": str(i), **node} for i in range(100)]
events[50:50] = [
    {"type": "label", "id": "1", "label": 1, "ts": START},
    {"type": "edge", "relation": "friend", "src": "1", "dst": "2", "ts": START},
    {"type": "score", "id": "1", "ts": START},
    {"type": "retract", "id": "1"},
]
scorer = Scorer(model)
for some in (events[:1], events[1:]):
    batch, _ = Decoder(model.schema).decode(records(some))
    scored = scorer.score(batch)
    for form in ("single", "packed"):
        ScoreWriter("", "", 0.5, form).write(batch, scored, 0.0)
for advanced in [scorer.advance(batch.part(i, i + 1)) for i in (2, 3)]:
    scorer.settle(advanced)
    scorer.classify(advanced)
print(before, loaded())
"""


def test_what_was_warmed_up_loads_no_compiled_code_at_its_first_event():
    path = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", SERVED], env=os.environ | path, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert before == after > 5
