"""Several interests' hits into one list a user: quotas, no duplicates, nothing seen, back-fill.

Shapes: B users of the batch, W some of them, F hits, V catalogue, K candidates, M interests,
N rows of all users, user after user.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.jit import Integer, Real, compiled, inner
from service.recall.types import Floats, Ints

POPULAR = -1  # the "interest" of a back-filled item


class CandidateList(NamedTuple):
    """One user's candidates, best first."""

    rows: Ints
    scores: Floats
    interests: Ints


class ListArrays(NamedTuple):
    """What everybody has so far, and must not get. Filled up to `sizes_B`."""

    rows_BK: Ints
    scores_BK: Floats
    interests_BK: Ints
    sizes_B: Ints
    excluded_N: Ints
    offsets_B: Ints  # where everyone's excluded rows end, and a 0 before
    offered_BM: Ints  # appended to a history in each step


class CandidateLists:
    """Lists that grow; each knows what it must not hold."""

    def __init__(
        self, catalogue: int, excluded_N: Ints, offsets_B: Ints, longest: int, steps: int
    ) -> None:
        """`longest` is the length of the longest list."""
        users = len(offsets_B) - 1
        self.arrays = ListArrays(
            rows_BK=np.empty((users, longest), dtype=np.int64),
            scores_BK=np.empty((users, longest), dtype=np.float32),
            interests_BK=np.empty((users, longest), dtype=np.int8),
            sizes_B=np.zeros(users, dtype=np.int64),
            excluded_N=excluded_N,
            offsets_B=offsets_B,
            offered_BM=np.full((users, steps), -1),
        )
        self._marks_V = np.zeros(catalogue, dtype=np.bool_)

    @property
    def sizes_B(self) -> Ints:
        """How many candidates each user has so far."""
        return self.arrays.sizes_B

    def take(
        self, users_W: Ints, rows_WF: Ints, scores_WF: Floats, quotas_W: Ints, interest: int
    ) -> None:
        """Append each user's best hits, up to the quota, that are neither excluded nor given."""
        _take(self.arrays, self._marks_V, users_W, rows_WF, scores_WF, quotas_W, interest)

    def offer(self, users_W: Ints, rows_WF: Ints, step: int) -> Ints:
        """Each user's best hit that is neither excluded nor offered before; it is offered now.

        The best of all where none is left.
        """
        _offer(self.arrays, self._marks_V, users_W, rows_WF, step)
        offered_W: Ints = self.arrays.offered_BM[users_W, step]
        return offered_W

    def finish(self) -> list[CandidateList]:
        """The lists, in the order of what was taken."""
        rows_BK, scores_BK, interests_BK, sizes_B = self.arrays[:4]
        return [
            CandidateList(rows_BK[user, :size], scores_BK[user, :size], interests_BK[user, :size])
            for user, size in enumerate(sizes_B.tolist())
        ]


@inner
def give(lists: ListArrays, user: Integer, row: Integer, score: Real, interest: Integer) -> None:
    """Append one, unless the list is full: compiled code would write behind it."""
    size = lists.sizes_B[user]
    if size == lists.rows_BK.shape[1]:
        return
    lists.rows_BK[user, size] = row
    lists.scores_BK[user, size] = score
    lists.interests_BK[user, size] = interest
    lists.sizes_B[user] = size + 1


@inner
def offered_before(lists: ListArrays, user: Integer, row: Integer, step: Integer) -> bool:
    """Whether it was appended to the history in a step before."""
    for earlier in range(step):  # noqa: SIM110 — any() takes longer to compile
        if lists.offered_BM[user, earlier] == row:
            return True
    return False


@compiled
def _take(
    lists: ListArrays,
    marks_V: NDArray[np.bool_],
    users_W: Ints,
    rows_WF: Ints,
    scores_WF: Floats,
    quotas_W: Ints,
    interest: Integer,
) -> None:
    for at in range(len(users_W)):
        user, left = users_W[at], quotas_W[at]
        _mark(lists, user, marks_V, True)
        for hit in range(rows_WF.shape[1]):
            if left == 0:
                break
            row = rows_WF[at, hit]
            if not marks_V[row]:
                give(lists, user, row, scores_WF[at, hit], interest)
                marks_V[row] = True
                left -= 1
        _mark(lists, user, marks_V, False)


@inner
def _mark(lists: ListArrays, user: Integer, marks_V: NDArray[np.bool_], mark: bool) -> None:
    """What the user must not get, or must not get again."""
    for excluded in range(lists.offsets_B[user], lists.offsets_B[user + 1]):
        marks_V[lists.excluded_N[excluded]] = mark
    for given in range(lists.sizes_B[user]):
        marks_V[lists.rows_BK[user, given]] = mark


@compiled
def _offer(
    lists: ListArrays, marks_V: NDArray[np.bool_], users_W: Ints, rows_WF: Ints, step: Integer
) -> None:
    for at in range(len(users_W)):
        user = users_W[at]
        begin, end = lists.offsets_B[user], lists.offsets_B[user + 1]
        marks_V[lists.excluded_N[begin:end]] = True
        offered = rows_WF[at, 0]
        for row in rows_WF[at]:
            if not marks_V[row] and not offered_before(lists, user, row, step):
                offered = row
                break
        lists.offered_BM[user, step] = offered
        marks_V[lists.excluded_N[begin:end]] = False
