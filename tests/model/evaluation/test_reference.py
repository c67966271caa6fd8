import numpy as np

from model.evaluation.reference import at_positions, merge_by_quotas


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
