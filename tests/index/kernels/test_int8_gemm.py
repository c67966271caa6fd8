"""Products of 8-bit integers equal those of large integers, with each set of instructions."""

from collections.abc import Iterator

import numpy as np
import pytest

from index.kernels import int8_gemm
from index.kernels import int8_layout as layout
from index.kernels.int8_gemm import multiply, quantise_query, row_addresses
from index.kernels.int8_layout import LOWEST, MAX_SCORE, Int8Blocks, zero_point
from index.kernels.jit import compiled, inner

QUERIES = 14  # a tile of eight, one of four, and one that isn't full
INSTRUCTIONS = {"plain": [], "avx2": ["avx2"], "vnni": ["avx2", "avx512vnni"]}


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Machine code that uses no others."""
    allowed = INSTRUCTIONS[request.param]
    if missing := [feature for feature in allowed if not layout.cpu_has(feature)]:
        pytest.skip(f"this processor has no {missing[0]}")
    layout.max_level.cache_clear()
    for module in (layout, int8_gemm):
        monkeypatch.setattr(module, "cpu_has", allowed.__contains__)
    yield
    layout.max_level.cache_clear()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("items", "width"), [(61, 16), (160, 6), (16, 129)])
def test_products_are_exact(items: int, width: int) -> None:
    rng = np.random.default_rng(items)
    steps_VD = rng.integers(-127, 128, (items, width)).astype(np.int8)
    blocks = Int8Blocks.of(steps_VD)
    # Extremes, too: these are what overflows.
    most = layout.max_level()
    levels_BD = rng.integers(-most, most + 1, (QUERIES, width))
    levels_BD[0], levels_BD[1] = most, np.sign(steps_VD[0]) * most
    levels_BE = np.full((QUERIES, blocks.items_NQ64.shape[1] * 4), 77, dtype=np.uint8)
    levels_BE[:, :width] = levels_BD + zero_point()
    product = inner(multiply.py_func)  # type: ignore[attr-defined]
    compiled_anew = compiled(
        lambda blocks, levels, scores, shift: product(
            blocks, row_addresses(levels), row_addresses(scores), shift
        )
    )
    scores_BP = np.empty((QUERIES, len(blocks.start_P)), dtype=np.int16)
    for shift in (0, 5):
        compiled_anew(blocks, levels_BE, scores_BP, shift)
        exact_BV = (levels_BD @ steps_VD.T.astype(np.int64)) >> shift
        found_BV = scores_BP[:, :items]
        np.testing.assert_array_equal(found_BV, exact_BV.clip(-MAX_SCORE, MAX_SCORE))
        assert found_BV.min() > LOWEST


def test_queries_are_rounded_to_whole_steps() -> None:
    query_D = np.array([0.5, -2.0, 0.0, 1.0], dtype=np.float32)
    levels_E = np.empty(4, dtype=np.uint8)
    step = compiled(lambda query, levels: quantise_query(query, 10, levels))(query_D, levels_E)
    assert step == pytest.approx(0.2)
    assert (levels_E.astype(int) - 11).tolist() == [2, -10, 0, 5]  # 2.5 is rounded to even
