"""Names: outside name <-> dense index, in a table of plain arrays that is compared with a dict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.compiled import compiled
from pipeline.names import Names
from pipeline.names_kernel import PACE, find, go_on, hash_of, put, release
from pipeline.texts import Texts

TEXTS = st.text(max_size=20)  # NUL, the empty text and characters of four bytes among them
SPACES = st.integers(0, 2)
KEYS = st.integers(0, 2**64 - 1) | st.just(0x9E3779B97F4A7C15)  # which once made all hashes one
ROOM = 200  # indices


@compiled
def _tag(data, start, length, space, key):
    return hash_of(data, start, length, space, key)


@compiled
def _give(table, data, space, index):
    tag = hash_of(data, 0, len(data), space, table.meta[0].key)
    slot = find(table, data, 0, len(data), space, tag)
    if slot < 0:
        put(table, ~slot, index, data, 0, len(data), space, tag)
    go_on(table, 1)
    return slot < 0


@compiled
def forget(table, index):
    release(table, index)


def tag_of(text: Texts, space: int, key: int) -> int:
    return int(_tag(text.data, 0, len(text.data), space, np.uint64(key)))


def slow_hash(text: bytes, space: int, key: int) -> int:
    """What `hash_of` says, by whole numbers of any length."""

    def folded(a: int, b: int) -> int:
        return a * b >> 64 ^ a * b & (2**64 - 1)

    state = key ^ space + 1
    for at in range(0, len(text) + 1, 8):
        state = folded(state ^ int.from_bytes(text[at : at + 8], "little"), (0x9E3779B97F4A7C15 ^ key) | 1)
    return folded(state ^ len(text), 0xD6E8FEB86659FD93) & 0xFFFFFFFF


@given(st.binary(max_size=12), st.binary(max_size=40), st.binary(max_size=3), SPACES, KEYS)
def test_the_hash_of_a_name_is_its_slow_twins_wherever_it_stands(before, name, behind, space, key):
    data = np.frombuffer(before + name + behind + b"\0", np.uint8).copy()
    assert _tag(data, len(before), len(name), space, np.uint64(key)) == slow_hash(name, space, key)


def give(names: Names, name: str, index: int, space: int = 0, room: int = ROOM) -> None:
    """Name an index, as the graph does."""
    text = Texts.of([name])
    names.reserve(room, 1, len(text.data))
    assert _give(names.table, text.data, space, index), "is known already"


class AgainstADict(RuleBasedStateMachine):
    """Names that come, go and come back, in a table that grows and closes its holes."""

    @initialize(key=KEYS)
    def begin(self, key: int) -> None:
        self.names = Names(key)
        self.index: dict[tuple[int, str], int] = {}

    @rule(name=TEXTS, space=SPACES, copies=st.integers(1, 12))
    def come(self, name: str, space: int, copies: int) -> None:
        for copy in range(copies):
            known = (space, name if copy == 0 else f"{name}{copy}")
            if known not in self.index and len(self.index) < ROOM:
                free = min(set(range(ROOM)) - set(self.index.values()))
                give(self.names, known[1], free, space)
                self.index[known] = free

    @rule(place=st.integers(0, ROOM), count=st.integers(1, 10))
    def go(self, place: int, count: int) -> None:
        for known in list(self.index)[place : place + count]:
            forget(self.names.table, self.index.pop(known))

    @rule()
    def go_to_disk_and_back(self) -> None:
        arrays = {name: np.array(array) for name, array in self.names.export("x").items()}
        self.names = Names.restore(arrays, "x", ROOM)

    @invariant()
    def is_what_the_dict_says(self) -> None:
        assert len(self.names) == len(self.index)
        for (space, name), index in self.index.items():
            assert self.names.index_of(name, space) == index
            assert self.names.names_of([index]) == [name]
        assert self.names.index_of("never came, for it is too long", 1) == -1
        assert self.names.used() == max(self.index.values(), default=-1) + 1


AgainstADict.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAgainstADict = AgainstADict.TestCase


def test_a_free_index_has_no_name_and_releasing_it_again_is_no_matter():
    names = Names()
    give(names, "a", 0)
    give(names, "b", 1)
    forget(names.table, 0)
    forget(names.table, 0)
    assert (len(names), names.index_of("a"), names.names_of([0, 1, -1])) == (1, -1, [None, "b", None])


def test_names_whose_hashes_fall_together_are_told_apart_and_found_after_each_other_has_gone():
    names = Names(key=7)
    texts = [f"n{i}" for i in range(4000)]
    together = [t for t in texts if tag_of(Texts.of([t]), 0, 7) % 16 in (14, 15)][:11]  # and on beyond the end
    for index, name in enumerate(together):
        give(names, name, index)
    assert len(names.table.slots) == 16
    for gone in range(0, 11, 2):
        forget(names.table, gone)
        left = [i for i in range(11) if i > gone or i % 2]
        assert [names.index_of(together[i]) for i in left] == left


@settings(max_examples=20, deadline=None)
@given(key=KEYS, chance=st.floats(0, 0.9), seed=st.integers(0, 2**32 - 1))
def test_names_move_to_more_slots_a_few_at_a_time_so_nobody_waits_for_all_of_them(key, chance, seed):
    rng, names, index = np.random.default_rng(seed), Names(key), {}
    longest, doubled = 0, 0
    for i in range(2000):
        slots, moved = len(names.table.slots), int(names.table.meta["moved"][0])
        give(names, f"n{i}", i, room=2000)
        index[f"n{i}"] = i
        if len(names.table.slots) == slots and len(names.table.next):
            longest = max(longest, int(names.table.meta["moved"][0]) - moved)
            there = names.table.next["index"][: int(names.table.meta["freed"][0])]
            assert len(set(there[there >= 0])) == np.count_nonzero(there >= 0), "twice in the next slots"
        if len(names.table.slots) > slots:
            assert moved == slots, "the rest moved at once"
            doubled += 1
        if rng.random() < chance:
            gone = list(index)[rng.integers(len(index))]
            forget(names.table, index.pop(gone))
        if i % 50 == 0 or len(names.table.slots) > slots:
            assert {name: names.index_of(name) for name in index} == index
    assert names.index_of("m") == -1
    assert (longest, doubled > 2) == (PACE, True)


def test_no_text_is_stored_for_ever():
    names = Names()
    for i in range(5000):
        give(names, f"a name that comes and goes {i}", i % ROOM)
        forget(names.table, i % ROOM)
    assert (len(names), len(names.table.text) < 5000) == (0, True)


def test_a_name_lies_where_one_as_long_has_gone_so_nobody_waits_for_holes_to_be_closed():
    names, lengths = Names(), [4, 5, 20, 255]

    def come_all(letter: str) -> None:
        for index in range(ROOM):
            give(names, f"{index:03}".ljust(lengths[index % len(lengths)], letter), index)

    come_all("a")
    first = int(names.table.meta["used"][0])
    assert first == sum(lengths) * ROOM // len(lengths)
    for letter in "bcd":
        for index in range(ROOM):
            forget(names.table, index)
        come_all(letter)
    assert (int(names.table.meta["used"][0]), int(names.table.meta["lost"][0])) == (first, 0)
    assert names.names_of([0, 199]) == ["000d", "199".ljust(255, "d")]


@given(text=TEXTS, other=TEXTS, keys=st.tuples(KEYS, KEYS))
def test_the_hash_takes_in_every_byte_the_space_and_the_key(text, other, keys):
    one, two = Texts.of([text]), Texts.of([other])
    assert (tag_of(one, 0, keys[0]) == tag_of(two, 0, keys[0])) <= (text == other)
    assert tag_of(one, 0, keys[0]) != tag_of(one, 1, keys[0])
    assert (tag_of(one, 0, keys[0]) == tag_of(one, 0, keys[1])) <= (keys[0] | 1 == keys[1] | 1)


@given(st.lists(TEXTS | st.none(), max_size=10), st.lists(TEXTS | st.none(), max_size=10))
def test_a_column_of_texts_holds_what_a_list_does(one, other):
    column, joined = Texts.of(one), Texts.join([Texts.of(one), Texts.of(other)])
    assert (column, joined) == (one, one + other)
    assert [joined[i] for i in range(len(joined))] == one + other
    assert joined[::-1] == (one + other)[::-1]
    assert joined[len(one) :].packed() == other
    assert joined.is_text()


def test_texts_that_compiled_code_would_misread_are_refused():
    one = Texts.of(["a", "bc", "d"])
    with pytest.raises(TypeError, match="texts in arrays of uint8, int32, int32, expected uint8, int64, int32 "):
        Texts(one.data, one.start.astype(np.int32), one.length)
    with pytest.raises(TypeError, match="texts in arrays of uint8, int64, int32, expected .* without gaps"):
        Texts(one.data, one.start, np.repeat(one.length, 2)[::2])
