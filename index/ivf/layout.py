"""A large catalogue in inverted lists of 8-bit codes: trained and stored by Faiss, searched by us.

An inverted file (IVF) puts each item into the list of its nearest centroid. A query looks only into
the lists whose centroids are nearest to it. Faiss finds the centroids (k-means), assigns the items
and writes `index.faiss`: a random rotation, then lists of 8-bit codes (`ScalarQuantizer`, one step
size for all components).

Here the codes are brought into the blocks of `index.kernels.int8_layout`, list after list in one
array; each list is padded to whole blocks, so that it begins with a block of its own:

    block       0    1    2  |  3  |  4    5  | …
    list        0    0    0  |  1  |  2    2  | …
    positions   0   16   32  | 48  | 64   80  | …    of a block's first item

List l has the blocks from `offsets_L[l]` to `offsets_L[l + 1]`. `rows_P` names the catalogue's row
at each position. A sum at a padded position starts so low that the item is never found. Centroids
are 8-bit integers in blocks as well, so the nearest ones are found by the same products as items.

Shapes: V catalogue, D width, L lists (L + 1 offsets), P positions of items, N items of a list.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_layout import (
    BLOCK_ITEMS,
    Int8Blocks,
    fill_blocks,
    max_level,
    score_shift,
    step_size,
)

CODES = faiss.ScalarQuantizer.QT_8bit_uniform
CODE_ZERO = 128  # the code in the middle; what it stands for is the same for all items of a query
PADDING_START = -(1 << 30)  # what the sum of a padded position starts from
NO_ROW = -1
KMEANS_ROUNDS = 12
LIST_SAMPLE = 50  # items that a list is trained on; Faiss wants at least 39
MIN_SAMPLE = 20_000
CHUNK = 100_000  # items that are added at a time, so that a mapped table is never copied whole


class IvfLayout(NamedTuple):
    """Items by list, and the centroids of the lists."""

    rotation_DD: NDArray[np.float32]  # of queries; items and centroids are rotated already
    centroids: Int8Blocks
    centroids_shift: int
    items: Int8Blocks
    items_shift: int
    offsets_L: NDArray[np.int32]  # where lists begin, in blocks, and where the last one ends
    rows_P: NDArray[np.int32]  # of the catalogue; NO_ROW for padding
    vectors_VD: NDArray[np.float32]  # in the order of the catalogue
    max_level: int  # of a component of a query
    step: float  # the value of an integer step of an item's component
    max_error: float  # the largest distance between an item and its code
    max_length: float  # of a code, in steps


def list_count(items: int) -> int:
    """Returns how many lists suit a catalogue: about four times the root of its size."""
    suitable = 1 << round(math.log2(4 * math.sqrt(items + 1)))
    return max(1, min(suitable, items // LIST_SAMPLE))


def train_lists(vectors_VD: NDArray[np.float32]) -> Any:
    """Returns a Faiss index with all items in inverted lists."""
    items, width = vectors_VD.shape
    lists = list_count(items)
    inverted = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, CODES, faiss.METRIC_INNER_PRODUCT, False
    )
    inverted.cp.niter = KMEANS_ROUNDS
    rotation = faiss.RandomRotationMatrix(width, width)
    rotation.init(0)
    index: Any = faiss.IndexPreTransform(rotation, inverted)
    shuffled = np.random.default_rng(0).permutation(items)
    index.train(vectors_VD[np.sort(shuffled[: max(LIST_SAMPLE * lists, MIN_SAMPLE)])])
    for first in range(0, items, CHUNK):
        index.add(vectors_VD[first : first + CHUNK])
    return index


def read_layout(index: Any, vectors_VD: NDArray[np.float32]) -> IvfLayout:
    """Returns the layout of an index of `train_lists`, which was trained on these vectors.

    Raises ValueError for any other index.
    """
    inverted = faiss.downcast_index(index.index) if hasattr(index, "chain") else None
    if not isinstance(inverted, faiss.IndexIVFScalarQuantizer) or inverted.sq.qtype != CODES:
        raise ValueError("its lists are those of another version of recgpt: export it again")
    width = inverted.d
    if vectors_VD.shape != (index.ntotal, width):
        raise ValueError(f"it holds {index.ntotal} vectors, and the bundle {vectors_VD.shape}")
    rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    centroids, centroids_shift = _centroids(inverted)
    rotation_DD = faiss.vector_to_array(rotation.A).reshape(width, width).T.copy()
    turned = partial(_turned, np.asarray(vectors_VD), rotation_DD)
    items, offsets_L, rows_P, step, max_error, max_length = _read_lists(inverted, turned)
    return IvfLayout(
        rotation_DD,
        centroids,
        centroids_shift,
        items,
        score_shift(max_length, width),
        offsets_L,
        rows_P,
        np.asarray(vectors_VD),
        max_level(),
        step,
        max_error,
        max_length,
    )


def _turned(
    vectors_VD: NDArray[np.float32], rotation_DD: NDArray[np.float32], rows_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Returns the rotated vectors of some rows, N D."""
    turned_ND: NDArray[np.float32] = vectors_VD[rows_N] @ rotation_DD
    return turned_ND


def _centroids(inverted: Any) -> tuple[Int8Blocks, int]:
    """Returns the centroids in blocks, and the shift of their scores."""
    centroids_LD = inverted.quantizer.reconstruct_n(0, inverted.nlist)
    step = step_size(float(np.abs(centroids_LD).max()))
    steps_LD = np.rint(centroids_LD / np.float32(step))
    shift = score_shift(float(np.linalg.norm(steps_LD, axis=1).max()), inverted.d)
    return Int8Blocks.of(steps_LD.astype(np.int8)), shift


def _read_lists(
    inverted: Any, turned: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> tuple[Int8Blocks, NDArray[np.int32], NDArray[np.int32], float, float, float]:
    """Returns items in blocks, list offsets, rows, the step, the largest error and length.

    The code c stands for the component `low + (c + 1/2) step`, up to the item's error.
    """
    lists, width, max_error, max_length = inverted.invlists, inverted.d, 0.0, 0.0
    low, span = faiss.vector_to_array(inverted.sq.trained).tolist()
    step = span / 255
    middle = np.float32(low + (CODE_ZERO + 0.5) * step)
    sizes_L = np.array([lists.list_size(number) for number in range(inverted.nlist)])
    offsets_L = np.array([0, *(-(-sizes_L // BLOCK_ITEMS)).cumsum()], dtype=np.int32)
    items = Int8Blocks.allocate(int(offsets_L[-1]), width)
    rows_P = np.full(len(items.start_P), NO_ROW, dtype=np.int32)
    for number, size in enumerate(sizes_L.tolist()):
        if not size:
            continue
        codes_ND = faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(size, width)
        steps_ND = codes_ND.view(np.int8) ^ np.int8(-CODE_ZERO)  # the code less CODE_ZERO
        fill_blocks(items, offsets_L[number], steps_ND)
        first, end = offsets_L[number] * BLOCK_ITEMS, offsets_L[number + 1] * BLOCK_ITEMS
        rows_N = faiss.rev_swig_ptr(lists.get_ids(number), size)
        rows_P[first : first + size] = rows_N
        items.start_P[first + size : end] = PADDING_START
        values_ND = steps_ND.astype(np.float32)
        max_length = max(max_length, float(np.linalg.norm(values_ND, axis=1).max()))
        values_ND *= np.float32(step)
        values_ND += middle
        errors_N = np.linalg.norm(turned(rows_N) - values_ND, axis=1)
        max_error = max(max_error, float(errors_N.max()))
    return items, offsets_L, rows_P, step, max_error, max_length
