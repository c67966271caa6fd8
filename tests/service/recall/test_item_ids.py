"""Ids to rows: the same as a dictionary gives, and within bounds for malformed bytes."""

from itertools import pairwise

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from id_strategies import IDS

from service.recall.item_ids import ItemIds, PackedStrings
from service.recall.query_batch import Ragged
from service.recall.types import Ids


def lists(ragged: Ragged) -> list[list[int]]:
    rows, ends = ragged.rows_N.tolist(), ragged.offsets_B.tolist()
    return [rows[begin:end] for begin, end in pairwise(ends)]


@pytest.mark.parametrize(
    "length", [1, 31, 32, 255, 256, 1024]
)  # each has a msgpack header of its own
def test_rows_are_those_of_a_dictionary(length: int) -> None:
    rng = np.random.default_rng(length)
    strings = [f"{row}".rjust(length, "x") for row in rng.permutation(10 if length == 1 else 300)]
    strings += ["ü" * length, "\x00" * length, "😀"]
    rows = {item: row for row, item in enumerate(strings)}
    item_ids = ItemIds.of(strings)
    assert item_ids.ids_of(range(len(strings))) == strings
    drawn = [*strings, "unheard-of", "", "x" * length, strings[0] + "y"]
    asked: list[tuple[list[str], list[str]]] = [
        tuple(rng.choice(drawn, rng.choice([0, 1, 15, 16, 40])).tolist() for _ in range(2))
        for _ in range(50)
    ]
    newest, excluded, unknown_B, none_N, _ = item_ids.look_up(asked, max_history=12)
    known = [tuple([rows[i] for i in part if i in rows] for part in pair) for pair in asked]
    assert lists(newest) == [history[-12:] for history, _ in known]
    assert lists(excluded) == [history + excluded for history, excluded in known]
    expected = [len(pair[0]) - len(has[0]) for pair, has in zip(asked, known, strict=True)]
    assert unknown_B.tolist() == expected
    assert len(none_N) == 0
    repeats = [query % 3 == 0 for query in range(len(asked))]  # whose items are not excluded
    found = item_ids.look_up(asked, 12, repeats, places=True, whole=True)
    places = [[n for n, item in enumerate(pair[0]) if item in rows][-12:] for pair in asked]
    assert lists(found.newest._replace(rows_N=found.places_N)) == places
    assert lists(found.whole) == [history for history, _ in known]


def test_the_items_of_a_repeated_history_are_not_excluded() -> None:
    item_ids = ItemIds.of(["a", "b", "c"])
    asked = [(["a", "b", "?"], ["c", "b"])] * 3
    newest, excluded, unknown_B, *_ = item_ids.look_up(asked, 5, [False, True, False])
    assert lists(newest) == [[0, 1]] * 3
    assert lists(excluded) == [[0, 1, 2, 1], [2, 1], [0, 1, 2, 1]]
    assert unknown_B.tolist() == [1, 1, 1]


def test_equal_hashes_are_not_enough() -> None:
    item_ids = ItemIds.of(["a", "b"])
    _, excluded, *_ = item_ids.look_up([(["b"], [])], 5)
    assert excluded.rows_N.tolist() == [1]
    other = item_ids._replace(ids=PackedStrings.of([b"a", b"c"]))  # but with the hashes of a and b
    _, excluded, unknown_B, *_ = other.look_up([(["b", "a"], [])], 5)
    assert excluded.rows_N.tolist() == [0]
    assert unknown_B.tolist() == [1]


def test_packed_ids_are_taken_as_they_are_and_a_lone_surrogate_equals_no_id() -> None:
    item_ids = ItemIds.of(["a", "b"])
    given: list[Ids] = [msgpack.packb(["b", "a"]), ["b", "\ud800", "a"]]
    _, excluded, unknown_B, *_ = item_ids.look_up([(ids, []) for ids in given], 5)
    assert lists(excluded) == [[1, 0], [1, 0]]
    assert unknown_B.tolist() == [0, 1]


def test_very_long_lists_and_texts_are_read() -> None:
    long = "x" * 70_000
    item_ids = ItemIds.of(["a", long])
    newest, excluded, unknown_B, *_ = item_ids.look_up([(["b", "a"] * 40_000, [long])], 3)
    assert (len(excluded.rows_N), unknown_B.tolist()) == (40_001, [40_000])
    assert (lists(newest), excluded.rows_N[-1]) == ([[0, 0, 0]], 1)


MSGPACK = st.sampled_from([0x61, 0x90, 0x9F, 0xA1, 0xBF, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFF])
PACKED = st.binary(max_size=40) | st.lists(MSGPACK | st.integers(0, 255), max_size=12).map(bytes)


@settings(max_examples=500, deadline=None)
@given(PACKED, PACKED)
@example(b"\xdd\xff\xff\xff\xff\xa1a", b"\x91\xdb\xff\xff\xff\xffa")
def test_bytes_of_any_kind_are_read_within_their_bounds(history: bytes, exclude: bytes) -> None:
    item_ids = ItemIds.of(["", "a"])
    newest, excluded, unknown_B, *_ = item_ids.look_up([(history, exclude)] * 2, max_history=3)
    assert len(excluded.rows_N) <= 2 * len(history + exclude)
    assert set(excluded.rows_N.tolist()) <= {0, 1}
    assert max(newest.lengths_B) <= 3
    assert (unknown_B <= 2 * len(history)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(IDS, unique=True, max_size=20), st.data())
def test_any_ids_are_found_as_in_a_dictionary(known: list[str], data: st.DataObject) -> None:
    rows = {item: row for row, item in enumerate(known)}
    asked = data.draw(st.lists(st.sampled_from(known) | IDS if known else IDS, max_size=40))
    newest, excluded, unknown_B, *_ = ItemIds.of(known).look_up([(asked, asked)], max_history=7)
    found = [rows[item] for item in asked if item in rows]
    assert lists(newest) == [found[-7:]]
    assert lists(excluded) == [found * 2]
    assert unknown_B.tolist() == [len(asked) - len(found)]


def test_malformed_bytes_harm_no_other_query() -> None:
    item_ids, neighbour = ItemIds.of(["a", "b"]), (["a"], ["b"])
    for bad in (b"\xdd\xff\xff\xff\xff\xa1a", b"\x9f\xa1a", b"\x91\xbfa", b"\x91\x05", b""):
        _, excluded, unknown_B, *_ = item_ids.look_up([(bad, bad), neighbour], 5)
        assert lists(excluded)[1] == [0, 1]
        assert unknown_B[1] == 0


def test_an_empty_catalogue_knows_nothing() -> None:
    _, excluded, unknown_B, *_ = ItemIds.of([]).look_up([(["a"], ["b"])], 5)
    assert excluded.rows_N.tolist() == []
    assert unknown_B.tolist() == [1]
