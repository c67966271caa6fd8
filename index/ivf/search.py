"""Approximate search of a large catalogue: only the lists whose centroids are nearest to a query.

A batch is searched in three steps, each one compiled loop:

1. **Probe.** The centroids are scored for all queries. Each query takes the `nprobe` nearest lists,
   or up to an eighth more.
2. **Score.** Lists are scored one after another, each once for all queries that take it: its codes
   are read from memory once, and tiles of several queries are faster than single ones. The scores
   of a query's lists stand one after another in its row of `scores_BS`.
3. **Select.** The best positions of a query by 8-bit score are translated to rows of the catalogue,
   and scored again by the vectors themselves. A few more than k are taken, because rounding may
   rank the last of the best a little lower.

Faiss's own searches of inverted lists take two to three times as long: docs/results/scale.md.

Shapes: B queries, D width, E the width padded to a multiple of four, L lists, P positions of
centroids, S positions of the items that a query looks at, T addresses of a table, K hits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.ivf.layout import NO_ROW, IvfLayout
from index.kernels.int8_gemm import (
    INT16_BYTES,
    SMALL_TILE,
    multiply,
    quantise_query,
    row_addresses,
)
from index.kernels.int8_layout import (
    BLOCK_ITEMS,
    FOUR,
    MAX_SCORE,
    MAX_SCORES,
    Int8Blocks,
    Int16s,
)
from index.kernels.jit import Integer, compiled, inlined, inner
from index.kernels.masks import NO_MASKS, Int32s, Masks, mask_blocks
from index.kernels.topk import (
    TopKWorkspace,
    find_candidates,
    key_row,
    key_score,
    rescore,
    threshold,
)

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

MISSING = -1  # the row of a hit that the lists do not hold
POOR = 0.9
"""The share of the usual number of items below which a mask is not searched by lists."""
MIN_LISTS = 8
"""The fewest lists whose items a mask is judged by."""
MIN_SPARE = 16  # items beyond k that are scored again


class Probes(NamedTuple):
    """The lists that each query of a batch takes; memory that is used again."""

    levels_BE: NDArray[np.uint8]  # the 8-bit form of the queries
    centroid_scores_BP: Int16s
    lists_BL: Int32s  # the lists of each query, ascending
    lists_B: Int32s  # how many these are
    positions_B: Int32s  # of all items in them
    queries_LB: Int32s  # the queries that take each list
    queries_L: Int32s  # how many these are

    @staticmethod
    def allocate(layout: IvfLayout, queries: int) -> "Probes":
        """Allocates memory for up to `queries` queries."""
        lists, groups = len(layout.offsets_L) - 1, layout.items.items_NQ64.shape[1]
        return Probes(
            np.zeros((queries, groups * FOUR), np.uint8),
            np.empty((queries, len(layout.centroids.start_P)), np.int16),
            np.empty((queries, lists), np.int32),
            np.empty(queries, np.int32),
            np.empty(queries, np.int32),
            np.empty((lists, queries), np.int32),
            np.empty(lists, np.int32),
        )


class IvfSearch:
    """Searches inverted lists in one thread, in memory that is used again."""

    def __init__(self, layout: IvfLayout) -> None:
        self.layout = layout
        self._probes = Probes.allocate(layout, 1)
        self._scores = np.empty(0, dtype=np.int16)
        self._workspace = TopKWorkspace.allocate(0)

    @property
    def lists(self) -> int:
        """The number of lists."""
        return len(self.layout.offsets_L) - 1

    def search(self, queries_BD: Vectors, k: int, nprobe: int) -> tuple[Vectors, Rows]:
        """Returns the k highest inner products in `nprobe` lists or a few more, and their rows.

        Best first, B K each. If the lists hold less than k items, the remaining rows are `MISSING`.
        """
        self._reserve_probes(len(queries_BD))
        _probe(self.layout, queries_BD, nprobe, self._probes)
        if self._fits(len(queries_BD)):
            return self._hits(queries_BD, k, NO_MASKS)
        halves = np.array_split(queries_BD, 2)
        found = zip(*(self.search(half, k, nprobe) for half in halves), strict=True)
        scores, rows = found
        return np.concatenate(scores), np.concatenate(rows)

    def search_masked(
        self, queries_BD: Vectors, k: int, masks: Masks, items_FL: Int32s, efforts_B: Int32s
    ) -> tuple[Vectors, Rows]:
        """Does the same among the items of each query's mask.

        A query takes as many lists as its effort says, and further ones until they hold as many
        items of the mask as other lists do. If the nearest ones hold clearly fewer, the mask leaves
        out what the query is near to: the best of what is left may be in any list, and all rows
        are `MISSING`. So they are if more than half of the lists would be taken. `items_FL` are the
        items of each mask in each list.
        """
        self._reserve_probes(len(queries_BD))
        of_query_B = masks.of_query_B
        _probe_masked(self.layout, queries_BD, items_FL, of_query_B, efforts_B, self._probes)
        if self._fits(len(queries_BD)):
            return self._hits(queries_BD, k, masks)
        found = []
        for part in np.array_split(np.arange(len(queries_BD)), 2):
            own = masks._replace(of_query_B=of_query_B[part])
            found.append(self.search_masked(queries_BD[part], k, own, items_FL, efforts_B[part]))
        scores, rows = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _reserve_probes(self, queries: int) -> None:
        if len(self._probes.lists_B) < queries:
            self._probes = Probes.allocate(self.layout, queries)

    def _fits(self, queries: int) -> bool:
        """Returns whether the scores of the lists that were found can be held at a time."""
        positions = int(self._probes.positions_B[:queries].max(initial=0))
        return queries == 1 or queries * positions <= MAX_SCORES

    def _hits(self, queries_BD: Vectors, k: int, masks: Masks) -> tuple[Vectors, Rows]:
        """Returns the best hits in the lists that were found."""
        queries = len(queries_BD)
        scores_BS = self._reserve(queries, int(self._probes.positions_B[:queries].max(initial=0)))
        _score(self.layout, self._probes, scores_BS)
        scores_BK = np.zeros((queries, k), dtype=np.float32)
        rows_BK = np.full((queries, k), MISSING, dtype=np.int64)
        memory = self._probes, scores_BS, self._workspace
        _select(self.layout, queries_BD, masks, *memory, scores_BK, rows_BK)
        return scores_BK, rows_BK

    def _reserve(self, queries: int, positions: int) -> Int16s:
        """Returns memory for the scores; a quarter more is allocated than is needed now."""
        if len(self._scores) < queries * positions:
            self._scores = np.empty(queries * positions * 5 // 4, dtype=np.int16)
        if len(self._workspace.positions_P) < positions:
            self._workspace = TopKWorkspace.allocate(
                positions * 5 // 4 // BLOCK_ITEMS * BLOCK_ITEMS
            )
        return self._scores[: queries * positions].reshape(queries, positions)


@inner
def _take_list(
    layout: IvfLayout, probes: Probes, query: Integer, number: Integer, taken: Integer
) -> Integer:
    """Notes that a query takes a list, beside those taken before; returns the list's blocks."""
    probes.lists_BL[query, taken] = number
    probes.queries_LB[number, probes.queries_L[number]] = query
    probes.queries_L[number] += 1
    blocks: Integer = layout.offsets_L[number + 1] - layout.offsets_L[number]
    return blocks


@compiled
def _probe(layout: IvfLayout, queries_BD: Vectors, nprobe: Integer, probes: Probes) -> None:
    """Finds the lists of each query, and the queries of each list."""
    queries, lists = len(queries_BD), len(layout.offsets_L) - 1
    score_centroids(layout, queries_BD, probes)
    scores_L = np.empty(lists, dtype=np.int32)
    for query in range(queries):
        for number in range(lists):
            scores_L[number] = probes.centroid_scores_BP[query, number]
        limit, taken, blocks = threshold(scores_L, nprobe), 0, 0
        for number in range(lists):
            if scores_L[number] >= limit:
                blocks += _take_list(layout, probes, query, number, taken)
                taken += 1
        probes.lists_B[query], probes.positions_B[query] = taken, blocks * BLOCK_ITEMS


@compiled
def _probe_masked(
    layout: IvfLayout,
    queries_BD: Vectors,
    items_FL: Int32s,
    of_query_B: Int32s,
    efforts_B: Int32s,
    probes: Probes,
) -> None:
    """Finds the lists of each query, and the queries of each list, by the items of its mask."""
    score_centroids(layout, queries_BD, probes)
    lists = items_FL.shape[1]
    scores_L = np.empty(lists, dtype=np.int32)
    blocks_L = layout.offsets_L[1:] - layout.offsets_L[:-1]
    for query in range(len(queries_BD)):
        items_L = items_FL[of_query_B[query]]
        for number in range(lists):
            scores_L[number] = probes.centroid_scores_BP[query, number]
        limit = _masked_limit(scores_L, items_L, blocks_L, efforts_B[query])
        taken, blocks = 0, 0
        for number in range(lists):
            if scores_L[number] >= limit and items_L[number] > 0:
                blocks += _take_list(layout, probes, query, number, taken)
                taken += 1
        probes.lists_B[query], probes.positions_B[query] = taken, blocks * BLOCK_ITEMS


@inner
def _masked_limit(scores_L: Int32s, items_L: Int32s, blocks_L: Int32s, effort: Integer) -> Integer:
    """Returns the score from which on a query takes lists: see `IvfSearch.search_masked`."""
    refused = MAX_SCORE + 1
    density = items_L.sum() / blocks_L.sum()  # items of the mask in a block
    limit: Integer = 0
    items: Integer = 0
    usual = 0.0
    for part in range(3):  # a sixteenth of the lists, a fourth, all
        limit = max(threshold(scores_L, max(effort >> (4 - 2 * part), MIN_LISTS)), -MAX_SCORE)
        items = _sum_from(scores_L, items_L, np.int32(limit))
        usual = density * _sum_from(scores_L, blocks_L, np.int32(limit))
        if items < POOR * usual:
            return refused
    if 2 * effort > len(scores_L):
        return refused
    if items >= usual:
        return limit
    low, high = -np.int64(MAX_SCORE), np.int64(limit)
    while high - low > 1:  # the highest score that enough items reach
        middle = (low + high) // 2
        if _sum_from(scores_L, items_L, np.int32(middle)) < usual:
            high = middle
        else:
            low = middle
    return low


@inner
def _sum_from(scores_L: Int32s, counts_L: Int32s, limit: np.int32) -> Integer:
    """Returns the sum of the counts of lists with at least this score, added up in 32 bits."""
    total = np.int32(0)
    for number in range(len(scores_L)):
        count = counts_L[number] if scores_L[number] >= limit else np.int32(0)
        total = np.int32(total + count)
    return total


@inlined
def score_centroids(layout: IvfLayout, queries_BD: Vectors, probes: Probes) -> None:
    """Rounds queries to 8 bits and writes the scores of all centroids; no list is taken yet."""
    queries = len(queries_BD)
    turned_D = np.empty(queries_BD.shape[1], dtype=np.float32)
    for query in range(queries):
        np.dot(queries_BD[query], layout.rotation_DD, turned_D)
        quantise_query(turned_D, layout.max_level, probes.levels_BE[query])
    levels_T = row_addresses(probes.levels_BE[:queries])
    scores_T = row_addresses(probes.centroid_scores_BP[:queries])
    multiply(layout.centroids, levels_T, scores_T, layout.centroids_shift)
    probes.queries_L[:] = 0


@compiled
def _score(layout: IvfLayout, probes: Probes, scores_BS: Int16s) -> None:
    """Writes the scores of each query's lists, one list after another."""
    queries = len(scores_BS)
    written_B = np.zeros(queries, dtype=np.int64)
    levels_B, scores_B = row_addresses(probes.levels_BE[:queries]), row_addresses(scores_BS)
    levels_T, scores_T = np.empty_like(levels_B), np.empty_like(scores_B)
    for number in range(len(probes.queries_L)):
        taking = probes.queries_L[number]
        begin, end = layout.offsets_L[number], layout.offsets_L[number + 1]
        if taking == 0 or begin == end:
            continue
        entries = (taking + SMALL_TILE - 1) // SMALL_TILE * SMALL_TILE
        for entry in range(entries):  # the last query is repeated until the tiles are full
            query = probes.queries_LB[number, min(entry, taking - 1)]
            levels_T[entry] = levels_B[query]
            scores_T[entry] = scores_B[query] + written_B[query] * INT16_BYTES
        first, last = begin * BLOCK_ITEMS, end * BLOCK_ITEMS
        items = Int8Blocks(layout.items.items_NQ64[begin:end], layout.items.start_P[first:last])
        multiply(items, levels_T[:entries], scores_T[:entries], layout.items_shift)
        for entry in range(taking):
            written_B[probes.queries_LB[number, entry]] += last - first


@compiled
def _select(
    layout: IvfLayout,
    queries_BD: Vectors,
    masks: Masks,
    probes: Probes,
    scores_BS: Int16s,
    workspace: TopKWorkspace,
    scores_BK: Vectors,
    rows_BK: Rows,
) -> None:
    """Writes the best hits of each query."""
    ends_L = np.empty(len(probes.queries_L), dtype=np.int64)
    k = rows_BK.shape[1]
    wanted = k + max(MIN_SPARE, k // 8)
    for query in range(len(queries_BD)):
        lists_L, end = probes.lists_BL[query, : probes.lists_B[query]], 0
        scores = np.int64(scores_BS[query].ctypes.data)
        for at in range(len(lists_L)):
            begin, stop = layout.offsets_L[lists_L[at]], layout.offsets_L[lists_L[at] + 1]
            mask_blocks(masks, query, begin, stop, scores + end * INT16_BYTES)
            end += (stop - begin) * BLOCK_ITEMS
            ends_L[at] = end
        positions_N, items = find_candidates(scores_BS[query, :end], wanted, 0, workspace), 0
        for at in range(len(positions_N)):
            row = _row_at(layout, lists_L, ends_L, positions_N[at])
            positions_N[items] = row  # a row takes the place of a position that was read
            items += row != NO_ROW
        keys_K = rescore(queries_BD[query], layout.vectors_VD, positions_N[:items], k, workspace)
        for at in range(len(keys_K)):
            scores_BK[query, at], rows_BK[query, at] = key_score(keys_K[at]), key_row(keys_K[at])


@inner
def _row_at(
    layout: IvfLayout, lists_L: Int32s, ends_L: NDArray[np.int64], position: Integer
) -> Integer:
    """Returns the catalogue's row at a position of a query's scores.

    `ends_L` says where each of the query's lists ends there. The list is found by bisection.
    """
    low, high = 0, len(lists_L) - 1
    while low < high:
        middle = (low + high) // 2
        if ends_L[middle] > position:
            high = middle
        else:
            low = middle + 1
    end = layout.offsets_L[lists_L[low] + 1] * BLOCK_ITEMS
    row: Integer = layout.rows_P[end - (ends_L[low] - position)]
    return row
