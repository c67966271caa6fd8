"""Queries in rows of the tables, one user after another, as arrays: no loop over single items.

Shapes: B queries that run together, W those of them who have a history, M interests, N rows of all
lists.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.recall.types import Ints


class Ragged(NamedTuple):
    """Lists of unlike lengths, one after another."""

    rows_N: Ints
    offsets_B: Ints  # where each list ends, and a 0 before

    @property
    def lengths_B(self) -> Ints:
        """Of each list."""
        lengths_B: Ints = self.offsets_B[1:] - self.offsets_B[:-1]
        return lengths_B

    def cut(self) -> "Ragged":
        """Without the room behind the last list."""
        return Ragged(self.rows_N[: self.offsets_B[-1]], self.offsets_B)

    def padded(self, users_W: Ints, width: int, padding: int) -> Ints:
        """These users' lists, W `width`."""
        slots_L = np.arange(width)
        inside_WL = slots_L < self.lengths_B[users_W, None]
        rows_WL = np.full(inside_WL.shape, padding)
        rows_WL[inside_WL] = self.rows_N[(self.offsets_B[users_W, None] + slots_L)[inside_WL]]
        return rows_WL


class QueryBatch(NamedTuple):
    """Queries in rows."""

    users_B: Ints  # of the user table, -1: unknown
    newest: Ragged  # known items of everyone's history, as many as the network reads
    excluded: Ragged  # what must not be returned
    k_B: Ints
    quotas_MB: Ints  # candidates of each interest: k in all, 0 of those that nobody wants
    unknown_B: Ints  # items of the history that the catalogue does not hold

    @property
    def cold_B(self) -> NDArray[np.bool_]:
        """Who has no history."""
        cold_B: NDArray[np.bool_] = self.newest.lengths_B == 0
        return cold_B

    def quotas_MW(self, users_W: Ints) -> Ints:
        """These users' quotas, of as many interests as one of them wants."""
        quotas_MW = self.quotas_MB.take(users_W, axis=1)
        while len(quotas_MW) > 1 and not quotas_MW[-1].any():
            quotas_MW = quotas_MW[:-1]
        return quotas_MW


def offsets_of(lengths: Iterable[int]) -> Ints:
    """Where lists of these lengths end, and a 0 before."""
    return np.array([0, *lengths]).cumsum()


def quota_table(quotas: Iterable[Sequence[int]]) -> Ints:
    """Everyone's quotas, 0 where one has fewer: M B."""
    return np.array(list(zip_longest(*quotas, fillvalue=0)))
