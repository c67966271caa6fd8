import numpy as np
import pytest

from service.merge import POPULAR, Merged, backfill, merge

NOTHING = np.array([], dtype=np.int64)


def hits(*rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and falling scores, as a search returns them."""
    return np.array(rows, dtype=np.int64), np.linspace(1, 0.5, len(rows), dtype=np.float32)


def merged(*lists: tuple[int, ...], closed: tuple[int, ...] = (), quotas: list[int]) -> Merged:
    rows, scores = zip(*(hits(*rows) for rows in lists), strict=True)
    return merge(rows, scores, np.array(closed, dtype=np.int64), quotas)


def test_each_interest_gives_its_quota_in_order() -> None:
    result = merged((5, 6, 7, 8), (9, 10, 11, 12), quotas=[3, 1])
    assert result.rows_K.tolist() == [5, 6, 7, 9]
    assert result.interests_K.tolist() == [0, 0, 0, 1]
    assert result.scores_K.tolist() == pytest.approx([1, 5 / 6, 4 / 6, 1])


def test_later_interests_skip_what_earlier_ones_gave() -> None:
    result = merged((5, 6, 7), (6, 5, 8, 7), (8, 7, 9), quotas=[2, 1, 1])
    assert result.rows_K.tolist() == [5, 6, 8, 7]
    assert result.interests_K.tolist() == [0, 0, 1, 2]


def test_closed_and_missing_rows_are_never_given() -> None:
    result = merged((5, -1, 6, 7), (5, 8), closed=(5, 7), quotas=[2, 1])
    assert result.rows_K.tolist() == [6, 8]


def test_a_short_interest_is_filled_from_the_others() -> None:
    result = merged((5,), (5, 6, 7, 8), quotas=[3, 1])
    assert result.rows_K.tolist() == [5, 6, 7, 8]
    assert result.interests_K.tolist() == [0, 1, 1, 1]


def test_the_first_interests_further_hits_come_before_the_others() -> None:
    result = merged((5, 6, 7), (5, 6, 7), quotas=[1, 2])
    assert sorted(result.rows_K.tolist()) == [5, 6, 7]
    result = merged((5, 6, 7, 8), (5,), quotas=[2, 2])
    assert result.rows_K.tolist() == [5, 6, 7, 8]


def test_backfill_gives_popular_items_that_are_open() -> None:
    some = merged((5, 6), quotas=[4])
    full = backfill(some, np.array([6, 1, 2, 3, 4]), np.array([2]), 4)
    assert full.rows_K.tolist() == [5, 6, 1, 3]
    assert full.interests_K.tolist() == [0, 0, POPULAR, POPULAR]
    assert full.scores_K.tolist()[2:] == [0, 0]


def test_backfill_ends_with_the_catalogue() -> None:
    full = backfill(merged((0,), quotas=[5]), np.array([0, 1, 2]), NOTHING, 5)
    assert full.rows_K.tolist() == [0, 1, 2]


def test_a_full_list_is_left_alone() -> None:
    some = merged((5, 6), quotas=[2])
    assert backfill(some, np.array([1, 2]), NOTHING, 2) is some


def test_random_lists_keep_the_rules() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        interests, size = rng.integers(1, 5), rng.integers(1, 30)
        lists = [tuple(rng.permutation(40)[:size].tolist()) for _ in range(interests)]
        closed = tuple(rng.permutation(40)[: rng.integers(0, 30)].tolist())
        quotas = rng.integers(0, 8, interests).tolist()
        rows = merged(*lists, closed=closed, quotas=quotas).rows_K.tolist()
        available = {row for rows_F in lists for row in rows_F} - set(closed)
        assert len(rows) == len(set(rows)) == min(sum(quotas), len(available))
        assert set(rows) <= available
