"""Compiled functions that take the types of their arguments for granted."""

from typing import NamedTuple

import numpy as np

from pipeline.compiled import compiled, direct


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


@compiled
def into(pair, factor):
    for i in range(len(pair.a)):
        pair.b[i] = factor * pair.a[i]
    return len(pair.a)


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


def test_where_nothing_is_compiled_the_function_is_called():
    call = direct(lambda a, b: a + b)
    assert [call(1, 2), call("a", "b")] == [3, "ab"]
