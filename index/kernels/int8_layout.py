"""A catalogue in 8 bits, as `index.kernels.int8_gemm` reads it: blocks of sixteen items.

In a block stand four components of each of its items, then the next four.

Shapes: V catalogue, P the same padded to whole blocks, N blocks, D width, E the same padded to
whole quarters, Q quarters.
"""

from functools import cache
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features
from numpy.typing import NDArray

ITEMS, FOUR = 16, 4  # a block's items; components that are added up by one instruction
BYTES = ITEMS * FOUR
HIGHEST = 2**15 - 1  # a score is not higher, and not lower than its negative
LOW = np.int16(-(2**15))
"""The score of what is not to be found."""

Short = NDArray[np.int16]
STEPS = 127  # of an item's numbers to either side


class Blocks(NamedTuple):
    """A catalogue, as tiles read it."""

    items_NQ64: NDArray[np.int8]
    start_P: NDArray[np.int32]  # what sums begin with: takes back the queries' zero


def steps_of(vectors_VD: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Vectors in whole steps, from -STEPS to STEPS, and the width of a step."""
    step = max(float(np.abs(vectors_VD).max()), 1e-30) / STEPS
    steps_VD: NDArray[np.float32] = np.rint(vectors_VD / np.float32(step))
    return steps_VD, step


def blocks_of(steps_VD: NDArray[np.int8]) -> Blocks:
    """Of what `steps_of` makes, as integers."""
    items, width = steps_VD.shape
    blocks = room_for(-(-items // ITEMS), width)
    put(blocks, 0, steps_VD)
    return blocks


def room_for(count: int, width: int) -> Blocks:
    """So many blocks, to be filled by `put`."""
    quarters = -(-width // FOUR)
    items_NQ64 = _aligned(count * quarters * BYTES).reshape(count, quarters, BYTES)
    return Blocks(items_NQ64, np.empty(count * ITEMS, dtype=np.int32))


def put(blocks: Blocks, first: int, steps_VD: NDArray[np.int8]) -> None:
    """Fill blocks from the first on; padding in the last one are items of zeros."""
    quarters = blocks.items_NQ64.shape[1]
    padding = (0, -len(steps_VD) % ITEMS), (0, quarters * FOUR - steps_VD.shape[1])
    padded_PE = np.pad(steps_VD, padding)
    last = first + len(padded_PE) // ITEMS
    quarters_NIQ4 = padded_PE.reshape(-1, ITEMS, quarters, FOUR)
    blocks.items_NQ64[first:last] = quarters_NIQ4.swapaxes(1, 2).reshape(-1, quarters, BYTES)
    blocks.start_P[first * ITEMS : last * ITEMS] = -zero() * padded_PE.sum(1, dtype=np.int32)


def _aligned(size: int) -> NDArray[np.int8]:
    """Memory that begins where a cache line does: else every read would touch two."""
    room = np.empty(size + BYTES, dtype=np.int8)
    begin = -room.ctypes.data % BYTES
    return room[begin : begin + size]


def shift_of(longest: float, width: int) -> int:
    """By which scores are shortened so that those of the longest item, in its steps, fit.

    A query's largest number is more than twice the usual one, where it has more than a few. What is
    too large all the same is cut off: such items count as equally good, and are scored again.
    """
    highest = levels() / 2 * width**0.5 * longest
    return max(0, int(np.ceil(np.log2(max(highest, 1) / HIGHEST))))


@cache
def levels() -> int:
    """Of a query's numbers to either side: with more, pairs would overflow AVX2's 16 bits."""
    return 127 if has("avx512vnni") else 63


def zero() -> int:
    """What a query's numbers count from, so that none is negative."""
    return levels() + 1


@cache
def has(feature: str) -> bool:
    """Whether compiled code may use such instructions."""
    config, host = cast(Any, numba.config), cast(Any, get_host_cpu_features)
    features: str = config.CPU_FEATURES or host()
    return f"+{feature}" in features.split(",")
