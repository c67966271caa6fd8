"""Whether one recall is better than another: paired bootstrap over users.

Both recalls answer the same cases. Users are drawn with replacement, all cases of a user together;
the spread of the difference over many draws is its confidence interval.

Shapes: n cases, U users, R draws.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import IntArray

DRAWS = 2000
DRAWS_AT_ONCE = 50
INTERVAL = (2.5, 97.5)
"""Percentiles of the confidence interval."""


class Difference(NamedTuple):
    """The relative difference of two means, with its 95 % confidence interval; 0.05 is 5 % more."""

    relative: float
    low: float
    high: float


def paired_difference(
    new_n: NDArray[np.floating], old_n: NDArray[np.floating], users_n: IntArray, seed: int = 0
) -> Difference:
    """Compares the figures of two recalls on the same cases.

    Raises ValueError if the old figures are all zero, so that there is nothing to be relative to.
    """
    if not old_n.any():
        raise ValueError("the figures to compare with are all zero")
    _, user_n = np.unique(users_n, return_inverse=True)
    sums_2U = np.stack([np.bincount(user_n, weights=figures) for figures in (new_n, old_n)])
    users = sums_2U.shape[1]
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        times_RU = rng.multinomial(users, np.full(users, 1 / users), size=DRAWS_AT_ONCE)
        new_R, old_R = sums_2U @ times_RU.T
        ratios.append(new_R / np.where(old_R > 0, old_R, np.nan))
    low, high = np.nanpercentile(np.concatenate(ratios), INTERVAL)
    new, old = sums_2U.sum(axis=1)
    return Difference(float(new / old - 1), float(low - 1), float(high - 1))
