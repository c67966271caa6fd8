"""What the searches of an index find for a rollout.

Shapes: B batch, W those of it who run together, M interests, D width, F fetched hits.
"""

import time

import numpy as np
from numpy.typing import NDArray

from index.search import ItemIndex
from service.recall.candidate_lists import CandidateLists
from service.recall.query_batch import QueryBatch
from service.recall.types import Floats, Ints


class IndexSearcher:
    """The hits of every step of a rollout: candidates, and the next token."""

    def __init__(
        self, index: ItemIndex, lists: CandidateLists, batch: QueryBatch, users_W: Ints
    ) -> None:
        self._index = index
        self._lists = lists
        self._users_W = users_W
        self._wanted_W = batch.k_B[users_W]
        self._quotas_MW = batch.quotas_MW(users_W)
        self.steps = len(self._quotas_MW)
        # Whatever is excluded, given or offered may stand before the wanted hits.
        before_W = batch.excluded.lengths_B[users_W] + self.steps
        self._fetch = int((self._wanted_W + before_W).max())
        self._found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # W F, a step each
        self.search_seconds = self.merge_seconds = 0.0

    def search(self, interest_WD: Floats) -> Ints:
        """Give everyone the hits of the next step; its tokens W."""
        started = time.perf_counter()
        rows_WF, scores_WF = self._index.search(interest_WD, self._fetch)
        found = time.perf_counter()
        step = len(self._found)
        self._found.append((rows_WF, scores_WF))
        self._lists.take(self._users_W, rows_WF, scores_WF, self._quotas_MW[step], step)
        best_W = self._lists.offer(self._users_W, rows_WF, step)
        self.search_seconds += found - started
        self.merge_seconds += time.perf_counter() - found
        return best_W

    def refill(self) -> None:
        """Lists that are still short get what the interests have left, in their order."""
        for step, (rows_WF, scores_WF) in enumerate(self._found):
            missing_W = self._wanted_W - self._lists.sizes_B[self._users_W]
            if missing_W.any():
                asked_W = np.where(self._quotas_MW[step] > 0, missing_W, 0)
                self._lists.take(self._users_W, rows_WF, scores_WF, asked_W, step)
