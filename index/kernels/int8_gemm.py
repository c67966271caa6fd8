"""Products of 8-bit queries with all items of a catalogue, in vector instructions.

A matrix product is limited by how often it loads its operands. Here the unit of work is a tile: 8
(or 4) queries by one block of 16 items. The sums of a tile stay in registers, one register of 16
sums for each query. For each group of four components, the block's register is loaded once and used
for all queries of the tile; each query contributes its four components, copied to all lanes:

    for each group of four components:
        items ← 64 bytes of the block
        for each query of the tile:
            sums[query] += dot4(copies of the query's four components, items)

`dot4` is one instruction with VNNI, three with AVX2, and shifts and multiplications of 32-bit lanes
on any other processor. numba has no words for these instructions, so a tile is written as LLVM code
(an "intrinsic" of numba), which is compiled into the loop that uses it.

Shapes: N blocks, P positions of items (see `index.kernels.int8_layout`), D width, E the width
padded to a multiple of four, T addresses of a table, B rows, X any length.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from index.kernels.int8_layout import (
    BLOCK_BYTES,
    BLOCK_ITEMS,
    FOUR,
    MAX_SCORE,
    Int8Blocks,
    cpu_has,
)
from index.kernels.jit import Integer, Real, inlined, inner

LARGE_TILE, SMALL_TILE = 8, 4  # queries
Addresses = NDArray[np.int64]
INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
INT16_BYTES, INT32_BYTES, INT64_BYTES = 2, 4, 8
SUMS, SCORES = ir.VectorType(INT32, BLOCK_ITEMS), ir.VectorType(INT16, BLOCK_ITEMS)
COMPONENTS = ir.VectorType(INT8, BLOCK_BYTES)


@inner
def quantise_query(
    query_D: NDArray[np.float32], max_level: Integer, levels_E: NDArray[np.uint8]
) -> Real:
    """Writes the 8-bit form of a query that `multiply` takes; returns the value of an integer step.

    The largest component becomes `max_level` or its negative. The zero point is added.
    """
    largest = np.float32(1e-30)
    for component in range(len(query_D)):
        largest = max(largest, abs(query_D[component]))
    step = largest / np.float32(max_level)
    zero = np.float32(max_level + 1)
    for component in range(len(query_D)):
        levels_E[component] = np.uint8(np.rint(query_D[component] / step) + zero)
    return step


@inner
def multiply(blocks: Int8Blocks, queries_T: Addresses, scores_T: Addresses, shift: Integer) -> None:
    """Writes the scores of all items for each query, shifted to the right by `shift` bits.

    The tables hold the addresses of each query's 8-bit form (`quantise_query`) and of its row of
    scores: P 16-bit integers. Their length is a multiple of `SMALL_TILE` (see `row_addresses`).
    """
    # As signed integers: numba makes a float of the sum of a signed and an unsigned one.
    items = np.int64(blocks.items_NQ64.ctypes.data)
    start = np.int64(blocks.start_P.ctypes.data)
    first_query, first_scores = np.int64(queries_T.ctypes.data), np.int64(scores_T.ctypes.data)
    count, groups, _ = blocks.items_NQ64.shape
    for block in range(count):
        queries, scores, done = first_query, first_scores, 0
        offset = block * BLOCK_ITEMS * INT16_BYTES
        while done < len(queries_T):
            if done + LARGE_TILE <= len(queries_T):
                _large_tile(queries, scores, offset, items, start, groups, shift)
                taken = LARGE_TILE
            else:
                _small_tile(queries, scores, offset, items, start, groups, shift)
                taken = SMALL_TILE
            done += taken
            queries += taken * INT64_BYTES
            scores += taken * INT64_BYTES
        items += groups * BLOCK_BYTES
        start += BLOCK_ITEMS * INT32_BYTES


@inlined
def row_addresses(rows_BX: NDArray[Any]) -> Addresses:
    """Returns the addresses of the rows T. The last one is repeated until the tiles are full.

    A repeated row is computed twice, with the same result.
    """
    return _addresses(np.int64(rows_BX.ctypes.data), rows_BX.strides[0], len(rows_BX))


@inner
def _addresses(first: Integer, stride: Integer, rows: Integer) -> Addresses:
    table_T = np.empty((rows + SMALL_TILE - 1) // SMALL_TILE * SMALL_TILE, dtype=np.int64)
    for row in range(len(table_T)):
        table_T[row] = first + min(row, rows - 1) * stride
    return table_T


class _Tile(NamedTuple):
    """The arguments of a tile: 64-bit integers."""

    queries: Any  # address of a table with the address of each query
    scores: Any  # address of a table with the address of each query's scores
    offset: Any  # of the block's scores behind these addresses, in bytes
    items: Any  # address of the block
    start: Any  # address of the 16 integers that its sums start from
    groups: Any  # of four components
    shift: Any  # of the sums to the right, in bits


def _tile(queries: int) -> Any:
    """Returns a function that compiled code calls with the fields of a `_Tile`."""

    @intrinsic
    def tile(_: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
        def generate(context: Any, build: ir.IRBuilder, _: Any, values: Any) -> Any:
            _generate(build, queries, _Tile(*values))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return tile


_large_tile, _small_tile = _tile(LARGE_TILE), _tile(SMALL_TILE)


def _generate(build: ir.IRBuilder, queries: int, tile: _Tile) -> None:
    """Writes the code of a tile: add up all groups of components, then store the scores."""
    allocate: Any = cgutils.alloca_once  # LLVM turns these variables into registers
    sums = [allocate(build, SUMS) for _ in range(queries)]
    entries = [INT64(INT64_BYTES * query) for query in range(queries)]
    addresses = [_load(build, INT64, tile.queries, entry) for entry in entries]
    start = _load(build, SUMS, tile.start)
    for total in sums:
        build.store(start, total)
    with cgutils.for_range(build, tile.groups) as loop:
        items = _load(build, COMPONENTS, tile.items, build.mul(loop.index, INT64(BLOCK_BYTES)))
        for address, total in zip(addresses, sums, strict=True):
            four = _load(build, INT32, address, build.mul(loop.index, INT64(FOUR)))
            build.store(_add_dot4(build, build.load(total), four, items), total)
    shift = _broadcast(build, build.trunc(tile.shift, INT32))
    for entry, total in zip(entries, sums, strict=True):
        scores = build.add(_load(build, INT64, tile.scores, entry), tile.offset)
        _store_scores(build, build.ashr(build.load(total), shift), scores)


def _store_scores(build: ir.IRBuilder, scores: Any, address: Any) -> None:
    """Limits 16 scores to `MAX_SCORE` and its negative, and store them as 16-bit integers."""
    for limit, name in ((MAX_SCORE, "smin"), (-MAX_SCORE, "smax")):
        bound = _function(build, f"llvm.{name}.v{BLOCK_ITEMS}i32", SUMS, [SUMS, SUMS])
        scores = build.call(bound, [scores, ir.Constant(SUMS, [limit] * BLOCK_ITEMS)])
    pointer = build.inttoptr(address, SCORES.as_pointer())
    build.store(build.trunc(scores, SCORES), pointer, align=INT16_BYTES)


def _add_dot4(build: ir.IRBuilder, sums: Any, four: Any, items: Any) -> Any:
    """Adds the products of four components of a query and of each item to the items' sums."""
    query = build.bitcast(_broadcast(build, four), COMPONENTS)
    if cpu_has("avx512vnni"):
        name, kinds = "llvm.x86.avx512.vpdpbusd.512", [SUMS, COMPONENTS, COMPONENTS]
        return build.call(_function(build, name, SUMS, kinds), [sums, query, items])
    if cpu_has("avx2"):
        low, high = (_dot4_by_avx2(build, query, items, half) for half in range(2))
        return build.add(sums, _select(build, low, high, range(BLOCK_ITEMS)))
    lanes = build.bitcast(items, SUMS)
    for bits in range(0, 32, 8):  # one component after another, sign-extended to its 32-bit lane
        level = build.and_(build.lshr(four, INT32(bits)), INT32(255))
        left = build.shl(lanes, ir.Constant(SUMS, [24 - bits] * BLOCK_ITEMS))
        component = build.ashr(left, ir.Constant(SUMS, [24] * BLOCK_ITEMS))
        sums = build.add(sums, build.mul(_broadcast(build, level), component))
    return sums


def _dot4_by_avx2(build: ir.IRBuilder, query: Any, items: Any, half: int) -> Any:
    """Returns the dot products of 8 of the 16 items.

    AVX2 adds the products up in pairs of 16 bits, then in fours of 32.
    """
    bytes_ = ir.VectorType(INT8, BLOCK_BYTES // 2)
    pairs = ir.VectorType(INT16, BLOCK_BYTES // 4)
    fours = ir.VectorType(INT32, BLOCK_BYTES // 8)
    elements = range(half * BLOCK_BYTES // 2, (half + 1) * BLOCK_BYTES // 2)
    halves = [_select(build, whole, whole, elements) for whole in (query, items)]
    add_pairs = _function(build, "llvm.x86.avx2.pmadd.ub.sw", pairs, [bytes_, bytes_])
    add_fours = _function(build, "llvm.x86.avx2.pmadd.wd", fours, [pairs, pairs])
    ones = ir.Constant(pairs, [1] * pairs.count)
    return build.call(add_fours, [build.call(add_pairs, halves), ones])


def _function(build: ir.IRBuilder, name: str, result: Any, kinds: list[Any]) -> Any:
    """Returns LLVM's function of this name, declared."""
    insert: Any = cgutils.get_or_insert_function
    return insert(build.module, ir.FunctionType(result, kinds), name)


def _select(build: ir.IRBuilder, left: Any, right: Any, elements: Sequence[int]) -> Any:
    """Returns a vector of these elements of two vectors, which are numbered one after the other."""
    mask = ir.Constant(ir.VectorType(INT32, len(elements)), list(elements))
    return build.shuffle_vector(left, right, mask)


def _broadcast(build: ir.IRBuilder, value: Any) -> Any:
    """Returns a vector with the value in each of the 16 lanes."""
    empty = ir.Constant(SUMS, ir.Undefined)
    zeros = ir.Constant(SUMS, [0] * BLOCK_ITEMS)
    return build.shuffle_vector(build.insert_element(empty, value, INT32(0)), empty, zeros)


def _load(build: ir.IRBuilder, kind: Any, base: Any, offset: Any = None) -> Any:
    """Returns the value at an address, which is a multiple of four."""
    address = base if offset is None else build.add(base, offset)
    return build.load(build.inttoptr(address, kind.as_pointer()), align=FOUR)
