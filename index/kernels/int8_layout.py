"""A catalogue as 8-bit integers, in the order in which `index.kernels.int8_gemm` reads it.

**Blocks.** A processor multiplies 8-bit integers in fours: in each 32-bit lane of a register, one
instruction multiplies four components of an item with the same four of a query and adds the
products to the lane's sum. A 512-bit register has 16 lanes. A catalogue is therefore cut into
blocks of 16 items, and a block holds the first four components of all its items, then the next four
of all:

    item 0        item 1              item 15
    c0 c1 c2 c3   c0 c1 c2 c3   …     c0 c1 c2 c3     64 bytes: one register, one cache line
    c4 c5 c6 c7   c4 c5 c6 c7   …     c4 c5 c6 c7
    …

A block is read once from its beginning to its end, and its 16 scores come out side by side.

**Zero point.** The instruction multiplies unsigned by signed integers. Items are signed. Components
of queries are stored plus a zero point, so that none is negative. Whatever the query, this adds the
sum of an item's components, times the zero point, to the item's score; `start_P` holds the negative
of that, and each sum starts from it.

Shapes: V catalogue, N blocks, P = 16 N positions of items, D width, Q groups of four components
(D / 4, rounded up).
"""

from functools import cache
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features
from numpy.typing import NDArray

BLOCK_ITEMS, FOUR = 16, 4
BLOCK_BYTES = BLOCK_ITEMS * FOUR  # of one group of four components
MAX_STEPS = 127  # an item's components lie between its negative and this
MAX_SCORE = 2**15 - 1  # scores are limited to this, and to its negative
LOWEST = np.int16(-(2**15))
"""A score below all others: for padding, and for items that must not be found."""
MAX_SCORES = 1 << 26  # that are held at a time: 128 MiB

Int16s = NDArray[np.int16]


class Int8Blocks(NamedTuple):
    """A catalogue in blocks. The last block is padded by items whose components are zero."""

    items_NQ64: NDArray[np.int8]
    start_P: NDArray[np.int32]  # where each item's sum starts

    @staticmethod
    def of(steps_VD: NDArray[np.int8]) -> "Int8Blocks":
        """Returns items in blocks, given as whole steps from `-MAX_STEPS` to `MAX_STEPS`."""
        items, width = steps_VD.shape
        blocks = Int8Blocks.allocate(-(-items // BLOCK_ITEMS), width)
        fill_blocks(blocks, 0, steps_VD)
        return blocks

    @staticmethod
    def allocate(blocks: int, width: int) -> "Int8Blocks":
        """Allocates blocks, to be filled by `fill_blocks`."""
        groups = -(-width // FOUR)
        items_NQ64 = _aligned(blocks * groups * BLOCK_BYTES).reshape(blocks, groups, BLOCK_BYTES)
        return Int8Blocks(items_NQ64, np.empty(blocks * BLOCK_ITEMS, dtype=np.int32))


def step_size(largest: float) -> float:
    """Returns the value of an integer step for components of up to this absolute value."""
    return max(largest, 1e-30) / MAX_STEPS


def fill_blocks(blocks: Int8Blocks, first: int, steps_VD: NDArray[np.int8]) -> None:
    """Writes items into the blocks from number `first` on, and padding behind the last item."""
    groups = blocks.items_NQ64.shape[1]
    padding = (0, -len(steps_VD) % BLOCK_ITEMS), (0, groups * FOUR - steps_VD.shape[1])
    padded_PE = np.pad(steps_VD, padding)
    last = first + len(padded_PE) // BLOCK_ITEMS
    groups_NIQ4 = padded_PE.reshape(-1, BLOCK_ITEMS, groups, FOUR)
    blocks.items_NQ64[first:last] = groups_NIQ4.swapaxes(1, 2).reshape(-1, groups, BLOCK_BYTES)
    positions = slice(first * BLOCK_ITEMS, last * BLOCK_ITEMS)
    blocks.start_P[positions] = -zero_point() * padded_PE.sum(1, dtype=np.int32)


def _aligned(size: int) -> NDArray[np.int8]:
    """Allocates memory from a cache line on: otherwise each load would touch two lines."""
    memory = np.empty(size + BLOCK_BYTES, dtype=np.int8)
    begin = -memory.ctypes.data % BLOCK_BYTES
    return memory[begin : begin + size]


def score_shift(max_length: float, width: int) -> int:
    """Returns the bits of a shift to the right that makes usual sums fit into 16 bits.

    `max_length` is the length of the longest item, in steps. The largest component of a query is
    taken to be at least twice the root mean square of its components, as it is for most queries of
    more than a few. Scores that are too high all the same are cut off at `MAX_SCORE`: such items
    count as equally good, and are scored again.
    """
    highest = max_level() / 2 * width**0.5 * max_length
    return max(0, int(np.ceil(np.log2(max(highest, 1) / MAX_SCORE))))


@cache
def max_level() -> int:
    """Returns the largest absolute value of a component of a query.

    AVX2 adds two products in 16 bits, which 127 would overflow.
    """
    return 127 if cpu_has("avx512vnni") else 63


def zero_point() -> int:
    """Returns what is added to the components of queries, so that none is negative."""
    return max_level() + 1


@cache
def cpu_has(feature: str) -> bool:
    """Tells whether compiled code may use these instructions, by LLVM's name."""
    config, host = cast(Any, numba.config), cast(Any, get_host_cpu_features)
    features: str = config.CPU_FEATURES or host()
    return f"+{feature}" in features.split(",")
