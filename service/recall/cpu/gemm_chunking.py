"""The number of rows that a matrix product should take at once, measured when the service starts.

The tokens of a batch can be multiplied by a weight in one product, or chunk by chunk. On some
processors OpenBLAS has kernels for small products. On others it copies ("packs") the whole weight
even for a dozen rows, and chunks of one row are faster. See docs/results/bench.md.

Shapes: N rows, D width, F width of the feed-forward layer.
"""

import time
from typing import NamedTuple

import numpy as np

from index.kernels.jit import Integer, compiled
from service.recall.types import Floats

SMALL_CHUNKS = (1, 4, 8, 12, 24)  # rows of a chunk
WHOLE_BATCHES = (24, 48, 96, 192)  # rows of a batch from which on one product may be faster
TRIALS, REPEATS = 5, 10
NEVER = 1 << 62


class GemmChunking(NamedTuple):
    """The fastest way on this machine: chunks for small batches, one product for large ones."""

    small: int  # rows of a chunk
    whole_from: int  # batches of this many rows or more are one product

    def rows_for(self, count: int) -> int:
        """Returns the rows of a chunk for a batch of this many rows."""
        return count if count >= self.whole_from else self.small


def measure_chunking(weight_DF: Floats) -> GemmChunking:
    """Returns the fastest chunking for products with weights of about this size."""
    small = min(SMALL_CHUNKS, key=lambda rows: _seconds(weight_DF, SMALL_CHUNKS[-1], rows))
    whole = (
        count
        for count in WHOLE_BATCHES
        if _seconds(weight_DF, count, count) <= _seconds(weight_DF, count, small)
    )
    return GemmChunking(small, next(whole, NEVER))


def _seconds(weight_DF: Floats, count: int, rows: int) -> float:
    """Returns the shortest time of several products of `count` rows in chunks of `rows`."""
    x_ND = np.ones((count, len(weight_DF)), dtype=np.float32)
    out_NF = np.empty((count, weight_DF.shape[1]), dtype=np.float32)
    best = float("inf")
    for _ in range(TRIALS):
        started = time.perf_counter()
        _multiply(x_ND, weight_DF, rows, out_NF)
        best = min(best, time.perf_counter() - started)
    return best


@compiled
def _multiply(x_ND: Floats, weight_DF: Floats, rows: Integer, out_NF: Floats) -> None:
    for _ in range(REPEATS):
        for first in range(0, len(x_ND), rows):
            np.dot(x_ND[first : first + rows], weight_DF, out_NF[first : first + rows])
