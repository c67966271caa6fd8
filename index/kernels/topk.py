"""The best rows of a query, exactly: 16-bit scores leave few items, whose inner products decide.

Sorting the scores of a whole catalogue would take longer than computing them. Instead:

1. **Groups.** The positions of a catalogue are dealt into G groups of eight: group g holds the
   positions g, G + g, 2 G + g, … The best score of each group is an element-wise maximum of eight
   pieces of the scores, which vector instructions compute for many groups at once.
2. **Threshold.** If at least n groups have a best score of at least t, at least n items score t or
   more. The largest such t is found by halving the range of possible values: each half is decided
   by counting the values that reach its middle, which is a vector loop, too (`threshold`).
3. **Collection.** Only groups that reach the threshold are looked at item by item.
4. **Re-score.** The inner products of the collected items are computed in floats, and the best n
   are chosen by a threshold again and put in order.

Scores of 8-bit integers are inexact by a known bound. The threshold of step 2 is lowered by twice
that bound (the slack), and then no item is missed: see `index.exact`.

Floats are compared as integers (`_rank`): the bits of a float, read as an integer, are in the same
order, once those of negative numbers are turned round. A rank and a row share one 64-bit key, so
that keys sort by score, then by row.

Shapes: P positions, G groups, D width, V rows of a table, N any number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_layout import LOWEST, Int16s
from index.kernels.jit import Integer, Real, inlined, inner

GROUP_SIZE = 8
MAX_COUNTED = 1000  # keys that are ordered by counting; more of them by a heap
BELOW_ALL = np.int64(-(2**40))  # a threshold that every score and every rank reaches
ROW_MASK = 0xFFFFFFFF
ZERO = np.float32(0)

Int32s = NDArray[np.int32]
Keys = NDArray[np.int64]
"""A rank in the upper 32 bits, and in the lower ones a row's distance from the highest number."""


class TopKWorkspace(NamedTuple):
    """Memory of the selection, used by one query after another."""

    maxima_G: Int32s  # the best score of each group
    positions_P: Int32s  # collected positions
    ranks_P: Int32s  # of the collected items' inner products
    keys_P: Keys  # of the best of them
    ordered_P: Keys  # the same, best first

    @staticmethod
    def allocate(positions: int) -> "TopKWorkspace":
        """Allocates memory for up to `positions` positions."""
        maxima_G = np.empty(positions // GROUP_SIZE, np.int32)
        positions_P, ranks_P = np.empty((2, positions), np.int32)
        return TopKWorkspace(maxima_G, positions_P, ranks_P, *np.empty((2, positions), np.int64))


@inlined
def find_candidates(
    scores_P: Int16s, wanted: Integer, slack: Integer, workspace: TopKWorkspace
) -> Int32s:
    """Returns the positions of all items that may be among the best `wanted`.

    A score may be lower than another by up to `slack` although its inner product is higher. Scores
    of `LOWEST` are never found. The number of positions is a multiple of `GROUP_SIZE`.
    """
    groups, found = len(scores_P) // GROUP_SIZE, 0
    if wanted == 0 or groups == 0:
        return workspace.positions_P[:0]
    maxima_G = workspace.maxima_G[:groups]
    for group in range(groups):
        best = scores_P[group]
        for piece in range(1, GROUP_SIZE):
            best = max(best, scores_P[piece * groups + group])
        maxima_G[group] = best
    limit = lowest_score(threshold(maxima_G, wanted), slack)
    for group in range(groups):
        if maxima_G[group] >= limit:
            for position in range(group, len(scores_P), groups):
                workspace.positions_P[found] = position
                found += scores_P[position] >= limit  # without a jump, which would be mispredicted
    return workspace.positions_P[:found]


@inner
def lowest_score(floor: Integer, slack: Integer) -> Integer:
    """Returns the score that an item has at least if its inner product may reach the floor."""
    limit: Integer = max(np.int64(floor) - slack, np.int64(LOWEST) + 1)
    return limit


@inlined
def rescore(
    query_D: NDArray[np.float32],
    vectors_VD: NDArray[np.float32],
    rows_N: Int32s,
    wanted: Integer,
    workspace: TopKWorkspace,
) -> Keys:
    """Returns the keys of the best `wanted` of these rows by inner product, best first."""
    ranks_N = workspace.ranks_P[: len(rows_N)]
    for at in range(len(rows_N)):
        ranks_N[at] = _rank(dot(query_D, vectors_VD[rows_N[at]]))
    limit, keys = threshold(ranks_N, wanted), 0
    for at in range(len(rows_N)):
        if ranks_N[at] >= limit:
            workspace.keys_P[keys] = (np.int64(ranks_N[at]) << 32) + (ROW_MASK - rows_N[at])
            keys += 1
    _order(workspace.keys_P[:keys], workspace.ordered_P)
    return workspace.ordered_P[: min(keys, wanted)]


@inner
def key_row(key: Integer) -> Integer:
    """Returns the row of a key."""
    return ROW_MASK - (key & ROW_MASK)


@inner
def key_score(key: Integer) -> Real:
    """Returns the inner product of a key: the inverse of `_rank`."""
    rank = np.int64(key) >> 32
    score: Real = np.int32(abs(rank)).view(np.float32)
    return score if rank >= 0 else -score


@inner
def dot(left_N: NDArray[np.float32], right_N: NDArray[np.float32]) -> Real:
    """Returns the inner product of two vectors."""
    total = ZERO
    for component in range(len(left_N)):
        total += left_N[component] * right_N[component]
    return total


@inner
def threshold(values_N: Int32s, wanted: Integer) -> Integer:
    """Returns a value that at least `wanted` of the values reach, and at most an eighth more.

    Equal values may make it more than that. If there are no more than `wanted` values, the result
    is `BELOW_ALL`.
    """
    if len(values_N) <= wanted:
        return BELOW_ALL
    lowest = highest = values_N[0]
    for at in range(len(values_N)):
        lowest, highest = min(lowest, values_N[at]), max(highest, values_N[at])
    low, high = np.int64(lowest), np.int64(highest) + 1
    while high - low > 1:
        middle = (low + high) // 2
        reaching = _count_reaching(values_N, np.int32(middle))
        if reaching < wanted:
            high = middle
            continue
        low = middle
        if reaching <= wanted + wanted // 8:
            break
    return low


@inner
def _count_reaching(values_N: Int32s, limit: np.int32) -> Integer:
    """Counts values in 32 bits, of which twice as many fit into a register as of 64."""
    count = np.int32(0)
    for at in range(len(values_N)):
        count = np.int32(count + np.int32(values_N[at] >= limit))
    return count


@inner
def _rank(score: Real) -> Integer:
    """Returns an integer that is the higher, the higher the score."""
    bits = np.float32(score).view(np.int32)
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


@inner
def _order(keys_N: Keys, ordered_N: Keys) -> None:
    """Writes the keys, which differ, to `ordered_N`, highest first.

    The place of a key is the number of higher ones. Counting them is a vector loop without jumps:
    for a hundred keys it takes a third of the time of sorting, from about a thousand on more.
    """
    count = len(keys_N)
    if count > MAX_COUNTED:
        _heap_sort(keys_N, ordered_N)
        return
    for at in range(count):
        higher = 0
        for other in range(count):
            higher += keys_N[other] > keys_N[at]
        ordered_N[higher] = keys_N[at]


@inner
def _heap_sort(keys_N: Keys, ordered_N: Keys) -> None:
    """Writes the keys to `ordered_N`, highest first; `keys_N` is a heap meanwhile.

    The lowest key is on top of the heap. It is taken away again and again, from the last place of
    the result to the first.
    """
    count = len(keys_N)
    for root in range(count // 2 - 1, -1, -1):
        _sink(keys_N, root, count)
    for last in range(count - 1, -1, -1):
        ordered_N[last] = keys_N[0]
        keys_N[0] = keys_N[last]
        _sink(keys_N, 0, last)


@inner
def _sink(keys_N: Keys, root: Integer, count: Integer) -> None:
    """Moves the key at `root` down the heap of `count` keys until no child of it is lower."""
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
