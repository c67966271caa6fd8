import math

import numpy as np
import pytest
import tiny

from model.evaluation.reference import (
    DenseRecall,
    InterestLists,
    at_positions,
    interest_weights,
    merge_by_probability,
    merge_by_quotas,
)
from model.network.config import RecallConfig


def merged(rows: np.ndarray, quotas: list[int]) -> list[list[int]]:
    rows_BK: list[list[int]] = at_positions(rows, merge_by_quotas(rows, quotas), -1).tolist()
    return rows_BK


def test_each_interest_gives_its_quota_of_items_that_no_earlier_one_gave() -> None:
    rows = np.array([[[0, 1, 2, 3], [1, 0, 3, 4], [4, 3, 5, 0]]])
    assert merged(rows, [2, 1, 1]) == [[0, 1, 3, 4]]
    assert merged(rows, [1, 2, 1]) == [[0, 1, 3, 4]]
    assert merged(rows, [1, 0, 3]) == [[0, 4, 3, 5]]
    assert merge_by_quotas(rows, [2, 1, 1]).tolist() == [[0, 1, 6, 8]]


def test_what_is_missing_stays_missing() -> None:
    rows = np.array([[[0, 1, -1], [1, 0, 2]]])
    assert merged(rows, [3, 0]) == [[0, 1, -1]]
    assert merged(rows, [1, 2]) == [[0, 1, 2]]
    scores = np.array([[[9.0, 8.0, -np.inf], [7.0, 6.0, 5.0]]], dtype=np.float32)
    found = at_positions(scores, merge_by_quotas(rows, [3, 0]), -np.inf)
    assert found.tolist() == [[9.0, 8.0, -np.inf]]
    assert found.dtype == np.float32


def test_the_merge_by_probability_ranks_by_the_mean_over_all_candidates() -> None:
    rng = np.random.default_rng(0)
    table_VD = rng.normal(size=(30, 4)).astype(np.float32)
    interests_BMD = rng.normal(size=(5, 2, 4)).astype(np.float32)
    scores_BMV = interests_BMD @ table_VD.T
    rows_BMK = np.argsort(-scores_BMV, axis=2)[..., :6]
    lists = InterestLists(np.take_along_axis(scores_BMV, rows_BMK, 2), rows_BMK, interests_BMD)
    found_BK = merge_by_probability(
        lists, table_VD, interest_weights(2, RecallConfig(first_share=0.7)), 6
    )
    for user in range(5):
        candidates = np.unique(rows_BMK[user])
        odds = np.exp(scores_BMV[user][:, candidates])
        mean = np.array([0.7, 0.3]) @ (odds / odds.sum(axis=1, keepdims=True))
        assert found_BK[user].tolist() == candidates[np.argsort(-mean)][:6].tolist()


def test_the_merge_by_probability_lists_no_item_twice_and_no_missing_one() -> None:
    rows_BMK = np.array([[[2, 0, -1], [0, 2, -1]]])
    scores = np.where(rows_BMK >= 0, 1.0, -np.inf).astype(np.float32)
    lists = InterestLists(scores, rows_BMK, np.ones((1, 2, 1), dtype=np.float32))
    table_VD = np.array([[0.5], [9.0], [0.9]], dtype=np.float32)
    found_BK = merge_by_probability(
        lists, table_VD, interest_weights(2, RecallConfig(first_share=0.5)), 3
    )
    assert found_BK.tolist() == [[2, 0, -1]]


def test_one_interest_is_the_same_by_any_merge() -> None:
    recall = RecallConfig(first_share=0.4)
    assert interest_weights(1, recall).tolist() == [1.0]
    assert interest_weights(3, recall).tolist() == pytest.approx([0.4, 0.3, 0.3])


def test_own_weights_take_the_place_of_the_first_share() -> None:
    recall = RecallConfig(interests=3, first_share=0.4, weights=(1, 0.5, 1.5))
    assert interest_weights(3, recall).tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    assert interest_weights(2, recall).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert interest_weights(4, recall).tolist() == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert interest_weights(1, RecallConfig(interests=2, weights=(0, 1))).tolist() == [1.0]


@pytest.mark.parametrize(
    "weights", [(1.0,), (0.5, -0.5), (0.0, 0.0), (0.5, math.inf), (math.nan, 1)]
)
def test_weights_must_be_one_for_each_interest(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights = "):
        RecallConfig(interests=2, weights=weights)


def test_the_padding_of_a_short_history_is_not_seen_as_row_0() -> None:
    recall = DenseRecall(tiny.gpt(), RecallConfig(interests=1))
    histories, unknown_B = [np.array(rows) for rows in ([5], [7, 8, 9], [6])], np.full(3, -1)
    (rows_BK,) = recall(histories, unknown_B, [37])
    (longer_BK,) = recall(histories, unknown_B, [39])
    assert set(longer_BK[0]) == set(range(40)) - {5}
    assert set(rows_BK[1]) == set(range(40)) - {7, 8, 9}
    assert set(longer_BK[2]) == set(range(40)) - {6}  # nor as an item of another history
