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


class Merged(NamedTuple):
    """One user's candidates, best first."""

    rows: Ints
    scores: Floats
    interests: Ints


class Lists(NamedTuple):
    """What everybody has so far, and must not get. Filled up to `sizes_B`."""

    rows_BK: Ints
    scores_BK: Floats
    interests_BK: Ints
    sizes_B: Ints
    closed_N: Ints
    ends_B: Ints  # where everyone's closed rows end, and a 0 before
    offered_BM: Ints  # appended to a history in each step


class Merge:
    """Lists that grow; each knows what it must not hold."""

    def __init__(
        self, catalogue: int, closed_N: Ints, ends_B: Ints, longest: int, steps: int
    ) -> None:
        """Everyone's closed rows end at `ends_B`, with a 0 before; the longest list is given."""
        users = len(ends_B) - 1
        self.lists = Lists(
            rows_BK=np.empty((users, longest), dtype=np.int64),
            scores_BK=np.empty((users, longest), dtype=np.float32),
            interests_BK=np.empty((users, longest), dtype=np.int8),
            sizes_B=np.zeros(users, dtype=np.int64),
            closed_N=closed_N,
            ends_B=ends_B,
            offered_BM=np.full((users, steps), -1),
        )
        self._marks_V = np.zeros(catalogue, dtype=np.bool_)

    @property
    def sizes_B(self) -> Ints:
        """How many candidates each user has so far."""
        return self.lists.sizes_B

    def take(
        self, users_W: Ints, rows_WF: Ints, scores_WF: Floats, quotas_W: Ints, interest: int
    ) -> None:
        """Append each user's best hits, up to the quota, that are not closed and not yet given."""
        _take(self.lists, self._marks_V, users_W, rows_WF, scores_WF, quotas_W, interest)

    def offer(self, users_W: Ints, rows_WF: Ints, step: int) -> Ints:
        """Each user's best hit that is neither closed nor offered before; it is offered now.

        The best of all where none is left.
        """
        _offer(self.lists, self._marks_V, users_W, rows_WF, step)
        offered_W: Ints = self.lists.offered_BM[users_W, step]
        return offered_W

    def finish(self) -> list[Merged]:
        """The lists, in the order of what was taken."""
        rows_BK, scores_BK, interests_BK, sizes_B = self.lists[:4]
        return [
            Merged(rows_BK[user, :size], scores_BK[user, :size], interests_BK[user, :size])
            for user, size in enumerate(sizes_B.tolist())
        ]


@inner
def give(lists: Lists, user: Integer, row: Integer, score: Real, interest: Integer) -> None:
    """Append one, unless the list is full: compiled code would write behind it."""
    size = lists.sizes_B[user]
    if size == lists.rows_BK.shape[1]:
        return
    lists.rows_BK[user, size] = row
    lists.scores_BK[user, size] = score
    lists.interests_BK[user, size] = interest
    lists.sizes_B[user] = size + 1


@inner
def offered_before(lists: Lists, user: Integer, row: Integer, step: Integer) -> bool:
    """Whether it was appended to the history in a step before."""
    for earlier in range(step):  # noqa: SIM110 — any() takes longer to compile
        if lists.offered_BM[user, earlier] == row:
            return True
    return False


@compiled
def _take(
    lists: Lists,
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
def _mark(lists: Lists, user: Integer, marks_V: NDArray[np.bool_], mark: bool) -> None:
    """What the user must not get, or must not get again."""
    for closed in range(lists.ends_B[user], lists.ends_B[user + 1]):
        marks_V[lists.closed_N[closed]] = mark
    for given in range(lists.sizes_B[user]):
        marks_V[lists.rows_BK[user, given]] = mark


@compiled
def _offer(
    lists: Lists, marks_V: NDArray[np.bool_], users_W: Ints, rows_WF: Ints, step: Integer
) -> None:
    for at in range(len(users_W)):
        user = users_W[at]
        begin, end = lists.ends_B[user], lists.ends_B[user + 1]
        marks_V[lists.closed_N[begin:end]] = True
        offered = rows_WF[at, 0]
        for row in rows_WF[at]:
            if not marks_V[row] and not offered_before(lists, user, row, step):
                offered = row
                break
        lists.offered_BM[user, step] = offered
        marks_V[lists.closed_N[begin:end]] = False
