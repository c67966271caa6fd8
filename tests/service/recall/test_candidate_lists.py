import numpy as np
import pytest
from tiny import ragged

from service.recall.candidate_lists import POPULAR, CandidateList, CandidateLists

CATALOGUE = 40


def hits(*lists: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and falling scores, as a search returns them."""
    rows = np.array(lists)
    return rows, np.tile(np.linspace(1, 0.5, rows.shape[1], dtype=np.float32), (len(rows), 1))


def merged(
    *lists: list[int], excluded: list[int] | None = None, quotas: list[int]
) -> CandidateList:
    """One user's list: a list of hits and a quota an interest."""
    merge = CandidateLists(CATALOGUE, *ragged([excluded or []]), sum(quotas), 1)
    for interest, (rows, quota) in enumerate(zip(lists, quotas, strict=True)):
        merge.take(np.array([0]), *hits(rows), np.array([quota]), interest)
    (result,) = merge.finish()
    return result


def test_each_interest_gives_its_quota_in_order() -> None:
    result = merged([5, 6, 7, 8], [9, 10, 11, 12], quotas=[3, 1])
    assert result.rows.tolist() == [5, 6, 7, 9]
    assert result.interests.tolist() == [0, 0, 0, 1]
    assert result.scores == pytest.approx([1, 5 / 6, 4 / 6, 1])


def test_later_interests_skip_what_earlier_ones_gave() -> None:
    result = merged([5, 6, 7], [6, 5, 8], [8, 7, 9], quotas=[2, 1, 1])
    assert result.rows.tolist() == [5, 6, 8, 7]
    assert result.interests.tolist() == [0, 0, 1, 2]


def test_closed_rows_are_never_given() -> None:
    assert merged([5, 6, 7], [5, 8], excluded=[5, 7], quotas=[2, 1]).rows.tolist() == [6, 8]


def test_a_second_take_goes_on_where_the_first_ended() -> None:
    assert merged([5, 6, 7, 8], [5, 6, 7, 8], quotas=[1, 2]).rows.tolist() == [5, 6, 7]


def test_nobody_gets_a_neighbours_items() -> None:
    merge = CandidateLists(CATALOGUE, *ragged([[1], [], [2, 3]]), longest=7, steps=1)
    merge.take(np.array([0, 2]), *hits([1, 2, 3, 4], [1, 2, 3, 4]), np.array([2, 5]), 0)
    merge.take(np.array([1]), *hits([9, 8]), np.array([1]), POPULAR)
    assert merge.sizes_B.tolist() == [2, 1, 2]
    assert [one.rows.tolist() for one in merge.finish()] == [[2, 3], [9], [1, 4]]


def test_an_offer_is_open_and_new_each_time() -> None:
    merge = CandidateLists(CATALOGUE, *ragged([[5], []]), longest=1, steps=3)
    users, (rows, scores) = np.array([0, 1]), hits([5, 6, 7], [5, 6, 7])
    merge.take(users, rows, scores, np.array([1, 1]), 0)
    assert merge.offer(users, rows, 0).tolist() == [6, 5]  # a candidate may be offered
    assert merge.offer(users, rows, 1).tolist() == [7, 6]
    assert merge.offer(users, rows, 2).tolist() == [5, 7]  # none left for the first: its best


def test_nothing_taken_gives_empty_lists() -> None:
    lists = CandidateLists(CATALOGUE, *ragged([[], [1]]), longest=5, steps=1).finish()
    assert [[part.tolist() for part in one] for one in lists] == [[[], [], []]] * 2


def test_random_lists_equal_the_plain_algorithm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        users, interests, size = rng.integers(1, 6), rng.integers(1, 5), rng.integers(1, 30)
        excluded = [
            rng.permutation(CATALOGUE)[: rng.integers(0, 30)].tolist() for _ in range(users)
        ]
        quotas = rng.integers(0, 8, (interests, users))
        merge = CandidateLists(CATALOGUE, *ragged(excluded), int(quotas.sum(axis=0).max()), 1)
        expected: list[list[int]] = [[] for _ in range(users)]
        for interest in range(interests):
            rows = np.array([rng.permutation(CATALOGUE)[:size] for _ in range(users)])
            scores = np.zeros(rows.shape, np.float32)
            merge.take(np.arange(users), rows, scores, quotas[interest], interest)
            for user in range(users):
                fresh = [r for r in rows[user].tolist() if r not in excluded[user] + expected[user]]
                expected[user] += fresh[: quotas[interest, user]]
        assert [one.rows.tolist() for one in merge.finish()] == expected
