"""The selection of the best scores, beside sorting."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index.kernels.int8_layout import LOWEST
from index.kernels.jit import compiled
from index.kernels.topk import (
    BELOW_ALL,
    MAX_COUNTED,
    TopKWorkspace,
    find_candidates,
    key_row,
    key_score,
    rescore,
    threshold,
)


@compiled
def threshold_of(values_N: NDArray[np.int32], wanted: int) -> int:
    found: int = threshold(values_N, wanted)
    return found


@compiled
def candidates_of(
    scores_P: NDArray[np.int16], wanted: int, slack: int, workspace: TopKWorkspace
) -> NDArray[np.int32]:
    return find_candidates(scores_P, wanted, slack, workspace).copy()


@compiled
def best_of(
    query_D: NDArray[np.float32],
    vectors_VD: NDArray[np.float32],
    rows_N: NDArray[np.int32],
    scores_K: NDArray[np.float32],
    rows_K: NDArray[np.int64],
    workspace: TopKWorkspace,
) -> int:
    keys_K = rescore(query_D, vectors_VD, rows_N, len(rows_K), workspace)
    for at in range(len(keys_K)):
        scores_K[at], rows_K[at] = key_score(keys_K[at]), key_row(keys_K[at])
    return len(keys_K)


@pytest.mark.parametrize("wanted", [1, 7, 100, 999])
def test_a_threshold_is_reached_by_as_many_as_are_wanted_or_a_few_more(wanted: int) -> None:
    rng = np.random.default_rng(wanted)
    values_N = rng.permutation(100_000).astype(np.int32)[:1000] - 50_000
    reaching = (values_N >= threshold_of(values_N, wanted)).sum()
    assert wanted <= reaching <= wanted + wanted // 8


def test_a_threshold_of_equal_values_is_that_value() -> None:
    values_N = np.array([5] * 90 + [-3] * 10, dtype=np.int32)
    assert threshold_of(values_N, 4) == 5
    assert threshold_of(values_N, 95) == -3
    assert threshold_of(values_N, 100) == BELOW_ALL


@pytest.mark.parametrize("slack", [0, 300])
@pytest.mark.parametrize(("positions", "wanted"), [(16, 3), (160, 20), (4096, 100), (4096, 0)])
def test_all_that_may_be_among_the_best_are_found(positions: int, wanted: int, slack: int) -> None:
    rng = np.random.default_rng(positions)
    scores_P = rng.integers(-3000, 3000, positions).astype(np.int16)
    closed = rng.choice(positions, positions // 4, replace=False)
    scores_P[closed] = LOWEST
    found = candidates_of(scores_P, wanted, slack, TopKWorkspace.allocate(positions)).tolist()
    assert len(found) == len(set(found))
    assert not set(found) & set(closed.tolist())
    if wanted:
        limit = np.sort(scores_P)[-wanted] - slack
        allowed = {p for p in range(positions) if scores_P[p] >= limit and scores_P[p] > LOWEST}
        assert allowed <= set(found)
    else:
        assert not found


@pytest.mark.parametrize("k", [1, 50, MAX_COUNTED + 200])  # the last ones are sorted by a heap
def test_the_best_rows_come_in_order(k: int) -> None:
    rng = np.random.default_rng(k)
    vectors_VD = rng.normal(size=(2000, 8)).astype(np.float32)
    vectors_VD[1000:1300] = vectors_VD[:300]  # equal scores: the lower row is first
    query_D = rng.normal(size=8).astype(np.float32)
    rows_N = rng.permutation(2000).astype(np.int32)[:1500]
    scores_K, rows_K = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
    found = best_of(query_D, vectors_VD, rows_N, scores_K, rows_K, TopKWorkspace.allocate(2000))
    assert found == k
    np.testing.assert_allclose(scores_K, vectors_VD[rows_K] @ query_D, rtol=1e-4, atol=1e-5)
    pairs = list(zip((-scores_K).tolist(), rows_K.tolist(), strict=True))
    assert pairs == sorted(pairs)
    best = np.sort(vectors_VD[rows_N] @ query_D)[::-1][:k]
    np.testing.assert_allclose(scores_K, best, rtol=1e-4, atol=1e-5)


def test_fewer_rows_than_wanted_are_all_returned() -> None:
    vectors_VD = np.array([[1.0], [-2.0], [0.0]], dtype=np.float32)
    scores_K, rows_K = np.zeros(5, dtype=np.float32), np.zeros(5, dtype=np.int64)
    rows_N = np.arange(3, dtype=np.int32)
    query_D = np.ones(1, dtype=np.float32)
    assert best_of(query_D, vectors_VD, rows_N, scores_K, rows_K, TopKWorkspace.allocate(16)) == 3
    assert scores_K[:3].tolist() == [1.0, 0.0, -2.0]
    assert rows_K[:3].tolist() == [0, 2, 1]
