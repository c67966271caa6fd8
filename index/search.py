"""Search of the catalogue by inner product, on a CPU.

Shapes: B queries, V catalogue, D width, K hits.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.benchmark import prefer_products
from index.formats import Kind, Parameters, widened
from index.index_json import CARD_FILE, INDEX_FILE, read_card
from index.ivf.layout import lists_of
from index.ivf.search import MISSING, ListSearch


class ItemIndex:
    """A loaded index."""

    def __init__(self, index: Any, card: dict[str, Any], vectors_VD: NDArray[np.float32]) -> None:
        self.items, self.dim = int(index.ntotal), int(index.d)
        self.kind: Kind = card["kind"]
        self.vectors_sha256 = str(card["vectors_sha256"])
        self._parameters: Parameters = card["parameters"]
        self._measured_hits = int(card["measured_with"]["hits"]) if self._parameters else 0
        self._faiss = index
        self._lists: ListSearch | None = None
        if self.kind == "ivf":
            self._faiss, self._lists = None, ListSearch(lists_of(index, vectors_VD))
        prefer_products(self.dim)

    @classmethod
    def load(cls, folder: Path, vectors_VD: NDArray[np.float32]) -> "ItemIndex":
        """Read what `build_index` wrote of these vectors, which may be mapped.

        Raises ValueError naming the file that does not fit.
        """
        try:
            card = read_card(folder)
            index = faiss.read_index(str(folder / INDEX_FILE))
            loaded = cls(index, card, vectors_VD)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"the index in {folder} cannot be read: {error}") from error
        if (loaded.items, loaded.dim) != (card["items"], card["dim"]):
            raise ValueError(f"{folder / INDEX_FILE} is not the index that {CARD_FILE} describes")
        return loaded

    def search(
        self, queries_BD: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k highest inner products, best first, and the rows that they are of: B K each.

        An approximate index may miss some of them, as its card says; it gives k rows all the same.
        Where fewer than k rows exist, K is the catalogue's size.
        """
        k = min(k, self.items)
        if not self._lists:
            scores_BK, rows_BK = self._faiss.search(queries_BD, k)
            return scores_BK, rows_BK
        # The recall was measured at so many hits: more of them take more effort.
        told = widened(self._parameters, max(1.0, k / self._measured_hits))
        scores_BK, rows_BK = self._lists.search(queries_BD, k, told["nprobe"])
        short_B = (rows_BK == MISSING).any(axis=1)
        if short_B.any():  # it ended with too few: callers rely on k rows
            everything = self._lists.search(queries_BD[short_B], k, told["lists"])
            scores_BK[short_B], rows_BK[short_B] = everything
        return scores_BK, rows_BK
