"""Products of 8-bit integers are those of large integers, whatever a processor's instructions."""

from collections.abc import Iterator

import numpy as np
import pytest

from index.kernels import int8_gemm
from index.kernels import int8_layout as layout
from index.kernels.int8_gemm import addresses, multiply, whole_steps
from index.kernels.int8_layout import HIGHEST, LOW, blocks_of, zero
from index.kernels.jit import compiled, inner

QUERIES = 14  # a tile of eight, one of four, and one that isn't full
KINDS = {"plain": [], "avx2": ["avx2"], "vnni": ["avx2", "avx512vnni"]}


@pytest.fixture(params=KINDS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Machine code that uses no others."""
    allowed = KINDS[request.param]
    if missing := [feature for feature in allowed if not layout.has(feature)]:
        pytest.skip(f"this processor has no {missing[0]}")
    layout.levels.cache_clear()
    for module in (layout, int8_gemm):
        monkeypatch.setattr(module, "has", allowed.__contains__)
    yield
    layout.levels.cache_clear()


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize(("items", "width"), [(61, 16), (160, 6), (16, 129)])
def test_products_are_exact(items: int, width: int) -> None:
    rng = np.random.default_rng(items)
    steps_VD = rng.integers(-127, 128, (items, width)).astype(np.int8)
    blocks = blocks_of(steps_VD)
    # Extremes, too: these are what overflows.
    most = layout.levels()
    asked_BD = rng.integers(-most, most + 1, (QUERIES, width))
    asked_BD[0], asked_BD[1] = most, np.sign(steps_VD[0]) * most
    asked_BE = np.full((QUERIES, blocks.items_NQ64.shape[1] * 4), 77, dtype=np.uint8)
    asked_BE[:, :width] = asked_BD + zero()
    product = inner(multiply.py_func)  # type: ignore[attr-defined]
    anew = compiled(
        lambda blocks, asked, scores, shift: product(
            blocks, addresses(asked), addresses(scores), shift
        )
    )
    scores_BP = np.empty((QUERIES, len(blocks.start_P)), dtype=np.int16)
    for shift in (0, 5):
        anew(blocks, asked_BE, scores_BP, shift)
        exact_BV = (asked_BD @ steps_VD.T.astype(np.int64)) >> shift
        found_BV = scores_BP[:, :items]
        np.testing.assert_array_equal(found_BV, exact_BV.clip(-HIGHEST, HIGHEST))
        assert found_BV.min() > LOW


def test_queries_take_whole_steps() -> None:
    query_D = np.array([0.5, -2.0, 0.0, 1.0], dtype=np.float32)
    asked_E = np.empty(4, dtype=np.uint8)
    step = compiled(lambda query, asked: whole_steps(query, 10, asked))(query_D, asked_E)
    assert step == pytest.approx(0.2)
    assert (asked_E.astype(int) - 11).tolist() == [2, -10, 0, 5]  # 2.5 is rounded to even
