"""The share of a catalogue up to which the items that a filter allows are gathered, measured.

A selection is gathered or a mask (`index.selection`). Few gathered items are faster, many are
slower than a mask; where they are equal depends on the processor, the width and the size of the
catalogue, so it is measured when an index is built.

Shapes: B queries, V catalogue, D width.
"""

import time
from collections.abc import Callable

import numpy as np

from index.benchmark import one_thread
from index.exact import ExactIndex, Rows, Vectors
from index.ivf.search import MISSING
from index.kernels.masks import Bools
from index.search import SMALL, IvfIndex, selection_search

SHARES = (0.05, 0.1, 0.25, 0.4, 0.6, 0.8)
MEASURED_FROM = SMALL
"""Items from which on it is measured; with fewer, both forms take a few microseconds."""
MAX_GATHERED = 1_000_000
"""Items that are gathered at most: a filter's selection takes their codes' memory."""
BATCH, SHARING = 8, 2
"""Queries of a batch, and how many of them have the same filter: masks share a scan of all items,
gathered items only the queries of a filter."""
ROUNDS = 5


def measure_gathered_share(
    index: ExactIndex | IvfIndex, queries_BD: Vectors, hits: int
) -> float | None:
    """Returns the largest of `SHARES` up to which gathered items are as fast as masks.

    It is the smallest of them if masks are always faster, and None for a small catalogue.
    """
    holder = index.catalogue if isinstance(index, ExactIndex) else index.layout
    items = len(holder.vectors_VD)
    if items < MEASURED_FROM:
        return None
    random_V = np.random.default_rng(0).random(items)
    batch_BD, found = queries_BD[:BATCH], SHARES[0]
    with one_thread():
        for share in SHARES:
            if share * items > MAX_GATHERED or _mask_is_faster(
                index, random_V < share, batch_BD, hits
            ):
                break
            found = share
    return found


def _mask_is_faster(
    index: ExactIndex | IvfIndex, allowed_V: Bools, batch_BD: Vectors, hits: int
) -> bool:
    gathering, masking = selection_search(index, 1.0), selection_search(index, 0.0)
    gathered = gathering.select(allowed_V).gathered
    filters = [masking.select(allowed_V) for _ in range(0, len(batch_BD), SHARING)]
    masks = [filters[query // SHARING] for query in range(len(batch_BD))]
    assert gathered

    def by_gathering() -> object:
        return [
            gathering.search_gathered(gathered, batch_BD[first : first + SHARING], hits)
            for first in range(0, len(batch_BD), SHARING)
        ]

    def by_mask() -> tuple[Vectors, Rows]:
        if isinstance(index, IvfIndex):
            return index.search_selected(batch_BD, hits, masks)
        return masking.search_masked([one.words_N for one in masks], batch_BD, hits)

    if isinstance(index, IvfIndex) and (by_mask()[1] == MISSING).any():
        return False  # lists are no way to search it, and all items would be scored
    return _seconds(by_mask) < _seconds(by_gathering)


def _seconds(search: Callable[[], object]) -> float:
    """Returns the CPU seconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(1 + ROUNDS):  # the first one may compile
        started = time.process_time()
        search()
        best = min(best, time.process_time() - started)
    return best
