"""How Faiss's inverted lists are read."""

import faiss
import numpy as np
import pytest

from index.ivf.layout import NO_ROW, list_count, read_layout, train_lists

VECTORS = np.random.default_rng(0).normal(size=(3000, 10)).astype(np.float32)


def test_lists_hold_every_item_once() -> None:
    layout = read_layout(train_lists(VECTORS), VECTORS)
    held = layout.rows_P[layout.rows_P != NO_ROW]
    assert sorted(held.tolist()) == list(range(len(VECTORS)))
    assert len(layout.offsets_L) == list_count(len(VECTORS)) + 1
    assert layout.offsets_L[-1] * 16 == len(layout.rows_P)


def test_lists_of_other_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 3000 vectors"):
        read_layout(train_lists(VECTORS), VECTORS[:-1])


@pytest.mark.parametrize("kind", ["IVF16,Flat", "IVF16,PQ10x4fsr,Refine(SQfp16)", "RR10,Flat"])
def test_lists_of_another_kind_are_refused(kind: str) -> None:
    index = faiss.index_factory(10, kind, faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(ValueError, match="export it again"):
        read_layout(index, VECTORS)


def test_small_catalogues_have_few_lists() -> None:
    assert [list_count(items) for items in (1, 49, 100, 10_000, 1_000_000)] == [
        1,
        1,
        2,
        200,
        4096,
    ]
