"""The diversity of lists whose items have genres.

Shapes: B lists, K items of a list, V catalogue, G genres.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.data.dataset import IntArray


def genre_vectors(items: pl.DataFrame, column: str) -> NDArray[np.float32] | None:
    """Returns the genres of every item as unit vectors V + 1 G, or None if items have no genres.

    An item without genres has the vector 0; so has the last row, which stands for no item.
    """
    if not isinstance(items.schema.get(column), pl.List):
        return None
    pairs = items.select(pl.col(column)).with_row_index("row").explode(column, empty_as_null=True)
    pairs = pairs.drop_nulls().unique()
    names = pairs[column].unique().sort()
    genre_E = pairs[column].replace_strict(names, np.arange(len(names))).to_numpy()
    genres_VG = np.zeros((items.height + 1, len(names)), dtype=np.float32)
    genres_VG[pairs["row"].to_numpy(), genre_E] = 1
    lengths_V = np.linalg.norm(genres_VG, axis=1, keepdims=True)
    vectors: NDArray[np.float32] = genres_VG / np.maximum(lengths_V, 1)
    return vectors


def diversities(lists_BK: IntArray, genres_VG: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the mean of 1 - cosine over the pairs of each list's items with genres: B."""
    vectors_BKG = genres_VG[lists_BK]
    counts_B = vectors_BKG.any(axis=2).sum(axis=1)
    squared_B = (vectors_BKG.sum(axis=1) ** 2).sum(axis=1)  # the pairs, and each item with itself
    pairs_B = np.maximum(counts_B * (counts_B - 1), 1)
    alike_B: NDArray[np.float32] = (squared_B - counts_B) / pairs_B
    return np.where(counts_B > 1, 1 - alike_B, 0).astype(np.float32)
