"""Search of inverted lists: what is found, and that memory is used again safely."""

import numpy as np
import pytest

from index.ivf.layout import list_count, read_layout, train_lists
from index.ivf.search import MISSING, IvfSearch

rng = np.random.default_rng(0)
VECTORS = rng.normal(size=(3000, 10)).astype(np.float32)
QUERIES = rng.normal(size=(40, 10)).astype(np.float32)
LISTS = list_count(len(VECTORS))
K = 20


@pytest.fixture(scope="module")
def search() -> IvfSearch:
    return IvfSearch(read_layout(train_lists(VECTORS), VECTORS))


def test_all_lists_together_give_the_exact_hits(search: IvfSearch) -> None:
    scores_BK, rows_BK = search.search(QUERIES, K, LISTS)
    exact_BV = QUERIES @ VECTORS.T
    best_BK = np.argsort(-exact_BV, axis=1)[:, :K]
    found = [len({*ours} & {*best}) for ours, best in zip(rows_BK, best_BK, strict=True)]
    assert sum(found) >= 0.995 * best_BK.size  # 8 bits may leave out the last of them
    np.testing.assert_allclose(scores_BK, np.take_along_axis(exact_BV, rows_BK, 1), rtol=1e-5)
    assert (np.diff(scores_BK) <= 0).all()


def test_batches_of_any_size_find_the_same(search: IvfSearch) -> None:
    alone = [search.search(query[None], K, 5)[1][0].tolist() for query in QUERIES]
    for size in (40, 3, 17):
        _, rows_BK = search.search(QUERIES[:size], K, 5)
        assert rows_BK.tolist() == alone[:size]


def test_a_batch_that_looks_at_too_much_is_halved(
    search: IvfSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (40, 1, 7, 40, 2, 33)
    whole = [search.search(QUERIES[:size], K, LISTS) for size in sizes]
    monkeypatch.setattr("index.ivf.search.MAX_SCORES", 4 * len(VECTORS))
    halved = IvfSearch(search.layout)
    for size, expected in zip(sizes, whole, strict=True):
        found = halved.search(QUERIES[:size], K, LISTS)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_lists_may_be_empty() -> None:
    """Many equal vectors leave centroids without items."""
    equal = np.repeat(VECTORS[:40], 75, axis=0)
    search = IvfSearch(read_layout(train_lists(equal), equal))
    assert (np.diff(search.layout.offsets_L) == 0).any()
    _, rows_BK = search.search(QUERIES, K, 1)
    assert (rows_BK == MISSING).all(axis=1).any()
    assert (search.search(QUERIES, K, LISTS)[1] != MISSING).all()
    assert search.search(QUERIES[:0], K, 1)[1].shape == (0, K)


def test_long_lists_of_hits_are_in_order(search: IvfSearch) -> None:
    """From a thousand on they are sorted in another way."""
    scores_BK, rows_BK = search.search(QUERIES[:3], 1500, LISTS)
    assert (np.diff(scores_BK) <= 0).all()
    assert [len(set(row)) for row in rows_BK.tolist()] == [1500] * 3
    np.testing.assert_array_equal(rows_BK[:, :K], search.search(QUERIES[:3], K, LISTS)[1])


def test_more_lists_find_more(search: IvfSearch) -> None:
    best_BK = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :K]
    shares = []
    for probed in (1, 4, 16):
        _, rows_BK = search.search(QUERIES, K, probed)
        pairs = zip(rows_BK, best_BK, strict=True)
        shares.append(np.mean([len({*ours} & {*best}) / K for ours, best in pairs]))
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < 0.8 < shares[2]


def test_what_lists_do_not_hold_is_missing(search: IvfSearch) -> None:
    _, rows_BK = search.search(QUERIES, 2000, 1)
    assert (rows_BK == MISSING).any(axis=1).all()
    _, everything_BK = search.search(QUERIES[:2], len(VECTORS), LISTS)
    assert [sorted(row) for row in everything_BK.tolist()] == [[*range(len(VECTORS))]] * 2
