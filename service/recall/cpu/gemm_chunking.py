"""How many rows a matrix product should take at once on this processor: measured at start.

OpenBLAS has kernels for small products on some processors, and packs the whole weight for a dozen
rows on others, which are then faster one by one. Measured in docs/results/bench.md.

Shapes: N rows, D width, F width of the feed-forward layer.
"""

import time
from typing import NamedTuple

import numpy as np

from index.kernels.jit import Integer, compiled
from service.recall.types import Floats

FEW = (1, 4, 8, 12, 24)  # rows that a piece may have
MANY = (24, 48, 96, 192)  # rows from which on one piece may be faster
TRIALS, TIMES = 5, 10


class GemmChunking(NamedTuple):
    """What is fast here."""

    few: int  # rows of a piece
    many: int  # from so many on all rows are one piece

    def rows_of(self, count: int) -> int:
        """How many of so many rows to take at once."""
        return count if count >= self.many else self.few


def measured(weight_DF: Floats) -> GemmChunking:
    """For products with weights of about this size."""
    few = min(FEW, key=lambda rows: _seconds(weight_DF, FEW[-1], rows))
    whole = (n for n in MANY if _seconds(weight_DF, n, n) <= _seconds(weight_DF, n, few))
    return GemmChunking(few, next(whole, 1 << 62))


def _seconds(weight_DF: Floats, count: int, rows: int) -> float:
    """The least that so many products of so many rows take, some rows at once."""
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
    for _ in range(TIMES):
        for first in range(0, len(x_ND), rows):
            np.dot(x_ND[first : first + rows], weight_DF, out_NF[first : first + rows])
