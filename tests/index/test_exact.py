"""Exact search equals sorting all inner products, whatever 8 bits make of the vectors."""

import numpy as np
import pytest
from numpy.typing import NDArray

from index import exact
from index.exact import ExactIndex, Int8Catalogue, Int8Scores, score_all
from index.kernels.jit import compiled

Vectors = NDArray[np.float32]
rng = np.random.default_rng(0)
QUERIES = rng.normal(size=(9, 16)).astype(np.float32)


def catalogue(kind: str, items: int) -> Vectors:
    vectors_VD = rng.normal(size=(items, 16)).astype(np.float32)
    if kind == "unit vectors":
        vectors_VD /= np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    if kind == "unlike lengths":
        vectors_VD *= rng.exponential(size=(items, 1)).astype(np.float32)
    if kind == "one large component":
        vectors_VD[:, 3] *= 100
    if kind == "many equal":
        vectors_VD[items // 4 :] = vectors_VD[0]
    return vectors_VD


KINDS = ["unit vectors", "unlike lengths", "one large component", "many equal"]


def check(index: ExactIndex, vectors_VD: Vectors, queries_BD: Vectors, k: int) -> None:
    scores_BK, rows_BK = index.search(queries_BD, k)
    exact_BV = queries_BD @ vectors_VD.T
    assert rows_BK.shape == scores_BK.shape == (len(queries_BD), min(k, len(vectors_VD)))
    np.testing.assert_allclose(
        scores_BK, np.take_along_axis(exact_BV, rows_BK, 1), rtol=1e-4, atol=1e-4
    )
    best_BK = -np.sort(-exact_BV, axis=1)[:, :k]
    np.testing.assert_allclose(scores_BK, best_BK, rtol=1e-4, atol=1e-4)
    assert all(len(set(row)) == len(row) for row in rows_BK.tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [1, 17, 3000])
def test_hits_are_those_of_sorting(kind: str, items: int) -> None:
    vectors_VD = catalogue(kind, items)
    index = ExactIndex(vectors_VD)
    for k in (1, 10, 150, 5000):
        check(index, vectors_VD, QUERIES, k)


def test_memory_is_used_again_by_batches_of_any_size() -> None:
    vectors_VD = catalogue("unit vectors", 500)
    index = ExactIndex(vectors_VD)
    for size in (9, 1, 4, 9, 0, 2):
        check(index, vectors_VD, QUERIES[:size], 20)


def test_scores_cut_off_at_the_highest_are_told_apart_by_inner_products() -> None:
    vectors_VD = catalogue("unlike lengths", 700)
    index = ExactIndex(vectors_VD)
    index.catalogue = index.catalogue._replace(shift=0)
    check(index, vectors_VD, 100 * QUERIES, 20)


def test_many_queries_are_scored_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_VD = catalogue("unit vectors", 500)
    monkeypatch.setattr(exact, "MAX_SCORES", 4 * 512)
    index = ExactIndex(vectors_VD)
    assert index.catalogue.max_queries == 4
    check(index, vectors_VD, QUERIES, 20)
    assert len(index._scores.slack_B) == 4


def test_vectors_that_are_rounded_in_turns_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_VD = catalogue("unlike lengths", 500)
    whole = Int8Catalogue.of(vectors_VD)
    monkeypatch.setattr(exact, "CHUNK", 32)
    parts = Int8Catalogue.of(vectors_VD)
    np.testing.assert_array_equal(parts.blocks.items_NQ64, whole.blocks.items_NQ64)
    np.testing.assert_array_equal(parts.blocks.start_P, whole.blocks.start_P)
    assert parts.step == whole.step
    assert parts.max_error == pytest.approx(whole.max_error)
    assert parts.max_length == pytest.approx(whole.max_length)


@compiled
def score(catalogue: Int8Catalogue, queries_BD: Vectors, scores: Int8Scores) -> None:
    score_all(catalogue, queries_BD, scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slack_bounds_the_error_of_two_scores(kind: str) -> None:
    vectors_VD = catalogue(kind, 300)
    rounded = Int8Catalogue.of(vectors_VD)
    scores = Int8Scores.allocate(len(QUERIES), rounded)
    score(rounded, QUERIES, scores)
    turned_BD = np.abs(QUERIES @ rounded.rotation_DD)
    units_B = turned_BD.max(axis=1) / rounded.max_level * rounded.step * (1 << rounded.shift)
    scores_BV = scores.scores_BP[:, :300].astype(np.float64) * units_B[:, None]
    errors_BV = scores_BV - QUERIES.astype(np.float64) @ vectors_VD.T.astype(np.float64)
    spread_B = errors_BV.max(axis=1) - errors_BV.min(axis=1)
    assert (spread_B <= scores.slack_B * units_B).all()
    assert (spread_B > 0).all()
