"""The index of a bundle, loaded for search by inner product on a CPU.

Shapes: B queries, V catalogue, D width, K hits.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.exact import ExactIndex, Int8Catalogue
from index.formats import LISTS_FILE, read_index_json
from index.ivf.layout import read_layout
from index.ivf.search import MISSING, IvfSearch
from index.kernels.masks import Masks
from index.selection import Selection, SelectionSearch

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


SMALL, SHARE_OF_SMALL = 50_000, 0.02
"""A catalogue of fewer items, and the share of it up to which a selection is gathered. All of it is
scored in microseconds, once for all queries of a batch, whereas gathered items serve the queries of
one filter. At 12,000 items, masks are faster at a twentieth in batches of 16 with eight filters."""
GATHERED_SHARE, GATHERED_ITEMS = 0.25, 100_000
"""The same share for larger catalogues, and a number of items that may be gathered in any case from
inverted lists. Both hold where the build of the index has measured no share (`index.crossover`)."""
GROWTH = 0.85
"""The best hits among half of the items are among the best of all, twice as many. If those are x
times as many as the search was measured with, x to this power as many lists are searched."""


class IvfIndex:
    """Inverted lists, with the effort that was measured to find the wanted share of the hits."""

    kind = "ivf"

    def __init__(self, lists: Any, content: dict[str, Any], vectors_VD: Vectors) -> None:
        """`lists` is what `train_lists` returned for the vectors; `content` is of index.json."""
        self.layout = read_layout(lists, vectors_VD)
        self.gathered_share = _gathered_share(content)
        self._search = IvfSearch(self.layout)
        self._items = len(vectors_VD)
        self._nprobe = int(content["parameters"]["nprobe"])
        self._measured_hits = int(content["measured"]["hits"])

    @property
    def lists(self) -> int:
        """The number of lists."""
        return self._search.lists

    def search(self, queries_BD: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Returns the k highest inner products of each query, best first, and their rows: B K.

        Some of the exact hits may be missing, but there are k hits all the same; K is the size of
        the catalogue if that is less.
        """
        k = min(k, self._items)
        nprobe = self.effort(k)
        scores_BK, rows_BK = self._search.search(queries_BD, k, nprobe)
        short_B = (rows_BK == MISSING).any(axis=1)
        if short_B.any():  # its lists hold less than k items
            found = self._search.search(queries_BD[short_B], k, self._search.lists)
            scores_BK[short_B], rows_BK[short_B] = found
        return scores_BK, rows_BK

    def search_selected(
        self, queries_BD: Vectors, k: int, selections_B: Sequence[Selection]
    ) -> tuple[Vectors, Rows]:
        """Returns the same as `search` within selections that are masks.

        All rows of a query are `MISSING` if lists are no way to search its selection.
        """
        k = min(k, self._items)
        masks = Masks.of([one.words_N for one in selections_B])
        numbers = dict(zip(masks.of_query_B.tolist(), selections_B, strict=True))
        items_FL = np.stack([numbers[f].lists.items_L for f in range(len(numbers))])
        efforts_B = np.array([self.effort(k, one.items) for one in selections_B], dtype=np.int32)
        return self._search.search_masked(queries_BD, k, masks, items_FL, efforts_B)

    def search_lists(self, queries_BD: Vectors, k: int, lists: int) -> tuple[Vectors, Rows]:
        """Returns the same among this many lists; rows are `MISSING` if they hold less."""
        return self._search.search(queries_BD, min(k, self._items), lists)

    def effort(self, k: int, items: int | None = None) -> int:
        """Returns the lists that k hits take, among this many items or all of them."""
        items = self._items if items is None else items
        # The recall was measured with a number of hits: more of them take more lists.
        hits = k / self._measured_hits
        lists = self._nprobe * max(1.0, hits)
        if items < self._items:
            share = max(items, 1) / self._items
            lists *= max(1.0, min(1.0, hits) / share) ** GROWTH
        return min(math.ceil(lists), self._search.lists)


def selection_search(
    index: ExactIndex | IvfIndex, gathered_share: float | None = None
) -> SelectionSearch:
    """Returns the search among the items that a filter allows, over the codes of the index.

    Selections are gathered up to a share of the items: the given one, else the one that was
    measured, else a constant.
    """
    if gathered_share is None:
        gathered_share = index.gathered_share
    if isinstance(index, ExactIndex):
        rows_V = np.arange(len(index.catalogue.vectors_VD), dtype=np.int32)
        if gathered_share is None:
            gathered_share = SHARE_OF_SMALL if len(rows_V) < SMALL else GATHERED_SHARE
        return SelectionSearch(index.catalogue, rows_V, gathered_share)
    layout = index.layout
    if gathered_share is None:
        few = GATHERED_ITEMS / len(layout.vectors_VD)
        gathered_share = min(1.0, max(GATHERED_SHARE, few))
    catalogue = Int8Catalogue(
        layout.vectors_VD,
        layout.rotation_DD,
        layout.items,
        layout.step,
        layout.max_error,
        layout.max_length,
        layout.max_level,
        layout.items_shift,
    )
    return SelectionSearch(catalogue, layout.rows_P, gathered_share, layout.offsets_L)


def load_index(folder: Path, vectors_VD: Vectors, vectors_sha256: str) -> ExactIndex | IvfIndex:
    """Returns the index of a bundle with these vectors, which may be mapped.

    Raises ValueError, with the name of the file, if it is damaged or of other vectors.
    """
    try:
        content = read_index_json(folder)
        described = content["items"], content["dim"], content["vectors_sha256"]
        if described != (*vectors_VD.shape, vectors_sha256):
            raise ValueError("it was built from other item vectors")
        if content["kind"] == "exact":
            return ExactIndex(vectors_VD, _gathered_share(content))
        return IvfIndex(faiss.read_index(str(folder / LISTS_FILE)), content, vectors_VD)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the index in {folder} cannot be used: {error}") from error


def _gathered_share(content: dict[str, Any]) -> float | None:
    """Returns the share of index.json up to which selections are gathered, None without one.

    Raises ValueError if it is no share.
    """
    share = content.get("filters", {}).get("gathered_share")
    if share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
        raise ValueError(f"filters.gathered_share is {share!r}, and should be from 0 to 1")
    return share
