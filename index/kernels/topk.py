"""From coarse scores to the best rows, exactly: what may be among them is found, and scored again.

Shapes: P places, G groups of them: the places G apart, D width, V rows of a table, N any number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_layout import LOW, Short
from index.kernels.jit import Integer, Real, inner, pasted

GROUP = 8  # places that are looked at together
MOST_COUNTED = 1000  # keys that are ordered by counting
BOTTOM = np.int64(-(2**40))  # below all scores and ranks
ZERO = np.float32(0)

Keys = NDArray[np.int64]
"""Of a row its rank and the row, in one integer: the higher, the better."""


class Room(NamedTuple):
    """Memory that is used for one user after another."""

    best_G: NDArray[np.int32]  # of each group of places
    places_P: NDArray[np.int32]  # that may be among the best; then the rows there
    ranks_P: NDArray[np.int32]  # their true scores, as integers in the same order
    keys_P: Keys
    ordered_P: Keys  # best first

    @staticmethod
    def of(places: int) -> "Room":
        """For so many at the most."""
        best_G = np.empty(places // GROUP, np.int32)
        places_P, ranks_P = np.empty((2, places), np.int32)
        return Room(best_G, places_P, ranks_P, *np.empty((2, places), np.int64))


@pasted
def candidates(scores_P: Short, wanted: Integer, slack: Integer, room: Room) -> Integer:
    """Find the places of all that may be among the best so many; how many there are.

    A score may be less than another's by the slack where it is more in truth. `LOW` is never found.
    There are as many places as fill groups. The loops have no jumps, where they can.
    """
    groups, found = len(scores_P) // GROUP, 0
    if wanted == 0 or groups == 0:
        return found
    best_G = room.best_G[:groups]
    for group in range(groups):
        best_G[group] = scores_P[group]
    for first in range(groups, len(scores_P), groups):
        others_G = scores_P[first : first + groups]
        for group in range(groups):
            best_G[group] = max(best_G[group], others_G[group])
    limit = limit_of(reached(best_G, wanted), slack)
    for group in range(groups):
        if best_G[group] >= limit:
            for place in range(group, len(scores_P), groups):
                room.places_P[found] = place
                found += scores_P[place] >= limit
    return found


@inner
def limit_of(floor: Integer, slack: Integer) -> Integer:
    """What a score must be at least to be at least the floor in truth."""
    limit: Integer = max(np.int64(floor) - slack, np.int64(LOW) + 1)
    return limit


@pasted
def best_of(
    query_D: NDArray[np.float32],
    vectors_VD: NDArray[np.float32],
    rows_N: NDArray[np.int32],
    wanted: Integer,
    room: Room,
) -> Keys:
    """The best so many of these rows, best first."""
    ranks_N = room.ranks_P[: len(rows_N)]
    for place in range(len(rows_N)):
        ranks_N[place] = _rank(dot(query_D, vectors_VD[rows_N[place]]))
    floor, keys = reached(ranks_N, wanted), 0
    for place in range(len(rows_N)):
        if ranks_N[place] >= floor:
            room.keys_P[keys] = (np.int64(ranks_N[place]) << 32) + (0xFFFFFFFF - rows_N[place])
            keys += 1
    _order(room.keys_P[:keys], room.ordered_P)
    return room.ordered_P[: min(keys, wanted)]


@inner
def row_of(key: Integer) -> Integer:
    """The row of a key."""
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


@inner
def score_of(key: Integer) -> Real:
    """The true score of a key: the inverse of `_rank`."""
    rank = np.int64(key) >> 32
    score: Real = np.int32(abs(rank)).view(np.float32)
    return score if rank >= 0 else -score


@inner
def dot(left_N: NDArray[np.float32], right_N: NDArray[np.float32]) -> Real:
    """Inner product."""
    total = ZERO
    for at in range(len(left_N)):
        total += left_N[at] * right_N[at]
    return total


@inner
def reached(values_N: NDArray[np.int32], wanted: Integer) -> Integer:
    """What at least so many values reach, and hardly more; `BOTTOM` where there are not so many.

    Halving the range is quicker than sorting.
    """
    if len(values_N) <= wanted:
        return BOTTOM
    least = most = values_N[0]
    for place in range(len(values_N)):
        least, most = min(least, values_N[place]), max(most, values_N[place])
    low, high = np.int64(least), np.int64(most) + 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = _count(values_N, np.int32(middle))
        if enough < wanted:
            high = middle
            continue
        low = middle
        if enough <= wanted + wanted // 8:
            break
    return low


@inner
def _count(values_N: NDArray[np.int32], limit: np.int32) -> Integer:
    """How many reach it. In 32 bits twice as many fit into a vector."""
    enough = np.int32(0)
    for place in range(len(values_N)):
        enough = np.int32(enough + np.int32(values_N[place] >= limit))
    return enough


@inner
def _rank(score: Real) -> Integer:
    """An integer that is the higher, the higher the score."""
    bits = np.float32(score).view(np.int32)
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


@inner
def _order(keys_N: Keys, ordered_N: Keys) -> None:
    """Write them highest first; no two are equal.

    To count for each how many are higher is a vector loop without jumps: for a hundred a third of
    what sorting takes, from about a thousand on more.
    """
    count = len(keys_N)
    if count > MOST_COUNTED:
        _sort(keys_N, ordered_N)
        return
    for place in range(count):
        higher = 0
        for other in range(count):
            higher += keys_N[other] > keys_N[place]
        ordered_N[higher] = keys_N[place]


@inner
def _sort(keys_N: Keys, ordered_N: Keys) -> None:
    """The same by a heap, which loses its lowest key again and again."""
    count = len(keys_N)
    for root in range(count // 2 - 1, -1, -1):
        _sink(keys_N, root, count)
    for place in range(count - 1, -1, -1):
        ordered_N[place] = keys_N[0]
        keys_N[0] = keys_N[place]
        _sink(keys_N, 0, place)


@inner
def _sink(keys_N: Keys, root: Integer, count: Integer) -> None:
    """Let a key of a heap sink until none below it is lower."""
    key = keys_N[root]
    while 2 * root + 1 < count:
        child = 2 * root + 1
        if child + 1 < count and keys_N[child + 1] < keys_N[child]:
            child += 1
        if keys_N[child] >= key:
            break
        keys_N[root] = keys_N[child]
        root = child
    keys_N[root] = key
