"""A batch of queries as arrays, with catalogue rows in place of ids.

Shapes: B queries of the batch, W of them with a history ("warm"), M interests, L length of a
padded list, N rows of all lists, S items of all histories, O real offers of a query (`MAX_OFFERS`).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.recall.filters.item_filters import Allowed
from service.recall.types import Ints
from service.recall.variety.chooser import Chooser


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
        """Returns the same lists without unused space at the end."""
        return Ragged(self.rows_N[: self.offsets_B[-1]], self.offsets_B)

    def padded(self, lists_W: Ints, width: int, padding: int) -> Ints:
        """Returns the selected lists as a matrix W `width`; none may be longer than `width`."""
        positions_L = np.arange(width)
        inside_WL = positions_L < self.lengths_B[lists_W, None]
        rows_WL = np.full(inside_WL.shape, padding)
        rows_WL[inside_WL] = self.rows_N[(self.offsets_B[lists_W, None] + positions_L)[inside_WL]]
        return rows_WL


class BatchFeedback(NamedTuple):
    """The feedback in the newest items of all histories, as numbers of actions; -1: not known."""

    actions_S: Ints  # what the user did with each item
    outcomes_S: Ints  # … with the item after it; at a newest item, what the user shall do
    avoided_S: Ints | None = None  # the same with what the user shall not do; None: no guidance

    def and_avoided(self) -> "BatchFeedback":
        """Returns the feedback of all histories twice, the second time with what is avoided."""
        assert self.avoided_S is not None
        actions_2S = np.concatenate([self.actions_S, self.actions_S])
        return BatchFeedback(actions_2S, np.concatenate([self.outcomes_S, self.avoided_S]))


class Step(NamedTuple):
    """A step of the rollout: one interest of each query, and how many candidates it gives."""

    interest: int  # its number, from 0
    last: bool  # no interest follows, so no item is offered
    queries_W: Ints  # the queries that take part: indices into the batch
    quotas_W: Ints  # candidates that this interest gives, at most

    def of(self, some: Sequence[int]) -> "Step":
        """Returns the step of some of its queries, by their place in it."""
        places = list(some)
        return self._replace(queries_W=self.queries_W[places], quotas_W=self.quotas_W[places])


class QueryBatch(NamedTuple):
    """The queries of one pass."""

    users_B: Ints  # rows of the user table; -1: unknown user
    newest: Ragged  # the newest known items of each history, as many as the network reads
    excluded: Ragged  # known items that a list must not hold: of the history and of `exclude`
    k_B: Ints
    quotas_MB: Ints  # candidates that each interest gives, k in all
    unknown_B: Ints  # items of the history that the catalogue does not hold
    allowed: Sequence[Allowed | None] | None = None  # of each query; None: no query has a filter
    feedback: BatchFeedback | None = None  # None: the network reads none
    whole: Ragged | None = None  # all known items of each history, if the network needs them
    choosers: Sequence[Chooser] | None = None  # of each query; None: no query has rules of variety
    real_BO: Ints | None = None  # real offers, the newest first, -1: none; None: no query has one

    @property
    def cold_B(self) -> NDArray[np.bool_]:
        """Whether a query has no known item in its history."""
        cold_B: NDArray[np.bool_] = self.newest.lengths_B == 0
        return cold_B

    @property
    def warm_W(self) -> Ints:
        """The indices of the queries that have one."""
        warm_W: Ints = self.newest.lengths_B.nonzero()[0]
        return warm_W

    def steps(self) -> Iterator[Step]:
        """Yields the steps of the rollout of all warm queries; none if every query is cold."""
        warm_W = self.warm_W
        if not len(warm_W):
            return
        quotas_MW = self.quotas_MB.take(warm_W, axis=1)
        last = len(quotas_MW) - 1
        while last and not quotas_MW[last].any():  # only cold queries ask for this interest
            last -= 1
        for interest, quotas_W in enumerate(quotas_MW[: last + 1]):
            yield Step(interest, interest == last, warm_W, quotas_W)


def offsets_of(lengths: Iterable[int]) -> Ints:
    """Returns the offsets of lists of these lengths, one after another; the last is their sum."""
    return np.array([0, *lengths]).cumsum()


def quota_table(quotas: Iterable[Sequence[int]]) -> Ints:
    """Returns the quotas of each query as a matrix M B, with 0 for interests that it has not."""
    return np.array(list(zip_longest(*quotas, fillvalue=0)))
