"""Products of 8-bit integers with a whole catalogue, in instructions that numba has no words for.

A tile is some queries by a block of sixteen items, whose sums stay in registers.

Shapes: B batch, V catalogue, P the same padded to whole blocks, N blocks, D width, E the same
padded to whole quarters, Q quarters, T entries of a table, X any length.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from index.kernels.int8_layout import BYTES, FOUR, HIGHEST, ITEMS, Blocks, has
from index.kernels.jit import Integer, Real, inner, pasted

MANY, FEW = 8, 4  # queries of a tile
Addresses = NDArray[np.int64]
INT, LONG, BYTE, SHORT = ir.IntType(32), ir.IntType(64), ir.IntType(8), ir.IntType(16)
INT_BYTES, LONG_BYTES, SHORT_BYTES = 4, 8, 2
SUMS, SCORES = ir.VectorType(INT, ITEMS), ir.VectorType(SHORT, ITEMS)
PRODUCTS = ir.VectorType(BYTE, BYTES)


def _add_products(build: ir.IRBuilder, sums: Any, four: Any, items: Any) -> Any:
    """To each item's sum, those of four of its components and a query's."""
    asked = build.bitcast(_everywhere(build, four), PRODUCTS)
    if has("avx512vnni"):
        name, kinds = "llvm.x86.avx512.vpdpbusd.512", [SUMS, PRODUCTS, PRODUCTS]
        return build.call(_function(build, name, SUMS, kinds), [sums, asked, items])
    if has("avx2"):
        low, high = (_half(build, asked, items, half) for half in range(2))
        return build.add(sums, _picked(build, low, high, range(ITEMS)))
    wide = build.bitcast(items, SUMS)
    for shift in range(0, 32, 8):  # any other processor, in its own 32-bit vectors
        value = build.and_(build.lshr(four, INT(shift)), INT(255))
        left = build.shl(wide, ir.Constant(SUMS, [24 - shift] * ITEMS))
        component = build.ashr(left, ir.Constant(SUMS, [24] * ITEMS))
        sums = build.add(sums, build.mul(_everywhere(build, value), component))
    return sums


def _half(build: ir.IRBuilder, asked: Any, items: Any, half: int) -> Any:
    """The four products of eight items, added up, with AVX2: first in pairs."""
    bytes_, pairs = ir.VectorType(BYTE, BYTES // 2), ir.VectorType(SHORT, BYTES // 4)
    fours = ir.VectorType(INT, BYTES // 8)
    places = range(half * BYTES // 2, (half + 1) * BYTES // 2)
    parts = [_picked(build, whole, whole, places) for whole in (asked, items)]
    by_pairs = _function(build, "llvm.x86.avx2.pmadd.ub.sw", pairs, [bytes_, bytes_])
    by_fours = _function(build, "llvm.x86.avx2.pmadd.wd", fours, [pairs, pairs])
    ones = ir.Constant(pairs, [1] * pairs.count)
    return build.call(by_fours, [build.call(by_pairs, parts), ones])


def _function(build: ir.IRBuilder, name: str, result: Any, kinds: list[Any]) -> Any:
    insert: Any = cgutils.get_or_insert_function
    return insert(build.module, ir.FunctionType(result, kinds), name)


def _picked(build: ir.IRBuilder, left: Any, right: Any, places: Sequence[int]) -> Any:
    """Those elements of two vectors."""
    mask = ir.Constant(ir.VectorType(INT, len(places)), list(places))
    return build.shuffle_vector(left, right, mask)


class _Tile(NamedTuple):
    """What a tile is told: where things begin."""

    asked: Any  # a table of as many addresses as queries
    scores: Any  # another one
    place: Any  # of the block's scores behind each of those, in bytes
    items: Any
    start: Any
    quarters: Any
    shift: Any


def _tile(queries: int) -> Any:
    """A function of the fields of `_Tile`, all 64-bit integers: scores of queries and a block."""

    @intrinsic
    def tile(_: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
        def generate(context: Any, build: ir.IRBuilder, _: Any, values: Any) -> Any:
            _generate(build, queries, _Tile(*values))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return tile


def _generate(build: ir.IRBuilder, queries: int, told: _Tile) -> None:
    """Write the code: sums, a quarter after the other, then cut off and stored."""
    allocate: Any = cgutils.alloca_once
    sums = [allocate(build, SUMS) for _ in range(queries)]
    entries = [LONG(LONG_BYTES * query) for query in range(queries)]
    asked = [_load(build, LONG, told.asked, entry) for entry in entries]
    begin = _load(build, SUMS, told.start)
    for total in sums:
        build.store(begin, total)
    with cgutils.for_range(build, told.quarters) as loop:
        items = _load(build, PRODUCTS, told.items, build.mul(loop.index, LONG(BYTES)))
        for query, total in zip(asked, sums, strict=True):
            four = _load(build, INT, query, build.mul(loop.index, LONG(FOUR)))
            build.store(_add_products(build, build.load(total), four, items), total)
    shift = _everywhere(build, build.trunc(told.shift, INT))
    for entry, total in zip(entries, sums, strict=True):
        score = build.ashr(build.load(total), shift)
        for limit, name in ((HIGHEST, "smin"), (-HIGHEST, "smax")):
            bound = _function(build, f"llvm.{name}.v{ITEMS}i32", SUMS, [SUMS, SUMS])
            score = build.call(bound, [score, ir.Constant(SUMS, [limit] * ITEMS)])
        place = build.add(_load(build, LONG, told.scores, entry), told.place)
        short = build.trunc(score, SCORES)
        build.store(short, build.inttoptr(place, SCORES.as_pointer()), align=SHORT_BYTES)


def _load(build: ir.IRBuilder, kind: Any, base: Any, offset: Any = None) -> Any:
    """What stands at an address, which is a multiple of four."""
    address = base if offset is None else build.add(base, offset)
    return build.load(build.inttoptr(address, kind.as_pointer()), align=FOUR)


def _everywhere(build: ir.IRBuilder, value: Any) -> Any:
    """A vector of the same value for each item."""
    empty = ir.Constant(SUMS, ir.Undefined)
    zeros = ir.Constant(SUMS, [0] * ITEMS)
    return build.shuffle_vector(build.insert_element(empty, value, INT(0)), empty, zeros)


_many, _few = _tile(MANY), _tile(FEW)


@inner
def whole_steps(query_D: NDArray[np.float32], levels: Integer, asked_E: NDArray[np.uint8]) -> Real:
    """Write a query as `multiply` takes it, up to so many levels; returns a level's width."""
    most = np.float32(1e-30)
    for component in range(len(query_D)):
        most = max(most, abs(query_D[component]))
    step = most / np.float32(levels)
    for component in range(len(query_D)):
        asked_E[component] = np.uint8(np.rint(query_D[component] / step) + np.float32(levels + 1))
    return step


@inner
def multiply(blocks: Blocks, asked_T: Addresses, scores_T: Addresses, shift: Integer) -> None:
    """All scores, shifted to the right, of queries as `whole_steps` makes them.

    Takes tables of where each query and its scores begin, as `addresses` makes them.
    """
    # As signed integers: numba makes floats of sums of signed and unsigned ones.
    items, start = np.int64(blocks.items_NQ64.ctypes.data), np.int64(blocks.start_P.ctypes.data)
    asked_begin, scores_begin = np.int64(asked_T.ctypes.data), np.int64(scores_T.ctypes.data)
    count, quarters, _ = blocks.items_NQ64.shape
    for block in range(count):
        asked, scores = asked_begin, scores_begin
        place, query = block * ITEMS * SHORT_BYTES, 0
        while query < len(asked_T):
            if query + MANY <= len(asked_T):
                _many(asked, scores, place, items, start, quarters, shift)
                taken = MANY
            else:
                _few(asked, scores, place, items, start, quarters, shift)
                taken = FEW
            query += taken
            asked += taken * LONG_BYTES
            scores += taken * LONG_BYTES
        items += quarters * BYTES
        start += ITEMS * INT_BYTES


@pasted
def addresses(rows_BX: NDArray[Any]) -> Addresses:
    """Where each row begins; the last one again until tiles are full, and computed twice."""
    return _addresses(np.int64(rows_BX.ctypes.data), rows_BX.strides[0], len(rows_BX))


@inner
def _addresses(begin: Integer, row: Integer, count: Integer) -> Addresses:
    table_T = np.empty((count + FEW - 1) // FEW * FEW, dtype=np.int64)
    for place in range(len(table_T)):
        table_T[place] = begin + min(place, count - 1) * row
    return table_T
