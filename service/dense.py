"""Search of a small catalogue by one matrix product a step, where everything closed is left out.

Whether it pays is measured at export (`service.contest`): an index of the kind `dense` says so.

Faiss is asked for more hits than are wanted, because it cannot know what a user has seen; here the
closed items' scores are taken away first, and no more than the quota is looked for.

The product is of 8-bit integers. It leaves out what cannot be a hit, whatever the rounding; the few
items that are left are scored again.

Shapes: B batch, V catalogue, P the same padded to whole groups, G groups, D width, N hits of all
users, user after user. Items are named by their place in the batch's scores: user · P + row.
"""

import time
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.hits import Case, quota_table
from service.merge import Ints, Merge
from service.scores import GROUP, LOW, Coarse, Scores


class _Found(NamedTuple):
    places_N: Ints  # user after user, best first
    scores_N: NDArray[np.float32]
    best_B: Ints  # row of the next token


class DenseHits:
    """The hits of every step of a rollout: candidates, and the next token."""

    def __init__(self, scores: Scores, merge: Merge, cases: Sequence[Case], users_W: Ints) -> None:
        self._scores = scores
        self._merge = merge
        self.users_W = users_W
        warm = [cases[user] for user in users_W.tolist()]
        self._quotas_BM = quota_table(warm)
        self.steps = self._quotas_BM.shape[1]
        self._padded = scores.padded
        sizes_B = [len(case.closed) for case in warm]
        rows_N = np.fromiter(chain.from_iterable(case.closed for case in warm), np.int64)
        self._closed: Ints = np.repeat(np.arange(len(warm)) * self._padded, sizes_B) + rows_N
        self._given: Ints = np.zeros(0, dtype=np.int64)
        self._offered = self._given
        self._step = 0
        self.search_seconds = self.merge_seconds = 0.0

    def search(self, interest_BD: Tensor) -> Tensor:
        """See `model.rollout.Search`."""
        started = time.perf_counter()
        found = self._find(interest_BD)
        searched = time.perf_counter()
        users_N, rows_N = np.divmod(found.places_N, self._padded)
        self._merge.give(self.users_W[users_N], rows_N, found.scores_N, self._step)
        self._given = np.concatenate([self._given, found.places_N])
        offered_B = np.arange(len(found.best_B)) * self._padded + found.best_B
        self._offered = np.concatenate([self._offered, offered_B])
        self._step += 1
        self.search_seconds += searched - started
        self.merge_seconds += time.perf_counter() - searched
        return torch.from_numpy(found.best_B).to(interest_BD.device)

    def refill(self) -> None:
        """A search finds as many as there are; who is short has got everything."""
        if (self._merge.sizes_B[self.users_W] < self._quotas_BM.sum(axis=1)).any():
            users_N, rows_N = np.divmod(self._given, self._padded)
            self._merge.mark_given(self.users_W[users_N], rows_N)

    def _find(self, interest_BD: Tensor) -> _Found:
        """The hits of the next step, and the next token."""
        scores = self._scores
        scores_BP = scores.of(interest_BD)
        flat = scores_BP.reshape(-1)
        flat[self._closed] = LOW
        last = self._step == self.steps - 1
        again_N: Ints = np.zeros(0, dtype=np.int64)  # given ones that may be the next token
        if self._step and not last:
            again_N = self._best_given(flat, len(scores_BP))
        again_scores_N = scores.exact(again_N)
        flat[self._given] = LOW
        quotas_B = self._quotas_BM[:, self._step]
        # One more than were offered: so there is one that wasn't.
        most = max(int(quotas_B.max()), 0 if last else self._step + 1)
        open_N = reaching(scores, scores_BP, most)
        order_N, scores_N, rank_N = _ordered(open_N, scores.exact(open_N), self._padded)
        users_N = order_N // self._padded
        hit_N = rank_N < quotas_B[users_N]
        best_B = np.zeros(len(scores_BP), dtype=np.int64)
        if not last:
            first_N = rank_N <= self._step
            both_N = np.concatenate([order_N[first_N], again_N])
            both_scores_N = np.concatenate([scores_N[first_N], again_scores_N])
            new_N = ~np.isin(both_N, self._offered)
            both_N, _, rank_N = _ordered(both_N[new_N], both_scores_N[new_N], self._padded)
            users_N, rows_N = np.divmod(both_N[rank_N == 0], self._padded)
            best_B[users_N] = rows_N
        return _Found(order_N[hit_N], scores_N[hit_N], best_B)

    def _best_given(self, flat: Coarse, users: int) -> Ints:
        """Which items given before, and not offered, may be the best of those; user after user."""
        kept_N = flat[self._offered]
        flat[self._offered] = LOW
        given_N = flat[self._given]
        flat[self._offered] = kept_N
        users_N = self._given // self._padded
        best_B = np.full(users, LOW)
        np.maximum.at(best_B, users_N, given_N)
        limit_B = self._scores.reach(best_B)
        return np.sort(self._given[given_N >= limit_B[users_N]])


def reaching(scores: Scores, scores_BP: Coarse, most: int) -> Ints:
    """Places of everyone's `most` best items, and of some more; user after user."""
    users, padded = scores_BP.shape
    groups = padded // GROUP
    best_BG = scores_BP.reshape(users, GROUP, groups).max(axis=1)
    floor_B = np.full(users, LOW)
    if most and groups >= 2 * most:
        # A score that as many groups reach as items are wanted: those are at or above it.
        bests = best_BG
        while (fewer := bests.shape[1] // GROUP) >= 4 * most:
            bests = bests[:, : GROUP * fewer].reshape(users, GROUP, fewer).max(axis=1)
        floor_B = np.partition(bests, bests.shape[1] - most, axis=1)[:, -most]
    limit_B = scores.reach(floor_B)
    users_N, groups_N = np.divmod(np.flatnonzero(best_BG >= limit_B[:, None]), groups)
    places = (users_N * padded + groups_N)[:, None] + np.arange(GROUP) * groups
    reached = scores_BP.reshape(-1)[places] >= limit_B[users_N][:, None]
    places_N: Ints = places[reached]
    return places_N


def _ordered(
    places_N: Ints, scores_N: NDArray[np.float32], padded: int
) -> tuple[Ints, NDArray[np.float32], Ints]:
    """User after user, best first; and the rank of each, from 0."""
    users_N = (places_N // padded).astype(np.uint64)
    order_N = np.argsort((users_N << np.uint64(32)) | _falling(scores_N))
    counts_B = np.bincount(users_N.view(np.int64))
    rank_N = np.arange(len(users_N)) - np.repeat(counts_B.cumsum() - counts_B, counts_B)
    return places_N[order_N], scores_N[order_N], rank_N


def _falling(scores_N: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Integers that are the smaller, the higher the score."""
    bits_N = scores_N.view(np.uint32)
    return np.where(scores_N < 0, bits_N, ~(bits_N | np.uint32(1 << 31)))
