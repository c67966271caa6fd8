import numpy as np
import pytest
from tiny import query_batch

from service.recall.candidate_lists import POPULAR, CandidateLists
from service.recall.types import Candidates

CATALOGUE = 40


def hits(*lists: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Falling scores and rows, as a search returns them."""
    rows = np.array(lists)
    return np.tile(np.linspace(1, 0.5, rows.shape[1], dtype=np.float32), (len(rows), 1)), rows


def merged(*lists: list[int], excluded: list[int] | None = None, quotas: list[int]) -> Candidates:
    """The list of one query, from a list of hits and a quota an interest."""
    batch = query_batch([excluded or []], [quotas])
    merging = CandidateLists.empty(batch, CATALOGUE, 1)
    for interest, (rows, quota) in enumerate(zip(lists, quotas, strict=True)):
        merging.append_best(np.array([0]), *hits(rows), np.array([quota]), interest)
    (result,) = merging.candidates(batch)
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


def test_excluded_rows_are_never_given() -> None:
    assert merged([5, 6, 7], [5, 8], excluded=[5, 7], quotas=[2, 1]).rows.tolist() == [6, 8]


def test_a_second_call_goes_on_where_the_first_ended() -> None:
    assert merged([5, 6, 7, 8], [5, 6, 7, 8], quotas=[1, 2]).rows.tolist() == [5, 6, 7]


def test_no_query_gets_a_neighbours_items() -> None:
    batch = query_batch([[1], [], [2, 3]], [[7]] * 3)
    lists = CandidateLists.empty(batch, CATALOGUE, 1)
    lists.append_best(np.array([0, 2]), *hits([1, 2, 3, 4], [1, 2, 3, 4]), np.array([2, 5]), 0)
    lists.append_best(np.array([1]), *hits([9, 8]), np.array([1]), POPULAR)
    assert lists.sizes_B.tolist() == [2, 1, 2]
    assert [one.rows.tolist() for one in lists.candidates(batch)] == [[2, 3], [9], [1, 4]]


def test_an_offer_is_not_excluded_and_new_each_time() -> None:
    lists = CandidateLists.empty(query_batch([[5], []], [[1], [1]]), CATALOGUE, 3)
    both, (scores, rows) = np.array([0, 1]), hits([5, 6, 7], [5, 6, 7])
    lists.append_best(both, scores, rows, np.array([1, 1]), 0)
    assert lists.offer_best(both, rows, 0).tolist() == [6, 5]  # a candidate may be offered
    assert lists.offer_best(both, rows, 1).tolist() == [7, 6]
    assert lists.offer_best(both, rows, 2).tolist() == [5, 7]  # none left for the first: its best


def test_lists_to_which_nothing_is_appended_are_empty() -> None:
    batch = query_batch([[], [1]], [[5], [5]])
    answers = CandidateLists.empty(batch, CATALOGUE, 1).candidates(batch)
    assert [[a.scores.tolist(), a.rows.tolist(), a.interests.tolist()] for a in answers] == [
        [[], [], []]
    ] * 2


def test_random_lists_equal_the_plain_algorithm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        queries, interests, size = rng.integers(1, 6), rng.integers(1, 5), rng.integers(1, 30)
        excluded = [
            rng.permutation(CATALOGUE)[: rng.integers(0, 30)].tolist() for _ in range(queries)
        ]
        quotas_BM = rng.integers(0, 8, (queries, interests))
        batch = query_batch(excluded, quotas_BM.tolist())
        lists = CandidateLists.empty(batch, CATALOGUE, 1)
        expected: list[list[int]] = [[] for _ in range(queries)]
        for interest in range(interests):
            rows = np.array([rng.permutation(CATALOGUE)[:size] for _ in range(queries)])
            scores = np.zeros(rows.shape, np.float32)
            quotas_B = quotas_BM[:, interest]
            lists.append_best(np.arange(queries), scores, rows, quotas_B, interest)
            for query, given in enumerate(expected):
                fresh = [r for r in rows[query].tolist() if r not in excluded[query] + given]
                given += fresh[: quotas_B[query]]
        assert [one.rows.tolist() for one in lists.candidates(batch)] == expected
