"""Exact search among the items that a filter allows.

A filter becomes a selection, in one of two forms:

Gathered  few allowed items: their 8-bit vectors are copied side by side, and all of them are
          scored. The cost is that of a catalogue of this size.
mask      many allowed items: a bit for each position of the catalogue. Everything is scored, once
          for all queries of a batch, and the scores of positions without their bit are set to the
          lowest value before the best are looked for.

So the score that an item must reach is that of the best allowed items, and the hits are those of
sorting the inner products of all allowed items (`index.exact`). A catalogue in inverted lists is an
exception: its recall is below 1 anyway. Of more gathered items than `EXACT_ITEMS`, only those are
scored again that `likely_slack` leaves. Items can also be taken out of a selection after it was
made (`Selection.without`), which is cheap, so that an item can be hidden at any time.

Shapes: V catalogue, P positions of items (a multiple of 16), N blocks of 16 positions, B queries, D
width, K hits, S selected items, F filters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from index.exact import Int8Catalogue, Int8Scores, Rows, Vectors, score_blocks
from index.ivf.layout import NO_ROW, PADDING_START
from index.ivf.search import MISSING
from index.kernels.int8_layout import BLOCK_ITEMS, FOUR, Int8Blocks
from index.kernels.jit import Integer, compiled, inner
from index.kernels.masks import NO_MASKS, Bools, Int32s, Masks, Words, mask_scores, pack
from index.kernels.topk import TopKWorkspace, find_candidates, key_row, key_score, rescore

EXACT_ITEMS = 20_000
"""Gathered items of a catalogue in lists up to which hits are exact: of 50,000, five hundred would
have to be scored again, which takes longer than all 8-bit scores."""
DEVIATIONS = 4.0
"""Standard deviations of a rounding error that are taken into account beyond `EXACT_ITEMS`."""


class Gathered(NamedTuple):
    """Some items of a catalogue side by side, or all of them."""

    blocks: Int8Blocks
    rows_S: Int32s  # of the catalogue; NO_ROW for what must not be found


class ListCounts(NamedTuple):
    """The selected items by inverted list."""

    offsets_L: Int32s  # where lists begin, in blocks, and where the last one ends
    items_L: Int32s  # selected items of each list


class Selection(NamedTuple):
    """The items that a filter allows, in one form; the other one is None."""

    items: int
    words_N: Words | None
    gathered: Gathered | None
    lists: ListCounts | None = None  # of a mask over inverted lists

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        if self.gathered:
            blocks, rows_S = self.gathered
            return blocks.items_NQ64.nbytes + blocks.start_P.nbytes + rows_S.nbytes
        assert self.words_N is not None
        return self.words_N.nbytes + (self.lists.items_L.nbytes if self.lists else 0)

    def without(self, hidden_V: Bools, visible_N: Words) -> "Selection":
        """Returns the selection without hidden items.

        They are given twice, the second time by the bits of the positions of all other items.
        """
        if self.words_N is not None:
            return masked(self.words_N & visible_N, self.lists and self.lists.offsets_L)
        assert self.gathered is not None
        blocks, rows_S = self.gathered
        hidden_S = hidden_V[rows_S]
        start_P = blocks.start_P.copy()
        start_P[: len(rows_S)][hidden_S] = PADDING_START
        left_S = np.where(hidden_S, np.int32(NO_ROW), rows_S)
        gathered = Gathered(blocks._replace(start_P=start_P), left_S)
        return Selection(int(np.count_nonzero(~hidden_S)), None, gathered)


def masked(words_N: Words, offsets_L: Int32s | None) -> Selection:
    """Returns the selection of a mask; the offsets are those of inverted lists if there are any."""
    ends_N = np.cumsum(np.bitwise_count(words_N), dtype=np.int32)
    items = int(ends_N[-1]) if len(ends_N) else 0
    if offsets_L is None:
        return Selection(items, words_N, None)
    ends_L = np.concatenate([[np.int32(0)], ends_N])[offsets_L]
    return Selection(items, words_N, None, ListCounts(offsets_L, np.diff(ends_L)))


def gather(catalogue: Int8Catalogue, positions_S: Int32s, rows_S: Int32s) -> Gathered:
    """Copies the items at these positions of the catalogue's blocks, which are of these rows."""
    groups = catalogue.blocks.items_NQ64.shape[1]
    blocks = Int8Blocks.allocate(-(-len(rows_S) // BLOCK_ITEMS), groups * FOUR)
    _copy_items(catalogue.blocks, positions_S, blocks)
    return Gathered(blocks, rows_S)


class SelectionSearch:
    """Makes and searches selections of a catalogue in one thread, in memory that is used again."""

    def __init__(
        self,
        catalogue: Int8Catalogue,
        rows_P: Int32s,
        gathered_share: float,
        offsets_L: Int32s | None = None,
    ) -> None:
        """Takes the row at each position of the catalogue's blocks, negative for padding.

        A selection of up to `gathered_share` of the items is gathered, a larger one is a mask. The
        offsets are those of inverted lists, in blocks, if the catalogue is in such.
        """
        self._offsets_L = offsets_L
        self._catalogue = catalogue
        self._everything = Gathered(catalogue.blocks, rows_P)
        inside_P = rows_P >= 0
        self._positions_V = np.empty(np.count_nonzero(inside_P), dtype=np.int32)
        self._positions_V[rows_P[inside_P]] = np.flatnonzero(inside_P)
        self._max_gathered = int(gathered_share * len(self._positions_V))
        self._hidden: tuple[Bools, Words] | None = None
        self._scores = np.empty(0, dtype=np.int16)
        self._of_queries = Int8Scores.allocate(0, catalogue)
        self._workspace = TopKWorkspace.allocate(0)

    def select(self, allowed_V: Bools) -> Selection:
        """Returns the selection of these rows."""
        rows_S = np.flatnonzero(allowed_V).astype(np.int32)
        if len(rows_S) > self._max_gathered:
            return masked(self.mask(allowed_V), self._offsets_L)
        gathered = gather(self._catalogue, self._positions_V[rows_S], rows_S)
        return Selection(len(rows_S), None, gathered)

    def set_hidden(self, hidden_V: Bools) -> None:
        """Changes which items `visible` takes out."""
        self._hidden = (hidden_V, self.mask(~hidden_V)) if hidden_V.any() else None

    def visible(self, selection: Selection) -> Selection:
        """Returns the selection without hidden items."""
        return selection.without(*self._hidden) if self._hidden else selection

    def mask(self, allowed_V: Bools) -> Words:
        """Returns a bit for each position of the catalogue's blocks, 0 for padding."""
        allowed_P = np.zeros(len(self._everything.blocks.start_P), dtype=np.bool_)
        allowed_P[self._positions_V] = allowed_V
        return pack(allowed_P)

    def search_gathered(
        self, gathered: Gathered, queries_BD: Vectors, k: int
    ) -> tuple[Vectors, Rows]:
        """Returns the k highest inner products of each query, best first, and their rows: B K.

        If there are less than k items, the remaining rows are `MISSING`.
        """
        exact = self._offsets_L is None or len(gathered.rows_S) <= EXACT_ITEMS
        return self._hits(gathered, queries_BD, k, NO_MASKS, exact)

    def search_masked(
        self, words: Sequence[Words | None], queries_BD: Vectors, k: int
    ) -> tuple[Vectors, Rows]:
        """Does the same for queries with a mask each; None allows all items."""
        return self._hits(self._everything, queries_BD, k, Masks.of(words), exact=True)

    def _hits(
        self, items: Gathered, queries_BD: Vectors, k: int, masks: Masks, exact: bool
    ) -> tuple[Vectors, Rows]:
        scores_BK = np.zeros((len(queries_BD), k), dtype=np.float32)
        rows_BK = np.empty((len(queries_BD), k), dtype=np.int64)
        memory = self._reserve(len(queries_BD), len(items.blocks.start_P)), self._workspace
        _search(self._catalogue, items, masks, exact, queries_BD, *memory, scores_BK, rows_BK)
        return scores_BK, rows_BK

    def _reserve(self, queries: int, positions: int) -> Int8Scores:
        """Returns memory for the scores of the queries, or of as many as are scored at once."""
        queries = min(queries, self._catalogue.max_queries)
        if len(self._of_queries.slack_B) < queries:
            self._of_queries = Int8Scores.allocate(queries, self._catalogue, positions=0)
        if len(self._scores) < queries * positions:
            self._scores = np.empty(queries * positions, dtype=np.int16)
        if len(self._workspace.positions_P) < positions:
            self._workspace = TopKWorkspace.allocate(positions)
        levels_BE, _, slack_B = self._of_queries
        scores_BP = self._scores[: queries * positions].reshape(queries, positions)
        return Int8Scores(levels_BE[:queries], scores_BP, slack_B[:queries])


@compiled
def _copy_items(source: Int8Blocks, positions_S: Int32s, target: Int8Blocks) -> None:
    """Copies items into blocks; the padding behind the last one is zero."""
    source_NQ16 = source.items_NQ64.view(np.int32)  # the four components of a group are one number
    target_NQ16 = target.items_NQ64.view(np.int32)
    groups = source_NQ16.shape[1]
    for at in range(len(target.start_P)):
        block, item = at // BLOCK_ITEMS, at % BLOCK_ITEMS
        if at >= len(positions_S):
            target_NQ16[block, :, item] = 0
            target.start_P[at] = 0
            continue
        position = positions_S[at]
        from_block, from_item = position // BLOCK_ITEMS, position % BLOCK_ITEMS
        for group in range(groups):
            target_NQ16[block, group, item] = source_NQ16[from_block, group, from_item]
        target.start_P[at] = source.start_P[position]


@compiled
def _search(
    catalogue: Int8Catalogue,
    items: Gathered,
    masks: Masks,
    exact: bool,
    queries_BD: Vectors,
    scores: Int8Scores,
    workspace: TopKWorkspace,
    scores_BK: Vectors,
    rows_BK: Rows,
) -> None:
    """Writes the best hits of each query; scores as many at once as `scores` has memory for."""
    at_once, rows_S, k = len(scores.slack_B), items.rows_S, rows_BK.shape[1]
    width = queries_BD.shape[1]
    for first in range(0, len(queries_BD), at_once):
        part_BD = queries_BD[first : first + at_once]
        score_blocks(catalogue, items.blocks, len(rows_S), part_BD, scores)
        for at in range(len(part_BD)):
            scores_P, query, left = scores.scores_BP[at], first + at, 0
            mask_scores(masks, query, scores_P)
            slack = scores.slack_B[at] if exact else likely_slack(scores.slack_B[at], width)
            positions_N = find_candidates(scores_P, k, slack, workspace)
            for found in range(len(positions_N)):
                row = rows_S[positions_N[found]]
                positions_N[left] = row  # a row takes the place of a position that was read
                left += row != NO_ROW
            keys_K = rescore(part_BD[at], catalogue.vectors_VD, positions_N[:left], k, workspace)
            for rank in range(len(keys_K)):
                key = keys_K[rank]
                scores_BK[query, rank], rows_BK[query, rank] = key_score(key), key_row(key)
            rows_BK[query, len(keys_K) :] = MISSING


@inner
def likely_slack(slack: Integer, width: Integer) -> Integer:
    """Returns a slack that the errors of hardly any item exceed.

    The slack is twice the bound of an error, which is the product of the lengths of two vectors. It
    is reached if they point the same way; in random directions their inner product has a standard
    deviation of that product over √D.
    """
    return np.int64(slack / 2 * DEVIATIONS / np.sqrt(np.float64(width))) + 1
