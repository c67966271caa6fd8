"""Selections are kept within their memory, and never show an old state of the items."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from service.recall.filters.columns import AttributeColumns, Bools
from service.recall.filters.form import canonical_form
from service.recall.filters.item_filters import POPULAR, ItemFilters

ITEMS = 200


@dataclass
class Rows:
    """The selection of a stand-in for a backend."""

    allowed_V: Bools
    nbytes: int = 1000

    @property
    def items(self) -> int:
        return int(self.allowed_V.sum())


class Selector:
    """Counts the selections that it makes."""

    def __init__(self) -> None:
        self.made = 0
        self._hidden_V = np.zeros(ITEMS, dtype=np.bool_)

    def select(self, allowed_V: Bools) -> Rows:
        self.made += 1
        return Rows(allowed_V)

    def set_hidden(self, hidden_V: Bools) -> None:
        self._hidden_V = hidden_V.copy()

    def visible(self, selection: Rows) -> Rows:
        if not self._hidden_V.any():
            return selection
        return Rows(selection.allowed_V & ~self._hidden_V)


@pytest.fixture
def selector() -> Selector:
    return Selector()


def item_filters(selector: Selector, room: int = 100) -> ItemFilters:
    """Filters of items that are numbered, the least popular first, with room for selections."""
    columns = AttributeColumns.of(
        pl.DataFrame({"number": range(ITEMS), "even": [True, False] * 100})
    )
    each = 1000 + ITEMS // 8 + 8 * POPULAR
    return ItemFilters(columns, selector, np.arange(ITEMS)[::-1], max_bytes=room * each)


def below(limit: int) -> bytes:
    return canonical_form({"all": [{"field": "number", "lt": float(limit)}]})


EVEN = canonical_form({"all": [{"field": "even", "in": [True]}]})


def rows(filters: ItemFilters, form: bytes | None) -> list[int]:
    allowed = filters.of([form])
    assert allowed
    assert allowed[0]
    found = np.flatnonzero(allowed[0].visible.allowed_V).tolist()  # type: ignore[attr-defined]
    assert allowed[0].matched == len(found)
    popular = [row for row in filters.popular(allowed[0], ITEMS).tolist() if row >= 0]
    assert popular == found[::-1]
    return found


def test_without_filters_there_is_nothing_to_do(selector: Selector) -> None:
    filters = item_filters(selector)
    assert filters.of([None, None]) is None
    assert filters.popular(None, 3).tolist() == [199, 198, 197]
    assert selector.made == 0


def test_equal_filters_share_a_selection(selector: Selector) -> None:
    filters = item_filters(selector)
    allowed = filters.of([below(5), None, below(5), below(6)])
    assert allowed
    assert allowed[0] is allowed[2]
    assert allowed[1] is None
    assert selector.made == 2
    assert rows(filters, below(5)) == [0, 1, 2, 3, 4]
    assert selector.made == 2


def test_many_filters_take_no_more_memory_than_allowed(selector: Selector) -> None:
    filters = item_filters(selector, room=3)
    for limit in range(1, 50):
        assert rows(filters, below(limit)) == list(range(limit))
        assert len(filters._kept) <= 3
    assert filters._bytes == sum(kept.nbytes for kept in filters._kept.values())
    made = selector.made
    rows(filters, below(49))
    rows(filters, below(47))
    assert selector.made == made  # those that were used last are kept
    rows(filters, below(46))
    assert selector.made == made + 1


def test_the_copies_without_hidden_items_take_memory_too(selector: Selector) -> None:
    filters = item_filters(selector, room=3)
    for limit in (1, 2, 3):
        rows(filters, below(limit))
    assert len(filters._kept) == 3
    filters.set_hidden([150])
    rows(filters, below(3))  # its copy takes the room of the oldest one
    assert len(filters._kept) == 2
    assert filters._bytes == sum(kept.nbytes for kept in filters._kept.values())
    filters.set_hidden([])
    rows(filters, below(3))
    rows(filters, below(1))
    assert len(filters._kept) == 3
    assert filters._bytes == sum(kept.nbytes for kept in filters._kept.values())


def test_a_changed_attribute_renews_the_filters_that_read_it(selector: Selector) -> None:
    filters = item_filters(selector)
    assert rows(filters, below(3)) == [0, 1, 2]
    evens = rows(filters, EVEN)
    filters.change({1: {"number": 50}, 77: {"number": -1.5, "unheard-of": "x"}})
    made = selector.made
    assert rows(filters, below(3)) == [0, 2, 77]
    assert rows(filters, EVEN) == evens
    assert selector.made == made + 1


def test_hidden_items_are_in_no_selection(selector: Selector) -> None:
    filters = item_filters(selector)
    assert rows(filters, below(4)) == [0, 1, 2, 3]
    filters.set_hidden([1, 2, 150])
    assert rows(filters, below(4)) == [0, 3]
    assert rows(filters, None) == [row for row in range(ITEMS) if row not in (1, 2, 150)]
    filters.set_hidden([3])
    assert rows(filters, below(4)) == [0, 1, 2]
    filters.set_hidden([])
    assert rows(filters, below(4)) == [0, 1, 2, 3]
    assert filters.of([None]) is None
    assert selector.made == 2  # it was filtered once, and all items once


def test_popular_items_go_on_as_far_as_they_are_wanted(selector: Selector) -> None:
    filters = item_filters(selector)
    (allowed,) = filters.of([below(10)]) or [None]
    assert filters.popular(allowed, 3).tolist() == [9, 8, 7]
    assert filters.popular(allowed, 12).tolist() == [*range(9, -1, -1), -1, -1]
    filters.set_hidden([9, 7])
    (allowed,) = filters.of([below(10)]) or [None]
    assert filters.popular(allowed, 3).tolist() == [8, 6, 5]
