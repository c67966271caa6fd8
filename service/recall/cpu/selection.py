"""From coarse scores to the best open items and the next token, one user after another.

A bound of the rounding leaves few items, which are scored again: what is found is exact.

Shapes: W users of a batch who run together, D width, V catalogue.
"""

from typing import NamedTuple

import numpy as np

from index.kernels.int8_layout import LOW
from index.kernels.jit import Integer, Real, inner, pasted
from index.kernels.topk import Room, best_of, candidates, dot, limit_of, row_of, score_of
from service.recall.candidate_lists import ListArrays, give, offered_before
from service.recall.cpu.scores import Int8Scores
from service.recall.types import Floats, Ints


class SearchStep(NamedTuple):
    """A step of a rollout."""

    scored: Int8Scores  # the scores of what must not be found become `LOW`
    interest_WD: Floats
    vectors_VD: Floats
    step: Integer
    last: bool  # no token is wanted any more


@pasted
def select(asked: SearchStep, lists: ListArrays, users_W: Ints, quotas_W: Ints, room: Room) -> None:
    """Give everyone the best of what is open, and set the tokens of this step."""
    for at in range(len(users_W)):
        user, scores_P = users_W[at], asked.scored.scores_WP[at]
        for excluded in range(lists.offsets_B[user], lists.offsets_B[user + 1]):
            scores_P[lists.excluded_N[excluded]] = LOW
        token: Integer = -1
        token_score: Real = np.float32(0)
        if not asked.last:
            token, token_score = _best_given(asked, at, lists, user)
        for given in range(lists.sizes_B[user]):
            scores_P[lists.rows_BK[user, given]] = LOW
        # One more than were offered: so there is one that wasn't.
        wanted = max(quotas_W[at], 0 if asked.last else asked.step + 1)
        found = candidates(scores_P, wanted, asked.scored.slack_W[at], room)
        interest_D = asked.interest_WD[at]
        found_K = best_of(interest_D, asked.vectors_VD, room.places_P[:found], wanted, room)
        for rank in range(len(found_K)):
            row, score = row_of(found_K[rank]), score_of(found_K[rank])
            if rank < quotas_W[at]:
                give(lists, user, row, score, asked.step)
            new = not asked.last and not offered_before(lists, user, row, asked.step)
            if new and (token < 0 or score > token_score):
                token, token_score = row, score
        lists.offered_BM[user, asked.step] = max(token, 0)


@inner
def _best_given(
    asked: SearchStep, at: Integer, lists: ListArrays, user: Integer
) -> tuple[Integer, Real]:
    """The best of what was given but not offered, -1 where there is none, and its score."""
    scores_P, step = asked.scored.scores_WP[at], asked.step
    best = LOW
    for given in range(lists.sizes_B[user]):
        row = lists.rows_BK[user, given]
        if not offered_before(lists, user, row, step):
            best = max(best, scores_P[row])
    token: Integer = -1
    token_score: Real = np.float32(0)
    limit = limit_of(best, asked.scored.slack_W[at])
    for given in range(lists.sizes_B[user]):
        row = lists.rows_BK[user, given]
        if scores_P[row] >= limit and not offered_before(lists, user, row, step):
            score = dot(asked.interest_WD[at], asked.vectors_VD[row])
            if token < 0 or score > token_score:
                token, token_score = row, score
    return token, token_score
