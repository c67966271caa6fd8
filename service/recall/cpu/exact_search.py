"""Exact search for the steps of a rollout, which leaves excluded and listed items out.

The search is that of `index.exact`: 8-bit scores of all items, then the inner products of the few
items that may be among the best. An index has to return more hits than are needed, because it does
not know what a query excludes. Here the scores of excluded and listed items, and of those that a
filter's mask leaves out, are set to the lowest value before the selection, which then looks for the
quota only.

Shapes: W queries of a step, V catalogue, P positions of items (V padded to whole blocks), D width,
K hits.
"""

import numpy as np

from index.exact import ExactIndex, Int8Catalogue, Int8Scores, score_all
from index.kernels.int8_layout import LOWEST, Int16s
from index.kernels.jit import Integer, Real, compiled, inlined, inner
from index.kernels.masks import NO_MASKS, Masks, mask_scores
from index.kernels.topk import (
    TopKWorkspace,
    dot,
    find_candidates,
    key_row,
    key_score,
    lowest_score,
    rescore,
)
from service.recall.candidate_lists import CandidateLists, append, was_offered
from service.recall.query_batch import Step
from service.recall.types import Floats, Ints, StageTimes

NO_OFFER = -1


class ExactSearcher:
    """Searches a catalogue exactly; see `service.recall.cpu.backend.Searcher`."""

    def __init__(self, index: ExactIndex) -> None:
        """Uses the 8-bit catalogue of the index."""
        self._catalogue = index.catalogue
        self._scores = Int8Scores.allocate(1, self._catalogue)
        self._workspace = TopKWorkspace.allocate(len(self._catalogue.blocks.start_P))

    def search(
        self,
        interests_WD: Floats,
        step: Step,
        lists: CandidateLists,
        times: StageTimes,
        masks_W: Masks = NO_MASKS,
    ) -> Ints:
        """See `service.recall.cpu.backend.Searcher`; a query finds only the items of its mask."""
        at_once = min(len(interests_WD), self._catalogue.max_queries)
        if len(self._scores.slack_B) < at_once:
            self._scores = Int8Scores.allocate(at_once, self._catalogue)
        memory = self._scores, self._workspace
        _search(self._catalogue, *memory, interests_WD, masks_W, step, lists)
        times.lap("search")
        offers_W: Ints = lists.offered_BM[step.queries_W, step.interest]
        return offers_W


@compiled
def _search(
    catalogue: Int8Catalogue,
    scores: Int8Scores,
    workspace: TopKWorkspace,
    interests_WD: Floats,
    masks_W: Masks,
    step: Step,
    lists: CandidateLists,
) -> None:
    """Scores the catalogue for the queries of a step, then extends their lists one by one.

    Takes as many queries at once as `scores` has memory for.
    """
    vectors_VD, at_once = catalogue.vectors_VD, len(scores.slack_B)
    for first in range(0, len(interests_WD), at_once):
        part_WD = interests_WD[first : first + at_once]
        score_all(catalogue, part_WD, scores)
        for at in range(len(part_WD)):
            scores_P, slack, interest_D = scores.scores_BP[at], scores.slack_B[at], part_WD[at]
            query, quota = step.queries_W[first + at], step.quotas_W[first + at]
            mask_scores(masks_W, first + at, scores_P)
            offer = _select(
                vectors_VD, interest_D, scores_P, slack, workspace, step, lists, query, quota
            )
            lists.offered_BM[query, step.interest] = max(offer, 0)


@inlined
def _select(
    vectors_VD: Floats,
    interest_D: Floats,
    scores_P: Int16s,
    slack: Integer,
    workspace: TopKWorkspace,
    step: Step,
    lists: CandidateLists,
    query: Integer,
    quota: Integer,
) -> Integer:
    """Appends a query's best hits to its list; returns the item to offer.

    It is NO_OFFER in the last step. A listed item may be offered, so the best of them is looked for
    before their scores are overwritten.
    """
    excluded = lists.excluded
    for at in range(excluded.offsets_B[query], excluded.offsets_B[query + 1]):
        scores_P[excluded.rows_N[at]] = LOWEST
    offer: Integer = NO_OFFER
    offer_score: Real = np.float32(0)
    if not step.last:
        offer, offer_score = _best_listed(
            vectors_VD, interest_D, scores_P, slack, step, lists, query
        )
    for listed in range(lists.sizes_B[query]):
        scores_P[lists.rows_BK[query, listed]] = LOWEST
    # With one hit more than were offered before, one of them is new.
    wanted = max(quota, 0 if step.last else step.interest + 1)
    positions_N = find_candidates(scores_P, wanted, slack, workspace)
    found_K = rescore(interest_D, vectors_VD, positions_N, wanted, workspace)
    for rank in range(len(found_K)):
        score, row = key_score(found_K[rank]), key_row(found_K[rank])
        if rank < quota:
            append(lists, query, score, row, step.interest)
        new = not step.last and not was_offered(lists, query, row, step.interest)
        if new and (offer == NO_OFFER or score > offer_score):
            offer, offer_score = row, score
    return offer


@inner
def _best_listed(
    vectors_VD: Floats,
    interest_D: Floats,
    scores_P: Int16s,
    slack: Integer,
    step: Step,
    lists: CandidateLists,
    query: Integer,
) -> tuple[Integer, Real]:
    """Returns the best listed item that was not offered and its score; NO_OFFER if there is none.

    As in the search, 8-bit scores leave few items, among which the inner products decide.
    """
    best = LOWEST
    for listed in range(lists.sizes_B[query]):
        row = lists.rows_BK[query, listed]
        if not was_offered(lists, query, row, step.interest):
            best = max(best, scores_P[row])
    limit = lowest_score(best, slack)
    offer: Integer = NO_OFFER
    offer_score: Real = np.float32(0)
    for listed in range(lists.sizes_B[query]):
        row = lists.rows_BK[query, listed]
        if scores_P[row] >= limit and not was_offered(lists, query, row, step.interest):
            score = dot(interest_D, vectors_VD[row])
            if offer == NO_OFFER or score > offer_score:
                offer, offer_score = row, score
    return offer, offer_score
