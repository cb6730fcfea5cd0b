"""Names: outside name <-> dense index, and their way to disk and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.names import Names

TEXTS = st.text(max_size=5)  # NUL, the empty text and characters of four bytes among them


def test_a_name_keeps_its_index_and_a_new_one_takes_a_free_one():
    names = Names()
    free = [9, 1, 0]
    found, new = names.intern(["a", "b", None, "a"], lambda: free)
    assert (found.tolist(), new, free) == ([0, 1, -1, 0], [0, 1], [9])
    found, new = names.intern(["b", "c"], lambda: free)
    assert (found.tolist(), new, free) == ([1, 9], [9], [])
    assert [names.index_of(name) for name in ("a", "b", "c", "d")] == [0, 1, 9, -1]
    assert [names.name_of(index) for index in (0, 1, 9)] == ["a", "b", "c"]


def test_a_released_name_is_forgotten_and_releasing_it_twice_is_no_matter():
    names = Names()
    names.intern(["a", "b"], lambda: [1, 0])
    names.release([0])
    names.release([0])
    assert (len(names), names.index_of("a"), names.name_of(0), names.index_of("b")) == (1, -1, None, 1)


@given(texts=st.lists(TEXTS | st.none(), max_size=30), gone=st.sets(st.integers(0, 29)))
def test_names_are_on_disk_what_they_are_in_memory(texts, gone):
    names = Names()
    _, new = names.intern(texts, lambda: list(range(40, -1, -1)))
    names.release([index for index in new if index in gone])
    arrays = {name: np.array(array) for name, array in names.export("x").items()}
    again = Names.restore(arrays, "x")
    assert len(again) == len(names) == len({text for text in texts if text is not None}) - len(gone & set(new))
    for text in texts:
        if text is not None:
            assert again.index_of(text) == names.index_of(text)
    assert sorted(again.indices().tolist()) == sorted(set(new) - gone)
