"""The candidate lists of a batch, filled interest by interest.

Each interest appends its best hits, as many as its quota, and skips what the query excludes and
what earlier interests appended (in torch: `model.evaluation.reference.merge_by_quotas`). The item
that a step offers to the network is the next real offer, or else the best hit that is neither
excluded nor offered before (in torch: `model.network.rollout.best_new`). A candidate may be
offered, and an offer need not be one.

Shapes: B queries of the batch, W of them, F hits, V catalogue, K candidates of a list, M interests,
O real offers of a query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.jit import Integer, Real, compiled, inner
from service.recall.query_batch import QueryBatch, Ragged, Step
from service.recall.types import Candidates, FilterResult, Floats, Ints, VarietyResult
from service.recall.variety.chooser import Chooser

POPULAR = -1  # the "interest" of a back-filled item
NO_ITEM = -1


class CandidateLists(NamedTuple):
    """The lists of a batch, and the items offered to the network; methods write into the arrays."""

    scores_BK: Floats  # list b has sizes_B[b] candidates; what follows is not set
    rows_BK: Ints
    interests_BK: Ints
    sizes_B: Ints
    k_B: Ints  # the size that a list may grow to
    offered_BM: Ints  # the item offered in each step; NO_ITEM until then
    excluded: Ragged
    marks_V: NDArray[np.bool_]  # a scratch array, all False between calls

    @classmethod
    def empty(cls, batch: QueryBatch, catalogue: int, max_interests: int) -> "CandidateLists":
        """Returns empty lists for the queries of a batch over a catalogue of this many items."""
        shape = len(batch.k_B), int(batch.k_B.max())
        return cls(
            scores_BK=np.empty(shape, dtype=np.float32),
            rows_BK=np.empty(shape, dtype=np.int64),
            interests_BK=np.empty(shape, dtype=np.int8),
            sizes_B=np.zeros(shape[0], dtype=np.int64),
            k_B=batch.k_B,
            offered_BM=np.full((shape[0], max_interests), NO_ITEM),
            excluded=batch.excluded,
            marks_V=np.zeros(catalogue, dtype=np.bool_),
        )

    def append_best(
        self, queries_W: Ints, scores_WF: Floats, rows_WF: Ints, quotas_W: Ints, interest: int
    ) -> None:
        """Appends to each list its query's best hits that are neither excluded nor listed yet.

        Hits are ordered best first, and a negative row ends them. At most `quotas_W` are appended.
        """
        _append_best(self, queries_W, scores_WF, rows_WF, quotas_W, interest)

    def offer_best(self, queries_W: Ints, rows_WF: Ints, step: int) -> Ints:
        """Offers each query's best hit that is neither excluded nor offered before.

        If there is none, the best hit is offered, or any item if there is no hit: every allowed
        item has been offered then. Returns the offered items W.
        """
        _offer_best(self, queries_W, rows_WF, step)
        offers_W: Ints = self.offered_BM[queries_W, step]
        return offers_W

    def offer_real(self, real_BO: Ints, step: Step, offers_W: Ints) -> Ints:
        """Offers what users were shown in place of what a step generated, where there is such.

        Returns the offered items W.
        """
        real_W = real_BO[step.queries_W, step.interest]
        offers_W = np.where(real_W >= 0, real_W, offers_W)
        self.offered_BM[step.queries_W, step.interest] = offers_W
        return offers_W

    def unlisted(self, query: int, scores_F: Floats, rows_F: Ints) -> tuple[Floats, Ints]:
        """Returns the hits of a query that are neither excluded nor listed; -1 is no hit."""
        known_F = rows_F >= 0
        scores_F, rows_F = scores_F[known_F], rows_F[known_F]
        first, end = self.excluded.offsets_B[query : query + 2]
        listed = self.rows_BK[query, : self.sizes_B[query]]
        self.marks_V[self.excluded.rows_N[first:end]] = self.marks_V[listed] = True
        new_F = ~self.marks_V[rows_F]
        self.marks_V[self.excluded.rows_N[first:end]] = self.marks_V[listed] = False
        return scores_F[new_F], rows_F[new_F]

    def extend(self, query: int, scores_N: Floats, rows_N: Ints, interest: int) -> None:
        """Appends items to the list of a query, which has room for them."""
        own = slice(int(self.sizes_B[query]), int(self.sizes_B[query]) + len(rows_N))
        self.scores_BK[query, own], self.rows_BK[query, own] = scores_N, rows_N
        self.interests_BK[query, own] = interest
        self.sizes_B[query] += len(rows_N)

    def note_scores(self, choosers: Sequence[Chooser]) -> None:
        """Tells each query's chooser the sum of the scores of its list."""
        for query, chooser in enumerate(choosers):
            chooser.plain_score = float(self.scores_BK[query, : self.sizes_B[query]].sum())

    def candidates(self, batch: QueryBatch) -> list[Candidates]:
        """Returns the answers to the queries of the batch, in order."""
        facts = zip(
            self.sizes_B.tolist(), batch.unknown_B.tolist(), batch.cold_B.tolist(), strict=True
        )
        return [
            Candidates(
                self.scores_BK[query, :size],
                self.rows_BK[query, :size],
                self.interests_BK[query, :size],
                unknown,
                cold,
                _filter_result(batch, query, size),
                self._variety_result(batch, query, size),
            )
            for query, (size, unknown, cold) in enumerate(facts)
        ]

    def _variety_result(self, batch: QueryBatch, query: int, size: int) -> VarietyResult | None:
        """Returns the effect of a query's rules on its list of this size."""
        if not batch.choosers:
            return None
        score = float(self.scores_BK[query, :size].sum())
        exhausted = size < int(batch.k_B[query])
        return VarietyResult(score, batch.choosers[query].plain_score, exhausted)


def _filter_result(batch: QueryBatch, query: int, size: int) -> FilterResult | None:
    """Returns the effect of a query's filter on its list of this size."""
    allowed = batch.allowed[query] if batch.allowed else None
    if allowed is None or not allowed.fields:
        return None
    return FilterResult(allowed.matched, size < int(batch.k_B[query]), allowed.unknown_values)


@inner
def append(
    lists: CandidateLists, query: Integer, score: Real, row: Integer, interest: Integer
) -> None:
    """Appends a candidate, unless the list is full: compiled code does not check bounds."""
    size = lists.sizes_B[query]
    if size == lists.rows_BK.shape[1]:
        return
    lists.scores_BK[query, size] = score
    lists.rows_BK[query, size] = row
    lists.interests_BK[query, size] = interest
    lists.sizes_B[query] = size + 1


@inner
def was_offered(lists: CandidateLists, query: Integer, row: Integer, step: Integer) -> bool:
    """Returns whether the item was offered in a step before this one."""
    for earlier in range(step):  # noqa: SIM110 — any() takes longer to compile
        if lists.offered_BM[query, earlier] == row:
            return True
    return False


@compiled
def _append_best(
    lists: CandidateLists,
    queries_W: Ints,
    scores_WF: Floats,
    rows_WF: Ints,
    quotas_W: Ints,
    interest: Integer,
) -> None:
    for at in range(len(queries_W)):
        query, left = queries_W[at], quotas_W[at]
        _mark_excluded(lists, query, True)
        _mark_listed(lists, query, True)
        for hit in range(rows_WF.shape[1]):
            row = rows_WF[at, hit]
            if left == 0 or row < 0:
                break
            if not lists.marks_V[row]:
                append(lists, query, scores_WF[at, hit], row, interest)
                lists.marks_V[row] = True
                left -= 1
        _mark_excluded(lists, query, False)
        _mark_listed(lists, query, False)


@compiled
def _offer_best(lists: CandidateLists, queries_W: Ints, rows_WF: Ints, step: Integer) -> None:
    for at in range(len(queries_W)):
        query = queries_W[at]
        _mark_excluded(lists, query, True)
        offered = max(rows_WF[at, 0], 0)
        for row in rows_WF[at]:
            if row < 0:
                break
            if not lists.marks_V[row] and not was_offered(lists, query, row, step):
                offered = row
                break
        lists.offered_BM[query, step] = offered
        _mark_excluded(lists, query, False)


@inner
def _mark_excluded(lists: CandidateLists, query: Integer, mark: bool) -> None:
    """Sets the marks of the items that the query excludes.

    A hit is then checked by a look at its mark, however many items are excluded. Marks are reset
    item by item, because to clear the whole array would cost a pass over the catalogue per query.
    """
    excluded = lists.excluded
    for at in range(excluded.offsets_B[query], excluded.offsets_B[query + 1]):
        lists.marks_V[excluded.rows_N[at]] = mark


@inner
def _mark_listed(lists: CandidateLists, query: Integer, mark: bool) -> None:
    """Sets the marks of the candidates that the list holds already."""
    for at in range(lists.sizes_B[query]):
        lists.marks_V[lists.rows_BK[query, at]] = mark
