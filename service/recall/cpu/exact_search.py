"""Exact search for the steps of a rollout: 8-bit scores of the whole catalogue, then a re-score.

**8-bit scores with a bound, then a re-score.** Vectors and interests are rounded to 8-bit integers,
whose products take a CPU a fraction of the time of float products (`index.kernels.int8_gemm`). The
error of such a score is bounded: if q and v are rounded to q' and v',

    |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|

An item can be among the best n only if its 8-bit score reaches the n-th best one minus twice that
bound (the slack). One or two per cent of a catalogue pass; their inner products are computed in
floats, so that the hits are exactly those of sorting all float scores. Before the rounding, vectors
are rotated at random, which changes no inner product: otherwise a single large component of one
vector would make the integer steps coarse for all.

**Selection by counting.** The n-th best score is found without sorting: the range of a threshold is
halved, and the scores that reach it are counted, again and again (`index.kernels.topk`).

**No over-fetch.** An index has to return more hits than are needed, because it does not know what a
query excludes. Here the scores of excluded and listed items are set to the lowest value before the
selection, which then looks for the quota only.

Shapes: W queries of a step, V catalogue, P the same padded to whole blocks, D width, E the same
padded to a multiple of four, K hits.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.kernels.int8_gemm import addresses, multiply, whole_steps
from index.kernels.int8_layout import (
    FOUR,
    LOW,
    Blocks,
    Short,
    blocks_of,
    levels,
    shift_of,
    steps_of,
)
from index.kernels.jit import Integer, Real, compiled, inner, pasted
from index.kernels.topk import Room, best_of, candidates, dot, limit_of, row_of, score_of
from service.recall.candidate_lists import CandidateLists, append, was_offered
from service.recall.query_batch import Step
from service.recall.types import Floats, Ints, StageTimes

SUM_ERROR = 1e-5  # relative error of an inner product that is summed in floats
NO_OFFER = -1


class Int8Catalogue(NamedTuple):
    """Item vectors, and their 8-bit form."""

    vectors_VD: Floats
    rotation_DD: Floats
    blocks: Blocks
    step: float  # the value of one integer step
    max_error: float  # the largest |v - v'|
    max_length: float  # the largest |v'|, in steps
    levels: int  # of an interest's components, to either side of zero
    shift: int  # bits to the right, so that products fit into 16 bits


class Int8Scores(NamedTuple):
    """The interests of a step in 8 bits, and their scores; memory that is used again."""

    interests_WE: NDArray[np.uint8]  # rotated
    scores_WP: Short  # `LOW` for padding and for items that must not be found
    slack_W: Ints  # twice the bound of the error, in units of `scores_WP`

    @staticmethod
    def allocate(queries: int, catalogue: Int8Catalogue) -> "Int8Scores":
        """Allocates memory for this many queries."""
        items, width = len(catalogue.blocks.start_P), catalogue.blocks.items_NQ64.shape[1] * FOUR
        return Int8Scores(
            np.zeros((queries, width), np.uint8),
            np.empty((queries, items), np.int16),
            np.empty(queries, np.int64),
        )


class ExactSearcher:
    """Searches a catalogue exactly; see `service.recall.cpu.backend.Searcher`."""

    def __init__(self, vectors_VD: Floats) -> None:
        self._catalogue = quantise(vectors_VD)
        self._scores = Int8Scores.allocate(1, self._catalogue)
        self._room = Room.of(len(self._catalogue.blocks.start_P))

    def search(
        self, interests_WD: Floats, step: Step, lists: CandidateLists, times: StageTimes
    ) -> Ints:
        """See `service.recall.cpu.backend.Searcher`."""
        if len(self._scores.slack_W) < len(interests_WD):
            self._scores = Int8Scores.allocate(len(interests_WD), self._catalogue)
        _search(self._catalogue, self._scores, self._room, interests_WD, step, lists)
        times.lap("search")
        offers_W: Ints = lists.offered_BM[step.queries_W, step.interest]
        return offers_W


def quantise(vectors_VD: Floats) -> Int8Catalogue:
    """Rounds vectors, of any lengths, to 8 bits."""
    rotation_DD = _rotation(vectors_VD.shape[1])
    rotated_VD = (torch.from_numpy(vectors_VD) @ rotation_DD).numpy()
    steps_VD, step = steps_of(rotated_VD)
    max_error = np.linalg.norm(rotated_VD - steps_VD * np.float32(step), axis=1).max()
    max_length = float(np.linalg.norm(steps_VD, axis=1).max())
    return Int8Catalogue(
        vectors_VD,
        rotation_DD.numpy(),
        blocks_of(steps_VD.astype(np.int8)),
        step,
        float(max_error),
        max_length,
        levels(),
        shift_of(max_length, len(rotation_DD)),
    )


def _rotation(width: int) -> Tensor:
    """Returns a random rotation D D, the same one every time."""
    drawn_DD = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation_DD: Tensor = torch.linalg.qr(drawn_DD).Q.contiguous()
    return rotation_DD


@compiled
def _search(
    catalogue: Int8Catalogue,
    scores: Int8Scores,
    room: Room,
    interests_WD: Floats,
    step: Step,
    lists: CandidateLists,
) -> None:
    """Scores the catalogue for all queries of a step, then extends their lists one by one."""
    _score(catalogue, interests_WD, scores)
    for at in range(len(interests_WD)):
        scores_P, slack, interest_D = scores.scores_WP[at], scores.slack_W[at], interests_WD[at]
        query, quota = step.queries_W[at], step.quotas_W[at]
        offer = _select(
            catalogue.vectors_VD, interest_D, scores_P, slack, room, step, lists, query, quota
        )
        lists.offered_BM[query, step.interest] = max(offer, 0)


@pasted
def _score(catalogue: Int8Catalogue, interests_WD: Floats, scores: Int8Scores) -> None:
    """Computes the 8-bit scores of all items, and their slack."""
    queries = len(interests_WD)
    for query in range(queries):
        interest_D, interest_E = interests_WD[query], scores.interests_WE[query]
        scores.slack_W[query] = _quantise_interest(catalogue, interest_D, interest_E)
    interests_WE, scores_WP = scores.interests_WE[:queries], scores.scores_WP[:queries]
    multiply(catalogue.blocks, addresses(interests_WE), addresses(scores_WP), catalogue.shift)
    for query in range(queries):
        scores_WP[query, len(catalogue.vectors_VD) :] = LOW


@pasted
def _quantise_interest(
    catalogue: Int8Catalogue, interest_D: Floats, interest_E: NDArray[np.uint8]
) -> Integer:
    """Rotates an interest and rounds it to 8 bits; returns the slack of its scores."""
    rotated_D, zero = np.empty(len(interest_D), dtype=np.float32), catalogue.levels + 1
    np.dot(interest_D, catalogue.rotation_DD, rotated_D)
    step = whole_steps(rotated_D, catalogue.levels, interest_E)
    rest = square = 0.0
    for component in range(len(rotated_D)):
        value = rotated_D[component]
        rest += (value - (interest_E[component] - zero) * step) ** 2
        square += value**2
    item_length = catalogue.max_length * catalogue.step
    item_error = catalogue.max_error + SUM_ERROR * item_length
    error = np.sqrt(rest) * item_length + np.sqrt(square) * item_error
    unit = np.float64(step) * catalogue.step * (1 << catalogue.shift)
    return np.int64(2 * error / unit) + 2  # for the rounding of the shift and of this


@pasted
def _select(
    vectors_VD: Floats,
    interest_D: Floats,
    scores_P: Short,
    slack: Integer,
    room: Room,
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
        scores_P[excluded.rows_N[at]] = LOW
    offer: Integer = NO_OFFER
    offer_score: Real = np.float32(0)
    if not step.last:
        offer, offer_score = _best_listed(
            vectors_VD, interest_D, scores_P, slack, step, lists, query
        )
    for listed in range(lists.sizes_B[query]):
        scores_P[lists.rows_BK[query, listed]] = LOW
    # With one hit more than were offered before, one of them is new.
    wanted = max(quota, 0 if step.last else step.interest + 1)
    found = candidates(scores_P, wanted, slack, room)
    found_K = best_of(interest_D, vectors_VD, room.places_P[:found], wanted, room)
    for rank in range(len(found_K)):
        score, row = score_of(found_K[rank]), row_of(found_K[rank])
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
    scores_P: Short,
    slack: Integer,
    step: Step,
    lists: CandidateLists,
    query: Integer,
) -> tuple[Integer, Real]:
    """Returns the best listed item that was not offered and its score; NO_OFFER if there is none.

    As in the search, 8-bit scores leave few items, among which the inner products decide.
    """
    best = LOW
    for listed in range(lists.sizes_B[query]):
        row = lists.rows_BK[query, listed]
        if not was_offered(lists, query, row, step.interest):
            best = max(best, scores_P[row])
    limit = limit_of(best, slack)
    offer: Integer = NO_OFFER
    offer_score: Real = np.float32(0)
    for listed in range(lists.sizes_B[query]):
        row = lists.rows_BK[query, listed]
        if scores_P[row] >= limit and not was_offered(lists, query, row, step.interest):
            score = dot(interest_D, vectors_VD[row])
            if offer == NO_OFFER or score > offer_score:
                offer, offer_score = row, score
    return offer, offer_score
