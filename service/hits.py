"""A query in rows, and what the searches of an index find for a rollout.

Shapes: B batch, W those of it who run together, M interests, D width, F fetched hits.
"""

import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.search import ItemIndex
from service.merge import Floats, Ints, Merge


class Case(NamedTuple):
    """A query in rows."""

    user: int
    history: list[int]
    closed: list[int]  # rows that must not be returned
    k: int
    quotas: tuple[int, ...]  # candidates of each interest: k in all
    unknown: int


def quota_table(cases: Sequence[Case]) -> Ints:
    """The cases' quotas, 0 where one has fewer interests: M B."""
    return np.array(list(zip_longest(*(case.quotas for case in cases), fillvalue=0)))


class Hits:
    """The hits of every step of a rollout: candidates, and the next token."""

    def __init__(
        self, index: ItemIndex, merge: Merge, cases: Sequence[Case], users_W: Ints
    ) -> None:
        self._index = index
        self._merge = merge
        self._users_W = users_W
        warm = [cases[user] for user in users_W]
        self._wanted_W = np.array([case.k for case in warm])
        self._quotas_MW = quota_table(warm)
        # Whatever is closed, given or offered may stand before the wanted hits.
        self._fetch = max(case.k + len(case.closed) for case in warm)
        self.steps = len(self._quotas_MW)
        self._fetch += self.steps
        self._found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # W F, a step each
        self.search_seconds = self.merge_seconds = 0.0

    def search(self, interest_WD: Floats) -> Ints:
        """Give everyone the hits of the next step; its tokens W."""
        started = time.perf_counter()
        rows_WF, scores_WF = self._index.search(interest_WD, self._fetch)
        found = time.perf_counter()
        step = len(self._found)
        self._found.append((rows_WF, scores_WF))
        self._merge.take(self._users_W, rows_WF, scores_WF, self._quotas_MW[step], step)
        best_W = self._merge.offer(self._users_W, rows_WF, step)
        self.search_seconds += found - started
        self.merge_seconds += time.perf_counter() - found
        return best_W

    def refill(self) -> None:
        """Lists that are still short get what the interests have left, in their order."""
        for step, (rows_WF, scores_WF) in enumerate(self._found):
            missing_W = self._wanted_W - self._merge.sizes_B[self._users_W]
            if missing_W.any():
                asked_W = np.where(self._quotas_MW[step] > 0, missing_W, 0)
                self._merge.take(self._users_W, rows_WF, scores_WF, asked_W, step)
