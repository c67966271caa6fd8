"""A large catalogue in lists, in 8 bits: made and kept by Faiss, read here for `index.ivf.search`.

Shapes: V catalogue, D width, L lists, P places of items (a list is padded to whole blocks).
"""

from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_layout import (
    ITEMS,
    Blocks,
    blocks_of,
    levels,
    put,
    room_for,
    shift_of,
    steps_of,
)

CODES = faiss.ScalarQuantizer.QT_8bit_uniform
CODE_ZERO = 128  # what codes count from, here: the rest is the same for all items
NOTHING = -(1 << 30)  # what sums begin with where there is no item
NOBODY = -1
LIST_ROUNDS = 12


class Lists(NamedTuple):
    """Lists of items by their nearest centroid."""

    turn_DD: NDArray[np.float32]  # queries are turned by it, as items are
    centroids: Blocks
    centroids_shift: int
    items: Blocks
    items_shift: int
    ends_L: NDArray[np.int32]  # where each list's blocks end, and a 0 before
    rows_P: NDArray[np.int32]  # in the catalogue; NOBODY where a list is padded
    vectors_VD: NDArray[np.float32]  # in the catalogue's order
    levels: int  # of a query


def empty_index(width: int, lists: int) -> Any:
    """An index without items or centroids: a rotation, then lists of 8-bit codes."""
    inverted = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, CODES, faiss.METRIC_INNER_PRODUCT, False
    )
    inverted.cp.niter = LIST_ROUNDS
    rotation = faiss.RandomRotationMatrix(width, width)
    rotation.init(0)
    return faiss.IndexPreTransform(rotation, inverted)


def lists_of(index: Any, vectors_VD: NDArray[np.float32]) -> Lists:
    """Of such an index and the vectors it was made of. Raises ValueError for any other index."""
    inverted = faiss.downcast_index(index.index) if hasattr(index, "chain") else None
    if not isinstance(inverted, faiss.IndexIVFScalarQuantizer) or inverted.sq.qtype != CODES:
        raise ValueError("its lists are those of another version of recgpt: export it again")
    width = inverted.d
    if vectors_VD.shape != (index.ntotal, width):
        raise ValueError(f"it is of {index.ntotal} vectors, not of these: {vectors_VD.shape}")
    rotation: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    turn_DD = faiss.vector_to_array(rotation.A).reshape(width, width).T.copy()
    centroids_LD = inverted.quantizer.reconstruct_n(0, inverted.nlist)
    steps_LD, _ = steps_of(centroids_LD)
    items, ends_L, rows_P, longest = _read(inverted)
    return Lists(
        turn_DD,
        blocks_of(steps_LD.astype(np.int8)),
        shift_of(float(np.linalg.norm(steps_LD, axis=1).max()), width),
        items,
        shift_of(longest, width),
        ends_L,
        rows_P,
        np.asarray(vectors_VD),
        levels(),
    )


def _read(
    inverted: Any,
) -> tuple[Blocks, NDArray[np.int32], NDArray[np.int32], float]:
    """Items in blocks, where each list ends, the rows, and the length of the longest in steps."""
    lists, width, longest = inverted.invlists, inverted.d, 0.0
    sizes_L = np.array([lists.list_size(one) for one in range(inverted.nlist)])
    ends_L = np.array([0, *(-(-sizes_L // ITEMS)).cumsum()], dtype=np.int32)
    items = room_for(int(ends_L[-1]), width)
    rows_P = np.full(len(items.start_P), NOBODY, dtype=np.int32)
    for one, size in enumerate(sizes_L.tolist()):
        if not size:
            continue
        codes = faiss.rev_swig_ptr(lists.get_codes(one), size * width).reshape(size, width)
        steps_ND = codes.view(np.int8) ^ np.int8(-CODE_ZERO)  # takes CODE_ZERO away
        put(items, ends_L[one], steps_ND)
        first, end = ends_L[one] * ITEMS, ends_L[one + 1] * ITEMS
        rows_P[first : first + size] = faiss.rev_swig_ptr(lists.get_ids(one), size)
        items.start_P[first + size : end] = NOTHING
        longest = max(longest, float(np.linalg.norm(steps_ND.astype(np.float32), axis=1).max()))
    return items, ends_L, rows_P, longest
