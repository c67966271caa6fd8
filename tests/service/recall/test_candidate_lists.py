import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import query_batch

from model.evaluation.reference import at_positions, merge_by_quotas
from model.network.rollout import best_new
from service.recall.candidate_lists import NO_ITEM, POPULAR, CandidateLists
from service.recall.types import Candidates

CATALOGUE = 40


def hits(*lists: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Falling scores and rows, as a search returns them."""
    rows = np.array(lists)
    return np.tile(np.linspace(1, 0.5, rows.shape[1], dtype=np.float32), (len(rows), 1)), rows


def merged(*lists: list[int], excluded: list[int] | None = None, quotas: list[int]) -> Candidates:
    """The list of one query, from a list of hits and a quota per interest."""
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


def reference(rows_MF: np.ndarray, allowed_MF: np.ndarray, quotas_M: np.ndarray) -> list[int]:
    """The list of one query, by the rule of evaluation."""
    rows_1MF = np.where(allowed_MF, rows_MF, NO_ITEM)[None]
    found_1K = at_positions(rows_1MF, merge_by_quotas(rows_1MF, quotas_M.tolist()), NO_ITEM)
    return [row for row in found_1K[0].tolist() if row != NO_ITEM]


def reference_offers(rows_MF: np.ndarray, allowed_MF: np.ndarray) -> list[int]:
    """The offers of one query, by the rule of training."""
    offers_1M = torch.zeros(1, 0, dtype=torch.int64)
    for rows_F, allowed_F in zip(rows_MF, allowed_MF, strict=True):
        first_F = np.argsort(~allowed_F, kind="stable")  # excluded hits last, as in `best_rows`
        scores_1F = torch.where(torch.from_numpy(allowed_F[first_F]), 0.0, -torch.inf)[None]
        offer_11 = best_new(scores_1F, torch.from_numpy(rows_F[first_F])[None], offers_1M)
        offers_1M = torch.cat([offers_1M, offer_11], dim=1)
    return list(map(int, offers_1M[0]))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_lists_and_offers_equal_the_reference(data: st.DataObject) -> None:
    queries, interests = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    rows = st.integers(0, CATALOGUE - 1)
    excluded = data.draw(st.lists(st.lists(rows, max_size=30), min_size=queries, max_size=queries))
    shape = queries, interests
    quotas_BM = data.draw(arrays(np.int64, shape, elements=st.integers(0, 8)))
    size = data.draw(st.integers(1, 30))
    hits_F = st.permutations(range(CATALOGUE)).map(lambda found: found[:size])
    found = data.draw(st.lists(hits_F, min_size=queries * interests, max_size=queries * interests))
    rows_BMF = np.array(found).reshape(*shape, size)
    batch = query_batch(excluded, quotas_BM.tolist())
    lists, every = CandidateLists.empty(batch, CATALOGUE, interests), np.arange(queries)
    scores_BF = np.zeros((queries, size), np.float32)
    for interest in range(interests):
        rows_BF, quotas_B = rows_BMF[:, interest], quotas_BM[:, interest]
        lists.append_best(every, scores_BF, rows_BF, quotas_B, interest)
        lists.offer_best(every, rows_BF, interest)
    for query, answer in enumerate(lists.candidates(batch)):
        rows_MF, allowed_MF = rows_BMF[query], ~np.isin(rows_BMF[query], excluded[query])
        assert answer.rows.tolist() == reference(rows_MF, allowed_MF, quotas_BM[query])
        if allowed_MF.sum(axis=1).min() >= interests:  # else there may be nothing to offer
            offered = lists.offered_BM[query].tolist()
            assert offered == reference_offers(rows_MF, allowed_MF)
