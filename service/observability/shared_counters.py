"""Numbers that several processes count, in memory that they share: a row each, summed when read.

A count costs a fraction of a microsecond, asks no other process, and outlives the one that made it.
Only one thread of a process may count. Shapes: R processes, S numbers of each.
"""

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, product

import numpy as np
from numpy.typing import NDArray

SLOTS = 1024  # numbers a process may have
ROW_BYTES = SLOTS * 8


class Slots:
    """Some of this process's numbers, beside the same of the other processes."""

    def __init__(self, own: "memoryview[float]", all_RS: NDArray[np.float64]) -> None:
        self.own = own
        self._all_RS = all_RS

    def total(self) -> list[float]:
        """Their sums over all processes."""
        sums: list[float] = self._all_RS.sum(axis=0).tolist()
        return sums


class Board:
    """The memory. Every process takes the same slots in the same order, so that they agree."""

    def __init__(self, file: int = -1, rows: int = 1, row: int = 0) -> None:
        """`file` is an open one of `rows` times ROW_BYTES; without it nobody else counts."""
        memory = mmap.mmap(file, rows * ROW_BYTES)
        self._own = memoryview(memory).cast("d")[row * SLOTS : (row + 1) * SLOTS]
        self._all_RS = np.frombuffer(memory).reshape(rows, SLOTS)
        self._taken = 0

    def take(self, count: int) -> Slots:
        """The next numbers."""
        begin, self._taken = self._taken, self._taken + count
        assert self._taken <= SLOTS, "raise SLOTS"
        return Slots(self._own[begin : self._taken], self._all_RS[:, begin : self._taken])


class Gauge:
    """A number that goes up and down."""

    def __init__(self, board: Board) -> None:
        self._slots = board.take(1)
        self.set(0)  # what a process left behind that ended

    def set(self, value: float) -> None:
        """Replace this process's share."""
        self._slots.own[0] = value

    def total(self) -> float:
        """The sum of all processes."""
        return self._slots.total()[0]


class Counter:
    """Counts for every combination of the labels' values."""

    def __init__(self, board: Board, *values: Sequence[str]) -> None:
        self._at = {labels: i for i, labels in enumerate(product(*values))}
        self._slots = board.take(len(self._at))

    def inc(self, *labels: str, by: float = 1) -> None:
        """Count; a combination that was not announced is a KeyError."""
        self._slots.own[self._at[labels]] += by

    def total(self) -> dict[tuple[str, ...], float]:
        """The sums of all processes."""
        return dict(zip(self._at, self._slots.total(), strict=True))


class Histogram:
    """How many observations stayed within each of some bounds, and their sum."""

    def __init__(self, board: Board, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._slots = board.take(len(bounds) + 2)  # one above the last bound, and the sum

    def observe(self, value: float) -> None:
        """Count one."""
        own = self._slots.own
        own[bisect_left(self._bounds, value)] += 1
        own[-1] += value

    def total(self) -> tuple[list[tuple[str, float]], float]:
        """Of all processes: (bound, observations up to it), as Prometheus wants it; their sum."""
        *counts, total = self._slots.total()
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(counts), strict=True)), total
