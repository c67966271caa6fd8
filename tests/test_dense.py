import numpy as np
import pytest

from service.dense import top


@pytest.mark.parametrize("items", [10, 100, 1000])
def test_everyones_best_are_found_in_order(items: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        users = int(rng.integers(1, 9))
        scores_BV = rng.standard_normal((users, items)).astype(np.float32)
        scores_BV[rng.random(scores_BV.shape) < rng.choice([0, 0.5, 0.99, 1])] = -np.inf
        quotas_B = rng.integers(0, 12, users)
        users_N, rows_N, scores_N = top(scores_BV, quotas_B)
        for user, quota in enumerate(quotas_B):
            best = [row for row in np.argsort(-scores_BV[user]) if scores_BV[user, row] > -np.inf]
            assert rows_N[users_N == user].tolist() == best[:quota]
        assert scores_N.tolist() == scores_BV[users_N, rows_N].tolist()
        assert (np.diff(users_N) >= 0).all()
