"""Inverted lists behind a mask: the share of the exact hits, whatever the mask leaves out.

`service.recall.cpu.filtered_search` adds the exact search of the queries that lists refuse.
"""

import numpy as np
import pytest

from index.build import build_index, vectors_sha256
from index.ivf.search import MISSING
from index.search import IvfIndex, load_index, selection_search
from index.selection import SelectionSearch
from loadtest.scale.scale_data import catalogue, interests

ITEMS, WIDTH, K, TARGET = 60_000, 32, 20, 0.98
Loaded = tuple[IvfIndex, SelectionSearch, np.ndarray]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """An index whose number of lists was measured to reach the target, and its vectors."""
    folder = tmp_path_factory.mktemp("lists")
    vectors_VD = np.array(catalogue(folder / "vectors.npy", ITEMS, WIDTH))
    build_index(vectors_VD, folder, "ivf", TARGET, interests(WIDTH, 256, 1))
    index = load_index(folder, vectors_VD, vectors_sha256(vectors_VD))
    assert isinstance(index, IvfIndex)
    return index, selection_search(index, gathered_share=0), vectors_VD


def allowed_items(scores_BV: np.ndarray, share: float, kind: str) -> np.ndarray:
    """A mask for each query: at random, likely near the query or far from it, or the farthest."""
    rng = np.random.default_rng(0)
    if kind == "farthest":
        return scores_BV <= np.quantile(scores_BV, share, axis=1, keepdims=True)
    nearness_BV = (scores_BV - scores_BV.mean()) / scores_BV.std()
    slope = {"random": 0.0, "near": 0.5, "far": -0.5, "slightly far": -0.05}[kind]
    likely_BV = np.exp(slope * nearness_BV)
    likely_BV *= share / likely_BV.mean(axis=1, keepdims=True)
    return rng.random(scores_BV.shape) < likely_BV


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["random", "near", "far", "slightly far", "farthest"])
def test_hits_behind_a_mask(loaded: Loaded, share: float, kind: str) -> None:
    index, selections, vectors_VD = loaded
    queries_BD = interests(WIDTH, 48, 2)
    scores_BV = queries_BD @ vectors_VD.T
    allowed_BV = allowed_items(scores_BV, share, kind)
    masks = [selections.select(allowed_V) for allowed_V in allowed_BV]
    _, rows_BK = index.search_selected(queries_BD, K, masks)
    refused_B = (rows_BK == MISSING).any(axis=1)
    if kind == "farthest":
        assert refused_B.all()
    elif kind in ("random", "near") and share >= 0.5:
        assert refused_B.mean() < 0.1
    found = []
    for query in np.flatnonzero(~refused_B):
        assert allowed_BV[query, rows_BK[query]].all()
        best = np.argsort(-np.where(allowed_BV[query], scores_BV[query], -np.inf))[:K]
        found.append(np.isin(best, rows_BK[query]).mean())
    assert np.mean(found or [1]) >= TARGET - 0.01  # over few queries


def test_queries_with_unlike_masks_equal_them_one_by_one(loaded: Loaded) -> None:
    index, selections, _ = loaded
    queries_BD = interests(WIDTH, 12, 3)
    rng = np.random.default_rng(1)
    several = [selections.select(rng.random(ITEMS) < share) for share in (0.3, 0.6, 0.9)]
    masks = [several[query % 3] for query in range(12)]
    _, together_BK = index.search_selected(queries_BD, K, masks)
    for query, mask in enumerate(masks):
        _, alone_1K = index.search_selected(queries_BD[query : query + 1], K, [mask])
        assert together_BK[query].tolist() == alone_1K[0].tolist()


def test_many_queries_are_searched_in_parts(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, selections, _ = loaded
    queries_BD = interests(WIDTH, 12, 3)
    masks = [selections.select(np.arange(ITEMS) % 3 > query % 2) for query in range(12)]
    _, whole_BK = index.search_selected(queries_BD, K, masks)
    monkeypatch.setattr("index.ivf.search.MAX_SCORES", 1)
    _, parts_BK = index.search_selected(queries_BD, K, masks)
    assert parts_BK.tolist() == whole_BK.tolist()


@pytest.mark.parametrize("kind", ["random", "farthest"])
def test_of_many_gathered_items_few_are_scored_again(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also where thousands of items are nearly as good as the best ones, as the farthest are."""
    index, _, vectors_VD = loaded
    search = selection_search(index, gathered_share=0.5)
    queries_BD = interests(WIDTH, 48, 2)
    scores_BV = queries_BD @ vectors_VD.T
    shares: dict[int, list[float]] = {ITEMS: [], 10_000: []}
    for query_D, scores_V in zip(queries_BD, scores_BV, strict=True):
        allowed_V = allowed_items(scores_V[None], 0.25, kind)[0]
        gathered = search.select(allowed_V).gathered
        assert gathered
        best_K = np.argsort(-np.where(allowed_V, scores_V, -np.inf))[:K]
        for most, found in shares.items():
            monkeypatch.setattr("index.selection.EXACT_ITEMS", most)
            rows_K = search.search_gathered(gathered, query_D[None], K)[1][0]
            found.append(np.isin(best_K, rows_K).mean())
    assert np.mean(shares[ITEMS]) > 0.999  # sums of floats in another order are not the same
    assert np.mean(shares[10_000]) > 0.99


def test_gathered_items_can_be_hidden(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, vectors_VD = loaded
    queries_BD, allowed_V = interests(WIDTH, 48, 2), np.arange(ITEMS) % 4 == 1
    search = selection_search(index, gathered_share=0.5)
    selection = search.select(allowed_V)
    best_BV = np.argsort(-np.where(allowed_V, queries_BD @ vectors_VD.T, -np.inf), axis=1)
    hidden_V = np.zeros(ITEMS, dtype=np.bool_)
    hidden_V[best_BV[:, :3]] = True
    search.set_hidden(hidden_V)
    left = search.visible(selection).gathered
    assert left
    for most in (10_000, ITEMS):
        monkeypatch.setattr("index.selection.EXACT_ITEMS", most)
        assert not hidden_V[search.search_gathered(left, queries_BD, K)[1]].any()
