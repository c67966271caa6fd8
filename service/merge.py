"""Several interests' hits into one list: quotas, no duplicates, nothing seen, back-fill.

Shapes: M interests, F fetched hits an interest, K candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POPULAR = -1  # the "interest" of a back-filled item


class Merged(NamedTuple):
    """One user's candidates, best first."""

    rows_K: NDArray[np.int64]
    scores_K: NDArray[np.float32]
    interests_K: NDArray[np.int64]


def merge(
    rows_MF: Sequence[NDArray[np.int64]],
    scores_MF: Sequence[NDArray[np.float32]],
    closed: NDArray[np.int64],
    quotas_M: Sequence[int],
) -> Merged:
    """Interest i gives its best `quotas_M[i]` hits that are neither closed nor given before.

    Where the interests' hits run short of their quotas, the rest of the hits fills the list, in
    the order of the interests. The list is shorter than the quotas' sum only when hits run out.
    """
    k = sum(quotas_M)
    sizes_M = [len(rows_F) for rows_F in rows_MF]
    rows = np.concatenate(rows_MF)
    interests = np.repeat(np.arange(len(rows_MF)), sizes_M)
    open_hits = np.flatnonzero((rows >= 0) & ~np.isin(rows, closed))
    given: list[NDArray[np.int64]] = []
    for interest, quota in enumerate(quotas_M):
        own = open_hits[interests[open_hits] == interest]
        if given:
            own = own[~np.isin(rows[own], rows[np.concatenate(given)])]
        given.append(own[:quota])
    picked = np.concatenate(given)
    if len(picked) < k:
        rest = open_hits[~np.isin(rows[open_hits], rows[picked])]
        _, first = np.unique(rows[rest], return_index=True)
        picked = np.concatenate([picked, rest[np.sort(first)][: k - len(picked)]])
    return Merged(rows[picked], np.concatenate(scores_MF)[picked], interests[picked])


def backfill(
    merged: Merged, popular_V: NDArray[np.int64], closed: NDArray[np.int64], k: int
) -> Merged:
    """Fill a list up to k with the most popular items that are neither closed nor in it.

    They carry the score 0 and the interest `POPULAR`. Where the catalogue ends, so does the list.
    """
    missing = k - len(merged.rows_K)
    if missing <= 0:
        return merged
    closed = np.concatenate([closed, merged.rows_K])
    first = popular_V[: missing + len(closed)]
    extra = first[~np.isin(first, closed)][:missing]
    return Merged(
        np.concatenate([merged.rows_K, extra]),
        np.concatenate([merged.scores_K, np.zeros(len(extra), dtype=np.float32)]),
        np.concatenate([merged.interests_K, np.full(len(extra), POPULAR)]),
    )
