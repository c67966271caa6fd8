"""Counters of several processes in memory that they share.

Every process owns a row of numbers and writes to no other; a reader sums the column of a number
over all rows. So no process locks or waits for another, a count costs a fraction of a microsecond,
and it survives the process that made it. Only one thread of a process may count.
"""

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, product

SLOTS = 1024
"""Numbers of a process."""
ROW_BYTES = SLOTS * 8


class Slots:
    """Some numbers of this process, beside the same numbers of the other processes."""

    def __init__(self, own: "memoryview[float]", rows: "Sequence[memoryview[float]]") -> None:
        self.own = own
        self._rows = rows

    def total(self) -> list[float]:
        """Returns the sum of each number over all processes."""
        return [sum(column) for column in zip(*self._rows, strict=True)]


class CounterMemory:
    """The shared memory. Every process allocates the same slots in the same order."""

    def __init__(self, file: int = -1, rows: int = 1, row: int = 0) -> None:
        """Maps an open file of `rows` times ROW_BYTES; -1 maps memory of this process only."""
        memory = memoryview(mmap.mmap(file, rows * ROW_BYTES)).cast("d")
        self._rows = [memory[begin : begin + SLOTS] for begin in range(0, len(memory), SLOTS)]
        self._own = self._rows[row]
        self._allocated = 0

    def allocate(self, count: int) -> Slots:
        """Returns the next `count` numbers."""
        begin, self._allocated = self._allocated, self._allocated + count
        assert self._allocated <= SLOTS, "raise SLOTS"
        columns = slice(begin, self._allocated)
        return Slots(self._own[columns], [row[columns] for row in self._rows])


class Gauge:
    """A number that rises and falls."""

    def __init__(self, memory: CounterMemory) -> None:
        self._slots = memory.allocate(1)
        self.set(0)  # clears the value of a process that ended

    def set(self, value: float) -> None:
        """Replaces this process's share."""
        self._slots.own[0] = value

    def add(self, change: float) -> None:
        """Adds to this process's share."""
        self._slots.own[0] += change

    def total(self) -> float:
        """Returns the sum over all processes."""
        return self._slots.total()[0]


class Counter:
    """A count for every combination of the labels' values."""

    def __init__(self, memory: CounterMemory, *values: Sequence[str]) -> None:
        self._index = {labels: i for i, labels in enumerate(product(*values))}
        self._slots = memory.allocate(len(self._index))

    def inc(self, *labels: str, by: float = 1) -> None:
        """Adds to a count. Raises KeyError for labels that were not announced."""
        self._slots.own[self._index[labels]] += by

    def total(self) -> dict[tuple[str, ...], float]:
        """Returns the sum of each count over all processes."""
        return dict(zip(self._index, self._slots.total(), strict=True))


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    def __init__(self, memory: CounterMemory, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._slots = memory.allocate(len(bounds) + 2)  # above the last bound, and the sum

    def observe(self, value: float) -> None:
        """Counts an observation."""
        own = self._slots.own
        own[bisect_left(self._bounds, value)] += 1
        own[-1] += value

    def total(self) -> tuple[list[tuple[str, float]], float]:
        """Returns (bound, observations up to it) over all processes, and their sum.

        The counts are cumulative, as Prometheus wants them.
        """
        *counts, total = self._slots.total()
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(counts), strict=True)), total
