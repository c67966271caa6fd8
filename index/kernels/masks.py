"""Masks: a bit for each position of a catalogue's blocks, that says whether its item may be found.

Shapes: P positions of items, N blocks of 16 positions, B queries, F masks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from index.kernels.int8_layout import BLOCK_ITEMS, LOWEST, Int16s
from index.kernels.jit import Integer, inner

Bools = NDArray[np.bool_]
Words = NDArray[np.uint16]
"""The bits of a block each; the lowest bit is the first item."""
Int32s = NDArray[np.int32]

NO_MASK = -1
BITS, WORD = ir.VectorType(ir.IntType(1), BLOCK_ITEMS), ir.IntType(BLOCK_ITEMS)
SCORES = ir.VectorType(ir.IntType(16), BLOCK_ITEMS)
WORD_BYTES = SCORE_BYTES = 2


class Masks(NamedTuple):
    """The masks of a batch, by the addresses of their words, which must not be freed meanwhile."""

    addresses_F: NDArray[np.int64]
    of_query_B: Int32s  # the number of each query's mask, or NO_MASK

    @staticmethod
    def of(words: Sequence[Words | None]) -> "Masks":
        """Returns the masks of queries, some of which may share theirs or have none."""
        different = {id(one): one for one in words if one is not None}
        if not different:
            return NO_MASKS
        numbers = {key: number for number, key in enumerate(different)}
        of_query_B = [numbers.get(id(one), NO_MASK) for one in words]
        addresses = [one.ctypes.data for one in different.values()]
        return Masks(np.array(addresses, dtype=np.int64), np.array(of_query_B, dtype=np.int32))


NO_MASKS = Masks(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))


def pack(allowed_P: Bools) -> Words:
    """Returns the bits of positions."""
    bits_P = np.zeros(-(-len(allowed_P) // BLOCK_ITEMS) * BLOCK_ITEMS, dtype=np.bool_)
    bits_P[: len(allowed_P)] = allowed_P
    words_N: Words = np.packbits(bits_P, bitorder="little").view(np.uint16)
    return words_N


@inner
def mask_scores(masks: Masks, query: Integer, scores_P: Int16s) -> None:
    """Sets the scores of all items that the query's mask leaves out to the lowest value."""
    mask_blocks(masks, query, 0, len(scores_P) // BLOCK_ITEMS, np.int64(scores_P.ctypes.data))


@inner
def mask_blocks(
    masks: Masks, query: Integer, first: Integer, end: Integer, scores: Integer
) -> None:
    """Does the same for some blocks of the catalogue, whose scores are at this address."""
    if len(masks.addresses_F) == 0 or masks.of_query_B[query] == NO_MASK:
        return
    words = masks.addresses_F[masks.of_query_B[query]]
    for block in range(first, end):
        _keep(scores, words + block * WORD_BYTES)
        scores += BLOCK_ITEMS * SCORE_BYTES


@intrinsic
def _mask_block(_: Any, scores: Any, word: Any) -> Any:
    """Sets those of 16 scores to the lowest value whose bit is 0: two loads, a blend and a store.

    Takes addresses. numba makes a dozen instructions of a loop over the bits.
    """

    def generate(context: Any, build: ir.IRBuilder, _: Any, values: Any) -> Any:
        scores, word = values
        pointer = build.inttoptr(scores, SCORES.as_pointer())
        bits = build.load(build.inttoptr(word, WORD.as_pointer()), align=WORD_BYTES)
        lowest = ir.Constant(SCORES, [int(LOWEST)] * BLOCK_ITEMS)
        kept = build.load(pointer, align=SCORE_BYTES)
        kept = build.select(build.bitcast(bits, BITS), kept, lowest)
        build.store(kept, pointer, align=SCORE_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


_keep: Any = _mask_block  # mypy does not know that callers leave out the first argument
