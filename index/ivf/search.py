"""Search of a large catalogue in lists, compiled.

The lists whose centroids are nearest to a query are scored in 8 bits, each list once for all
queries of a batch that want it; the best of what they hold is scored again by the vectors
themselves. Faiss's own ways through lists take two to three times as long, see
docs/results/scale.md.

Shapes: B queries, D width, E the same padded to whole quarters, L lists, N blocks of centroids,
S places that a query looks at, K hits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.ivf.layout import NOBODY, Lists
from index.kernels.int8_gemm import FEW, SHORT_BYTES, addresses, multiply, whole_steps
from index.kernels.int8_layout import FOUR, ITEMS, Blocks, Short
from index.kernels.jit import Integer, compiled, inner
from index.kernels.topk import Room, best_of, candidates, reached, row_of, score_of

Vectors = NDArray[np.float32]
Whole = NDArray[np.int32]

MISSING = -1  # the row of a hit that was not found
SPARE = 16  # items that are scored again beside the best k, at the least
MOST_PLACES = 1 << 26  # that a batch looks at together: their scores take 128 MB


class Probed(NamedTuple):
    """Which lists the queries of a batch want."""

    asked_BE: NDArray[np.uint8]  # the queries in whole steps
    near_BP: Short  # how near centroids are
    lists_BL: Whole  # everyone's lists, ascending
    counts_B: Whole  # how many
    places_B: Whole  # in all of them
    queries_LB: Whole  # who wants a list
    wanted_L: Whole  # how many do

    @staticmethod
    def room(lists: Lists, queries: int) -> "Probed":
        """For so many at the most."""
        count, width = len(lists.ends_L) - 1, lists.items.items_NQ64.shape[1] * FOUR
        return Probed(
            np.zeros((queries, width), np.uint8),
            np.empty((queries, len(lists.centroids.start_P)), np.int16),
            np.empty((queries, count), np.int32),
            np.empty(queries, np.int32),
            np.empty(queries, np.int32),
            np.empty((count, queries), np.int32),
            np.empty(count, np.int32),
        )


class ListSearch:
    """Searches, in memory that is used again. From one thread, and with one."""

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self._probed = Probed.room(lists, 1)
        self._scores = np.empty(0, dtype=np.int16)
        self._room = Room.of(0)

    @property
    def count(self) -> int:
        """How many lists there are."""
        return len(self.lists.ends_L) - 1

    def search(self, queries_BD: Vectors, k: int, probed: int) -> tuple[Vectors, NDArray[np.int64]]:
        """The best k scores and their rows in about so many lists each, best first: B K.

        The row is MISSING where lists hold too few.
        """
        queries = len(queries_BD)
        if len(self._probed.counts_B) < queries:
            self._probed = Probed.room(self.lists, queries)
        _probe(self.lists, queries_BD, probed, self._probed)
        longest = int(self._probed.places_B[:queries].max(initial=0))
        if queries > 1 and queries * longest > MOST_PLACES:
            halves = np.array_split(queries_BD, 2)
            scores, rows = zip(*(self.search(half, k, probed) for half in halves), strict=True)
            return np.concatenate(scores), np.concatenate(rows)
        self._make_room(queries, longest)
        scores_BS = self._scores[: queries * longest].reshape(queries, longest)
        _score(self.lists, self._probed, scores_BS)
        rows_BK = np.full((queries, k), MISSING, dtype=np.int64)
        scores_BK = np.zeros((queries, k), dtype=np.float32)
        _find(self.lists, queries_BD, self._probed, scores_BS, self._room, scores_BK, rows_BK)
        return scores_BK, rows_BK

    def _make_room(self, queries: int, places: int) -> None:
        """For so many queries that look at so many places each, and a little more."""
        if len(self._scores) < queries * places:
            self._scores = np.empty(queries * places * 5 // 4, dtype=np.int16)
        if len(self._room.places_P) < places:
            self._room = Room.of(places * 5 // 4 // ITEMS * ITEMS)


@compiled
def _probe(lists: Lists, queries_BD: Vectors, wanted: Integer, probed: Probed) -> None:
    """Find everyone's lists."""
    queries, count = len(queries_BD), len(lists.ends_L) - 1
    turned_D = np.empty(queries_BD.shape[1], dtype=np.float32)
    for query in range(queries):
        np.dot(queries_BD[query], lists.turn_DD, turned_D)
        whole_steps(turned_D, lists.levels, probed.asked_BE[query])
    asked_T, near_T = addresses(probed.asked_BE[:queries]), addresses(probed.near_BP[:queries])
    multiply(lists.centroids, asked_T, near_T, lists.centroids_shift)
    probed.wanted_L[:] = 0
    near_L = np.empty(count, dtype=np.int32)
    for query in range(queries):
        for one in range(count):
            near_L[one] = probed.near_BP[query, one]
        floor, found, blocks = reached(near_L, wanted), 0, 0
        for one in range(count):
            if near_L[one] >= floor:
                probed.lists_BL[query, found] = one
                found += 1
                probed.queries_LB[one, probed.wanted_L[one]] = query
                probed.wanted_L[one] += 1
                blocks += lists.ends_L[one + 1] - lists.ends_L[one]
        probed.counts_B[query], probed.places_B[query] = found, blocks * ITEMS


@compiled
def _score(lists: Lists, probed: Probed, scores_BS: Short) -> None:
    """Score everyone's lists, which stand one after another in a row of scores."""
    queries = len(scores_BS)
    filled_B = np.zeros(queries, dtype=np.int64)
    asked_B, scores_B = addresses(probed.asked_BE[:queries]), addresses(scores_BS)
    asked_T, scores_T = np.empty_like(asked_B), np.empty_like(scores_B)
    for one in range(len(probed.wanted_L)):
        wanted = probed.wanted_L[one]
        begin, end = lists.ends_L[one], lists.ends_L[one + 1]
        if wanted == 0 or begin == end:
            continue
        tiles = (wanted + FEW - 1) // FEW * FEW
        for at in range(tiles):
            query = probed.queries_LB[one, min(at, wanted - 1)]
            asked_T[at] = asked_B[query]
            scores_T[at] = scores_B[query] + filled_B[query] * SHORT_BYTES
        first, last = begin * ITEMS, end * ITEMS
        items = Blocks(lists.items.items_NQ64[begin:end], lists.items.start_P[first:last])
        multiply(items, asked_T[:tiles], scores_T[:tiles], lists.items_shift)
        for at in range(wanted):
            filled_B[probed.queries_LB[one, at]] += last - first


@compiled
def _find(
    lists: Lists,
    queries_BD: Vectors,
    probed: Probed,
    scores_BS: Short,
    room: Room,
    scores_BK: Vectors,
    rows_BK: NDArray[np.int64],
) -> None:
    """Write everyone's best rows."""
    ends_L = np.empty(len(probed.wanted_L), dtype=np.int64)
    k = rows_BK.shape[1]
    wanted = max(k + SPARE, k + k // 8)  # 8 bits may rank the last of the best a little lower
    for query in range(len(queries_BD)):
        lists_L = probed.lists_BL[query, : probed.counts_B[query]]
        end = 0
        for at in range(len(lists_L)):
            end += (lists.ends_L[lists_L[at] + 1] - lists.ends_L[lists_L[at]]) * ITEMS
            ends_L[at] = end
        found, items = candidates(scores_BS[query, :end], wanted, 0, room), 0
        for at in range(found):
            row = _row_at(lists, lists_L, ends_L, room.places_P[at])
            room.places_P[items] = row
            items += row != NOBODY
        keys_K = best_of(queries_BD[query], lists.vectors_VD, room.places_P[:items], k, room)
        for at in range(len(keys_K)):
            rows_BK[query, at], scores_BK[query, at] = row_of(keys_K[at]), score_of(keys_K[at])


@inner
def _row_at(lists: Lists, lists_L: Whole, ends_L: NDArray[np.int64], place: Integer) -> Integer:
    """The row that stands at a place of someone's lists, which end in theirs at `ends_L`."""
    low, high = 0, len(lists_L) - 1
    while low < high:
        middle = (low + high) // 2
        if ends_L[middle] > place:
            high = middle
        else:
            low = middle + 1
    row: Integer = lists.rows_P[lists.ends_L[lists_L[low] + 1] * ITEMS - (ends_L[low] - place)]
    return row
