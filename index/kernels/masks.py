"""Masks: a bit for each position of a catalogue's blocks, that says whether its item may be found.

Shapes: P positions of items, N blocks of 16 positions, B queries, F masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.kernels.int8_layout import BLOCK_ITEMS, LOWEST, Int16s
from index.kernels.jit import inner

Bools = NDArray[np.bool_]
Words = NDArray[np.uint16]
"""The bits of a block each; the lowest bit is the first item."""
Int32s = NDArray[np.int32]

NO_MASK = -1


class Masks(NamedTuple):
    """The masks of a batch."""

    words_FN: Words
    of_query_B: Int32s  # the number of each query's mask, or NO_MASK

    @staticmethod
    def of(words: Sequence[Words | None]) -> "Masks":
        """Returns the masks of queries, some of which may share theirs or have none."""
        different = {id(one): one for one in words if one is not None}
        if not different:
            return NO_MASKS
        numbers = {key: number for number, key in enumerate(different)}
        of_query_B = [numbers.get(id(one), NO_MASK) for one in words]
        return Masks(np.stack(list(different.values())), np.array(of_query_B, dtype=np.int32))


NO_MASKS = Masks(np.zeros((0, 0), dtype=np.uint16), np.zeros(0, dtype=np.int32))


def pack(allowed_P: Bools) -> Words:
    """Returns the bits of positions."""
    bits_P = np.zeros(-(-len(allowed_P) // BLOCK_ITEMS) * BLOCK_ITEMS, dtype=np.bool_)
    bits_P[: len(allowed_P)] = allowed_P
    words_N: Words = np.packbits(bits_P, bitorder="little").view(np.uint16)
    return words_N


@inner
def apply_mask(scores_P: Int16s, words_N: Words) -> None:
    """Sets the scores of positions without their bit to the lowest value."""
    for block in range(len(words_N)):
        word, first = np.int32(words_N[block]), block * BLOCK_ITEMS
        for item in range(BLOCK_ITEMS):
            score = scores_P[first + item]
            scores_P[first + item] = score if (word >> np.int32(item)) & 1 else LOWEST
