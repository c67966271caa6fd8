"""A batch of queries as arrays: item rows in place of ids, and no Python loop over single items.

Shapes: B queries of the batch, W of them with a history ("warm"), M interests, L length of a
padded list, N rows of all lists.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.recall.types import Ints


class Ragged(NamedTuple):
    """Lists of different lengths in one array, one list after another."""

    rows_N: Ints
    offsets_B: Ints  # B + 1 of them: list b is rows_N[offsets_B[b] : offsets_B[b + 1]]

    @property
    def lengths_B(self) -> Ints:
        """The length of each list."""
        lengths_B: Ints = self.offsets_B[1:] - self.offsets_B[:-1]
        return lengths_B

    def trimmed(self) -> "Ragged":
        """The same lists without the unused space behind the last one."""
        return Ragged(self.rows_N[: self.offsets_B[-1]], self.offsets_B)

    def padded(self, lists_W: Ints, width: int, padding: int) -> Ints:
        """The selected lists as a matrix W `width`; a list must not be longer than `width`."""
        positions_L = np.arange(width)
        inside_WL = positions_L < self.lengths_B[lists_W, None]
        rows_WL = np.full(inside_WL.shape, padding)
        rows_WL[inside_WL] = self.rows_N[(self.offsets_B[lists_W, None] + positions_L)[inside_WL]]
        return rows_WL


class Step(NamedTuple):
    """A step of the rollout: one interest of each query, and the candidates wanted from it."""

    interest: int  # its number, from 0
    last: bool  # no interest follows, so no item is offered
    queries_W: Ints  # the queries that take part: indices into the batch
    quotas_W: Ints  # candidates wanted from this interest


class QueryBatch(NamedTuple):
    """Queries that run in one pass."""

    users_B: Ints  # rows of the user table; -1: unknown user
    newest: Ragged  # the newest known items of each history, as many as the network reads
    excluded: Ragged  # what a list must not hold: known items of the history and of `exclude`
    k_B: Ints
    quotas_MB: Ints  # candidates wanted from each interest: k in all
    unknown_B: Ints  # items of the history that the catalogue does not hold

    @property
    def cold_B(self) -> NDArray[np.bool_]:
        """Which queries have no known item in their history."""
        cold_B: NDArray[np.bool_] = self.newest.lengths_B == 0
        return cold_B

    @property
    def warm_W(self) -> Ints:
        """The other queries: their indices."""
        return np.flatnonzero(~self.cold_B)

    def quotas_MW(self, queries_W: Ints) -> Ints:
        """The quotas of these queries, without trailing interests that none of them wants."""
        quotas_MW = self.quotas_MB.take(queries_W, axis=1)
        while len(quotas_MW) > 1 and not quotas_MW[-1].any():
            quotas_MW = quotas_MW[:-1]
        return quotas_MW

    def steps(self) -> Iterator[Step]:
        """The steps of the rollout of all warm queries; none if every query is cold."""
        warm_W = self.warm_W
        if not len(warm_W):
            return
        quotas_MW = self.quotas_MW(warm_W)
        for interest, quotas_W in enumerate(quotas_MW):
            yield Step(interest, interest == len(quotas_MW) - 1, warm_W, quotas_W)


def offsets_of(lengths: Iterable[int]) -> Ints:
    """Where lists of these lengths begin in one array, and where the last one ends."""
    return np.array([0, *lengths]).cumsum()


def quota_table(quotas: Iterable[Sequence[int]]) -> Ints:
    """The quotas of each query as a matrix M B; 0 for interests that a query does not want."""
    return np.array(list(zip_longest(*quotas, fillvalue=0)))
