"""From coarse scores to the best open items and the next token, one user after another.

A bound of the rounding leaves few items, which are scored again: what is found is exact.

Shapes: B batch, W those of it who run together, P items padded to whole groups, G groups: the
items G apart, D width, K candidates, N any number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.compiled import Integer, Real, compiled, inner, pasted
from service.merge import Floats, Ints, Lists, give, offered_before
from service.scores import GROUP, LOW
from service.vectors import dot


class Asked(NamedTuple):
    """A step of a rollout."""

    scores_WP: NDArray[np.int32]  # what must not be found becomes `LOW`
    slack_W: Ints  # a score may be less than another's by so much where it is more in truth
    interest_WD: Floats
    vectors_PD: Floats
    step: int
    last: bool  # no token is wanted any more


class Room(NamedTuple):
    """Memory that is used for one user after another."""

    best_G: NDArray[np.int32]  # of each group of items
    rows_P: NDArray[np.int32]  # of those that may be among the best
    ranks_P: NDArray[np.int32]  # their true scores, as integers in the same order
    keys_P: NDArray[np.int64]  # of the best, rank and row
    ordered_P: NDArray[np.int64]  # the same, best first

    @staticmethod
    def of(padded: int) -> "Room":
        """For so many items."""
        best_G = np.empty(padded // GROUP, np.int32)
        rows_P, ranks_P = np.empty((2, padded), np.int32)
        return Room(best_G, rows_P, ranks_P, *np.empty((2, padded), np.int64))


@compiled
def select(asked: Asked, lists: Lists, users_W: Ints, quotas_W: Ints, room: Room) -> None:
    """Give everyone the best of what is open, and set the tokens of this step."""
    for at in range(len(users_W)):
        user, scores_P = users_W[at], asked.scores_WP[at]
        for closed in range(lists.ends_B[user], lists.ends_B[user + 1]):
            scores_P[lists.closed_N[closed]] = LOW
        token: Integer = -1
        token_score: Real = np.float32(0)
        if not asked.last:
            token, token_score = _best_given(asked, at, lists, user)
        for given in range(lists.sizes_B[user]):
            scores_P[lists.rows_BK[user, given]] = LOW
        # One more than were offered: so there is one that wasn't.
        wanted = max(quotas_W[at], 0 if asked.last else asked.step + 1)
        found_K = _best(asked, at, wanted, room)
        for rank in range(len(found_K)):
            row, score = _row(found_K[rank]), _score(found_K[rank])
            if rank < quotas_W[at]:
                give(lists, user, row, score, asked.step)
            new = not asked.last and not offered_before(lists, user, row, asked.step)
            if new and (token < 0 or score > token_score):
                token, token_score = row, score
        lists.offered_BM[user, asked.step] = max(token, 0)


@inner
def _best_given(asked: Asked, at: Integer, lists: Lists, user: Integer) -> tuple[Integer, Real]:
    """The best of what was given but not offered, -1 where there is none, and its score."""
    scores_P, step = asked.scores_WP[at], asked.step
    best = LOW
    for given in range(lists.sizes_B[user]):
        row = lists.rows_BK[user, given]
        if not offered_before(lists, user, row, step):
            best = max(best, scores_P[row])
    token: Integer = -1
    token_score: Real = np.float32(0)
    limit = _limit(asked, at, best)
    for given in range(lists.sizes_B[user]):
        row = lists.rows_BK[user, given]
        if scores_P[row] >= limit and not offered_before(lists, user, row, step):
            score = _exact(asked, at, row)
            if token < 0 or score > token_score:
                token, token_score = row, score
    return token, token_score


@pasted
def _best(asked: Asked, at: Integer, wanted: Integer, room: Room) -> NDArray[np.int64]:
    """Keys of the best items that are not `LOW`, best first."""
    found = _candidates(asked, at, wanted, room)
    rows_N, ranks_N = room.rows_P[:found], room.ranks_P[:found]
    for place in range(found):
        ranks_N[place] = _rank(_exact(asked, at, rows_N[place]))
    floor, keys = _reached(ranks_N, wanted), 0
    for place in range(found):
        if ranks_N[place] >= floor:
            room.keys_P[keys] = (np.int64(ranks_N[place]) << 32) + (0xFFFFFFFF - rows_N[place])
            keys += 1
    _order(room.keys_P[:keys], room.ordered_P)
    return room.ordered_P[: min(keys, wanted)]


@inner
def _candidates(asked: Asked, at: Integer, wanted: Integer, room: Room) -> Integer:
    """Find all that may be among the best; how many. The loops have no jumps, where they can."""
    scores_P, best_G = asked.scores_WP[at], room.best_G
    groups, found = len(best_G), 0
    if wanted == 0:
        return found
    for group in range(groups):
        best_G[group] = scores_P[group]
    for first in range(groups, len(scores_P), groups):
        others_G = scores_P[first : first + groups]
        for group in range(groups):
            best_G[group] = max(best_G[group], others_G[group])
    limit = _limit(asked, at, _reached(best_G, wanted))
    for group in range(groups):
        if best_G[group] >= limit:
            for row in range(group, len(scores_P), groups):
                room.rows_P[found] = row
                found += scores_P[row] >= limit
    return found


@inner
def _reached(values_N: NDArray[np.int32], wanted: Integer) -> Integer:
    """What at least so many values reach, and hardly more; `LOW` where there are not so many.

    Halving the range is quicker than sorting.
    """
    if len(values_N) <= wanted:
        return LOW
    least = most = values_N[0]
    for place in range(len(values_N)):
        least, most = min(least, values_N[place]), max(most, values_N[place])
    low, high = np.int64(least), np.int64(most) + 1
    while high - low > 1:
        middle = (low + high) // 2
        reached = _count(values_N, np.int32(middle))
        if reached < wanted:
            high = middle
            continue
        low = middle
        if reached <= wanted + wanted // 8:
            break
    return low


@inner
def _count(values_N: NDArray[np.int32], limit: np.int32) -> Integer:
    """How many reach it. In 32 bits twice as many fit into a vector."""
    reached = np.int32(0)
    for place in range(len(values_N)):
        reached = np.int32(reached + np.int32(values_N[place] >= limit))
    return reached


@inner
def _limit(asked: Asked, at: Integer, floor: Integer) -> Integer:
    """What a score must be at least to be at least the floor in truth."""
    limit: Integer = max(np.int64(floor) - asked.slack_W[at], np.int64(LOW) + 1)
    return limit


@inner
def _exact(asked: Asked, at: Integer, row: Integer) -> Real:
    """The true score."""
    return dot(asked.interest_WD[at], asked.vectors_PD[row])


@inner
def _rank(score: Real) -> Integer:
    """An integer that is the higher, the higher the score."""
    bits = np.float32(score).view(np.int32)
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


@inner
def _row(key: Integer) -> Integer:
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


@inner
def _score(key: Integer) -> Real:
    """The inverse of `_rank`, of a key."""
    rank = np.int64(key) >> 32
    score: Real = np.int32(abs(rank)).view(np.float32)
    return score if rank >= 0 else -score


@inner
def _order(keys_N: NDArray[np.int64], ordered_N: NDArray[np.int64]) -> None:
    """Write them highest first; no two are equal.

    To count for each how many are higher is a vector loop without jumps: for a hundred a third of
    what sorting takes, from about a thousand on more.
    """
    for place in range(len(keys_N)):
        higher = 0
        for other in range(len(keys_N)):
            higher += keys_N[other] > keys_N[place]
        ordered_N[higher] = keys_N[place]
