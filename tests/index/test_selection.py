"""Hits within a selection are those of sorting all inner products of its items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.build import build_index, vectors_sha256
from index.kernels.masks import Masks, pack
from index.search import load_index, selection_search
from index.selection import MISSING, Selection, SelectionSearch

ITEMS, WIDTH = 3001, 20
VECTORS_VD = np.random.default_rng(0).standard_normal((ITEMS, WIDTH), dtype=np.float32)
QUERIES_BD = np.random.default_rng(1).standard_normal((9, WIDTH), dtype=np.float32)


@pytest.fixture(scope="module", params=["exact", "ivf"])
def search(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> SelectionSearch:
    """Over the codes of each kind of index, which stand in another order in the lists."""
    folder = tmp_path_factory.mktemp(request.param)
    build_index(VECTORS_VD, folder, request.param, 0.01)
    index = load_index(folder, VECTORS_VD, vectors_sha256(VECTORS_VD))
    return selection_search(index, gathered_share=0.25)


def best(query_D: np.ndarray, allowed_V: np.ndarray, k: int) -> list[int]:
    """The rows of the best allowed items, then `MISSING`."""
    rows = np.flatnonzero(allowed_V)
    scores = VECTORS_VD[rows].astype(np.float64) @ query_D
    found = rows[np.argsort(-scores, kind="stable")][:k].tolist()
    return [*found, *[MISSING] * (k - len(found))]


def found(search: SelectionSearch, selection: Selection, k: int) -> list[list[int]]:
    if selection.gathered:
        return search.search_gathered(selection.gathered, QUERIES_BD, k)[1].tolist()
    return search.search_masked([selection.words_N] * len(QUERIES_BD), QUERIES_BD, k)[1].tolist()


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.1, 0.2, 0.5, 1])
@pytest.mark.parametrize("k", [1, 40, 200])
def test_hits_are_the_best_allowed_items(search: SelectionSearch, share: float, k: int) -> None:
    allowed_V = np.random.default_rng(2).random(ITEMS) < share
    selection = search.select(allowed_V)
    assert bool(selection.gathered) == (share < 0.25)
    assert selection.items == allowed_V.sum()
    assert found(search, selection, k) == [best(query_D, allowed_V, k) for query_D in QUERIES_BD]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_items_may_be_allowed_and_hidden(search: SelectionSearch, data: st.DataObject) -> None:
    """The farthest and the nearest ones to a query, too."""
    rows = st.integers(0, ITEMS - 1)
    nearness_V = np.argsort(np.argsort(-(VECTORS_VD @ QUERIES_BD[0])))
    first, count = data.draw(rows), data.draw(rows)
    allowed_V = (nearness_V >= first) & (nearness_V < first + count)
    hidden_V = np.isin(np.arange(ITEMS), data.draw(st.lists(rows, max_size=50)))
    search.set_hidden(hidden_V)
    selection = search.visible(search.select(allowed_V))
    left_V = allowed_V & ~hidden_V
    assert selection.items == left_V.sum()
    assert found(search, selection, 30) == [best(query_D, left_V, 30) for query_D in QUERIES_BD]
    search.set_hidden(np.zeros(ITEMS, dtype=np.bool_))
    whole = search.select(allowed_V)
    assert search.visible(whole) is whole


def test_each_query_has_its_own_mask(search: SelectionSearch) -> None:
    """Masks of a batch are never mixed, and a query without one finds all items."""
    rng = np.random.default_rng(3)
    several_FV = rng.random((3, ITEMS)) < 0.5
    masks = [search.mask(allowed_V) for allowed_V in several_FV]
    of_query = [0, 1, None, 2, 1, 0, None, 2, 2]
    words = [None if one is None else masks[one] for one in of_query]
    _, rows_BK = search.search_masked(words, QUERIES_BD, 25)
    every_V = np.ones(ITEMS, dtype=np.bool_)
    for query_D, one, rows_K in zip(QUERIES_BD, of_query, rows_BK.tolist(), strict=True):
        assert rows_K == best(query_D, every_V if one is None else several_FV[one], 25)
    assert len(Masks.of(words).addresses_F) == 3


def test_a_bit_stands_for_each_position() -> None:
    words = pack(np.array([True, *[False] * 15, False, True]))
    assert words.tolist() == [1, 2]
    assert pack(np.zeros(0, dtype=np.bool_)).tolist() == []
