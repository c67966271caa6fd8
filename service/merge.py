"""Several interests' hits into one list a user: quotas, no duplicates, nothing seen, back-fill.

Whole batches at a time, pure numpy. Shapes: B users of the batch, W some of them, F hits,
V catalogue, K candidates.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]

POPULAR = -1  # the "interest" of a back-filled item
CLOSED, GIVEN, OFFERED = 1, 2, 4  # what is known of a user and an item


class Merged(NamedTuple):
    """One user's candidates, best first."""

    rows: Ints
    scores: NDArray[np.float32]
    interests: Ints


class _Taken(NamedTuple):
    counts_B: Ints
    rows: Ints
    scores: NDArray[np.float32]
    interest: int


class Merge:
    """Lists that grow; each knows what it must not hold."""

    def __init__(self, flags_BV: NDArray[np.uint8], closed: Sequence[Sequence[int]]) -> None:
        """`closed` holds each user's rows; `flags_BV` is lent: zeros, and again after `finish`."""
        self._flags_BV = flags_BV
        self._taken: list[_Taken] = []
        users_N = np.repeat(np.arange(len(closed)), [len(rows) for rows in closed])
        rows_N = np.fromiter(chain.from_iterable(closed), np.int64, len(users_N))
        self._touched: list[tuple[Ints, Ints]] = [(users_N, rows_N)]
        flags_BV[users_N, rows_N] = CLOSED
        self.sizes_B = np.zeros(len(closed), dtype=np.int64)
        """How many candidates each user has so far."""

    def take(
        self,
        users_W: Ints,
        rows_WF: Ints,
        scores_WF: NDArray[np.float32],
        quotas_W: Ints,
        interest: int,
    ) -> None:
        """Append each user's best hits, up to the quota, that are not closed and not yet given."""
        open_WF = (self._flags_BV[users_W[:, None], rows_WF] & (CLOSED | GIVEN)) == 0
        taken_WF = open_WF & (open_WF.cumsum(axis=1) <= quotas_W[:, None])
        which_N, _ = taken_WF.nonzero()
        users_N, rows_N = users_W[which_N], rows_WF[taken_WF]
        self.give(users_N, rows_N, scores_WF[taken_WF], interest)
        self.mark_given(users_N, rows_N)

    def give(
        self, users_N: Ints, rows_N: Ints, scores_N: NDArray[np.float32], interest: int
    ) -> None:
        """Append these, each user's best first, user after user; none is closed or given.

        `take` doesn't know of them until they are marked.
        """
        counts_B = np.bincount(users_N, minlength=len(self.sizes_B))
        self._taken.append(_Taken(counts_B, rows_N, scores_N, interest))
        self.sizes_B += counts_B

    def mark_given(self, users_N: Ints, rows_N: Ints) -> None:
        """Let `take` not take these."""
        self._flags_BV[users_N, rows_N] |= GIVEN
        self._touched.append((users_N, rows_N))

    def offer(self, users_W: Ints, rows_WF: Ints) -> Ints:
        """Each user's best hit that is neither closed nor offered before; it is offered now.

        The best of all where none is left.
        """
        free_WF = (self._flags_BV[users_W[:, None], rows_WF] & (CLOSED | OFFERED)) == 0
        best_W: Ints = rows_WF[np.arange(len(rows_WF)), free_WF.argmax(axis=1)]
        self._flags_BV[users_W, best_W] |= OFFERED
        self._touched.append((users_W, best_W))
        return best_W

    def finish(self) -> list[Merged]:
        """The lists, in the order of what was taken; the flags are given back."""
        for users_N, rows_N in self._touched:
            self._flags_BV[users_N, rows_N] = 0
        total = int(self.sizes_B.sum())
        rows_N = np.empty(total, dtype=np.int64)
        scores_N = np.empty(total, dtype=np.float32)
        interests_N = np.empty(total, dtype=np.int64)
        ends_B = self.sizes_B.cumsum()
        next_B = ends_B - self.sizes_B
        for counts_B, rows, scores, interest in self._taken:
            firsts_B = counts_B.cumsum() - counts_B
            places = np.arange(len(rows)) + np.repeat(next_B - firsts_B, counts_B)
            rows_N[places], scores_N[places], interests_N[places] = rows, scores, interest
            next_B += counts_B
        ends = ends_B.tolist()
        return [
            Merged(rows_N[start:end], scores_N[start:end], interests_N[start:end])
            for start, end in zip([0, *ends], ends, strict=False)
        ]
