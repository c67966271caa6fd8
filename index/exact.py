"""Exact search of a whole catalogue: 8-bit scores of all items, then inner products of few.

Vectors and queries are rounded to 8-bit integers, whose products a CPU computes four to eight times
as fast as those of floats, out of a quarter of the memory (`index.kernels.int8_gemm`). The error of
a score is bounded: with q' and v' for what a query q and a vector v were rounded to,

    |q·v - q'·v'| ≤ |q - q'| |v'| + |q| |v - v'|

An item can only be among the best n if its score is at least the n-th best minus twice that bound
(the slack). One or two per cent of a catalogue are left; their inner products are computed in
floats, so the hits are exactly those of sorting all inner products (`index.kernels.topk`).

Vectors are rotated at random before they are rounded, which leaves inner products as they are. No
vector then has a single large component that would make the integer steps wide for all others.

The service does the same with excluded items left out (`service.recall.cpu.exact_search`), and uses
the functions of this module.

Shapes: B queries, V catalogue, P positions of items (V padded to whole blocks), D width, E the
width padded to a multiple of four, K hits.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_gemm import multiply, quantise_query, row_addresses
from index.kernels.int8_layout import (
    BLOCK_ITEMS,
    FOUR,
    LOWEST,
    MAX_SCORES,
    Int8Blocks,
    Int16s,
    fill_blocks,
    max_level,
    score_shift,
    step_size,
)
from index.kernels.jit import Integer, compiled, inlined
from index.kernels.topk import TopKWorkspace, find_candidates, key_row, key_score, rescore

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

CHUNK = 256 * BLOCK_ITEMS  # items that are rounded at a time: their floats stay in the cache
SUM_ERROR = 1e-5  # relative error of an inner product that is summed in floats


class Int8Catalogue(NamedTuple):
    """Item vectors, and their 8-bit form."""

    vectors_VD: Vectors
    rotation_DD: Vectors
    blocks: Int8Blocks
    step: float  # the value of an integer step
    max_error: float  # the largest |v - v'|
    max_length: float  # the largest |v'|, in steps
    max_level: int  # of a component of a query, to either side of zero
    shift: int  # bits by which sums are shifted to the right

    @staticmethod
    def of(vectors_VD: Vectors) -> "Int8Catalogue":
        """Rounds vectors of any lengths to 8 bits. They are kept, not copied, and may be mapped."""
        items, width = vectors_VD.shape
        rotation_DD = _rotation(width)
        chunks = partial(_rotated, vectors_VD, rotation_DD)
        largest = max(float(np.abs(turned_ND).max()) for _, turned_ND in chunks())
        step, max_error, max_length = step_size(largest), 0.0, 0.0
        blocks = Int8Blocks.allocate(-(-items // BLOCK_ITEMS), width)
        for first, turned_ND in chunks():
            steps_ND = np.rint(turned_ND / np.float32(step))
            fill_blocks(blocks, first // BLOCK_ITEMS, steps_ND.astype(np.int8))
            errors_N = np.linalg.norm(turned_ND - steps_ND * np.float32(step), axis=1)
            max_error = max(max_error, float(errors_N.max()))
            max_length = max(max_length, float(np.linalg.norm(steps_ND, axis=1).max()))
        shift = score_shift(max_length, width)
        return Int8Catalogue(
            vectors_VD, rotation_DD, blocks, step, max_error, max_length, max_level(), shift
        )

    @property
    def max_queries(self) -> int:
        """Queries that are scored at a time, so that their scores take 128 MiB or little more."""
        return max(1, MAX_SCORES // len(self.blocks.start_P))


class Int8Scores(NamedTuple):
    """Queries in 8 bits, and their scores of all items; memory that is used again."""

    levels_BE: NDArray[np.uint8]
    scores_BP: Int16s  # `LOWEST` for padding
    slack_B: Rows  # twice the bound of the error, in units of the scores

    @staticmethod
    def allocate(
        queries: int, catalogue: Int8Catalogue, positions: int | None = None
    ) -> "Int8Scores":
        """Allocates memory for up to `queries` queries, and their scores of all positions."""
        _, groups, _ = catalogue.blocks.items_NQ64.shape
        positions = len(catalogue.blocks.start_P) if positions is None else positions
        return Int8Scores(
            np.zeros((queries, groups * FOUR), np.uint8),
            np.empty((queries, positions), np.int16),
            np.empty(queries, np.int64),
        )


class ExactIndex:
    """Searches the whole catalogue in one thread, in memory that is used again."""

    kind = "exact"

    def __init__(self, vectors_VD: Vectors, gathered_share: float | None = None) -> None:
        """Takes the share up to which selections are gathered, where it was measured."""
        self.gathered_share = gathered_share
        self.catalogue = Int8Catalogue.of(vectors_VD)
        self._scores = Int8Scores.allocate(0, self.catalogue)
        self._workspace = TopKWorkspace.allocate(len(self.catalogue.blocks.start_P))

    def search(self, queries_BD: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Returns the k highest inner products of each query, best first, and their rows: B K.

        K is the size of the catalogue if that is less than k.
        """
        k = min(k, len(self.catalogue.vectors_VD))
        at_once = max(1, min(len(queries_BD), self.catalogue.max_queries))
        if len(self._scores.slack_B) < at_once:
            self._scores = Int8Scores.allocate(at_once, self.catalogue)
        scores_BK = np.empty((len(queries_BD), k), dtype=np.float32)
        rows_BK = np.empty((len(queries_BD), k), dtype=np.int64)
        _search(self.catalogue, queries_BD, self._scores, self._workspace, scores_BK, rows_BK)
        return scores_BK, rows_BK


@compiled
def _search(
    catalogue: Int8Catalogue,
    queries_BD: Vectors,
    scores: Int8Scores,
    workspace: TopKWorkspace,
    scores_BK: Vectors,
    rows_BK: Rows,
) -> None:
    """Writes the best hits of each query; scores as many at once as `scores` has memory for."""
    vectors_VD, k, at_once = catalogue.vectors_VD, rows_BK.shape[1], len(scores.slack_B)
    for first in range(0, len(queries_BD), at_once):
        part_BD = queries_BD[first : first + at_once]
        score_all(catalogue, part_BD, scores)
        for at in range(len(part_BD)):
            scores_P, slack, query = scores.scores_BP[at], scores.slack_B[at], first + at
            positions_N = find_candidates(scores_P, k, slack, workspace)
            keys_K = rescore(part_BD[at], vectors_VD, positions_N, k, workspace)
            for rank in range(k):
                key = keys_K[rank]
                scores_BK[query, rank], rows_BK[query, rank] = key_score(key), key_row(key)


@inlined
def score_all(catalogue: Int8Catalogue, queries_BD: Vectors, scores: Int8Scores) -> None:
    """Writes the scores of all items for each query, and their slack."""
    score_blocks(catalogue, catalogue.blocks, len(catalogue.vectors_VD), queries_BD, scores)


@inlined
def score_blocks(
    catalogue: Int8Catalogue,
    blocks: Int8Blocks,
    items: Integer,
    queries_BD: Vectors,
    scores: Int8Scores,
) -> None:
    """Writes the scores of the first `items` of these blocks for each query, and their slack."""
    queries = len(queries_BD)
    for query in range(queries):
        query_D, levels_E = queries_BD[query], scores.levels_BE[query]
        scores.slack_B[query] = _quantise_query(catalogue, query_D, levels_E)
    levels_T = row_addresses(scores.levels_BE[:queries])
    scores_T = row_addresses(scores.scores_BP[:queries])
    multiply(blocks, levels_T, scores_T, catalogue.shift)
    for query in range(queries):
        scores.scores_BP[query, items:] = LOWEST


@inlined
def _quantise_query(
    catalogue: Int8Catalogue, query_D: Vectors, levels_E: NDArray[np.uint8]
) -> Integer:
    """Rotates a query and rounds it to 8 bits; returns the slack of its scores."""
    turned_D, zero = np.empty(len(query_D), dtype=np.float32), catalogue.max_level + 1
    np.dot(query_D, catalogue.rotation_DD, turned_D)
    step = quantise_query(turned_D, catalogue.max_level, levels_E)
    error_square = square = 0.0
    for component in range(len(turned_D)):
        value = turned_D[component]
        error_square += (value - (levels_E[component] - zero) * step) ** 2
        square += value**2
    item_length = catalogue.max_length * catalogue.step
    item_error = catalogue.max_error + SUM_ERROR * item_length
    error = np.sqrt(error_square) * item_length + np.sqrt(square) * item_error
    unit = np.float64(step) * catalogue.step * (1 << catalogue.shift)
    return np.int64(2 * error / unit) + 2  # the shift rounds down, and so does this


def _rotated(vectors_VD: Vectors, rotation_DD: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Yields the rotated vectors in chunks, each with its first row."""
    for first in range(0, len(vectors_VD), CHUNK):
        yield first, vectors_VD[first : first + CHUNK] @ rotation_DD


def _rotation(width: int) -> Vectors:
    """Returns a random rotation D D, the same one every time."""
    drawn_DD = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    return np.ascontiguousarray(np.linalg.qr(drawn_DD).Q)
