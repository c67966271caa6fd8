import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from index.benchmark import BATCHES, Rates, Vectors
from index.build import Contest, build_index, vectors_sha256
from index.search import ItemIndex

VECTORS = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(VECTORS, tmp_path)
    return tmp_path


def test_search_is_exact(folder: Path) -> None:
    scores, rows = ItemIndex.load(folder, VECTORS).search(QUERIES, 10)
    expected = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :10]
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(
        scores, np.take_along_axis(QUERIES @ VECTORS.T, expected, 1), rtol=1e-5
    )


def test_k_above_the_catalogue_gives_what_there_is(folder: Path) -> None:
    scores, rows = ItemIndex.load(folder, VECTORS).search(QUERIES, 1000)
    assert rows.shape == scores.shape == (7, 50)
    assert sorted(rows[0]) == list(range(50))


def test_the_card_names_the_vectors(folder: Path) -> None:
    index = ItemIndex.load(folder, VECTORS)
    assert (index.items, index.dim, index.kind) == (50, 8, "flat")
    assert index.vectors_sha256 == vectors_sha256(VECTORS) != vectors_sha256(QUERIES)


def test_a_damaged_index_is_refused(folder: Path) -> None:
    file = folder / "index.faiss"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read"):
        ItemIndex.load(folder, VECTORS)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match=r"index\.json"):
        ItemIndex.load(folder, VECTORS)


def test_an_index_of_other_vectors_is_refused(folder: Path) -> None:
    card = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {"items": 49}))
    with pytest.raises(ValueError, match="is not the index that"):
        ItemIndex.load(folder, VECTORS)


MANY = np.random.default_rng(2).normal(size=(3000, 8)).astype(np.float32)


def test_an_approximate_index_reaches_the_recall_that_its_card_tells(tmp_path: Path) -> None:
    build_index(MANY, tmp_path, "ivf", target=0.9, queries_BD=QUERIES)
    card = json.loads((tmp_path / "index.json").read_text())
    assert (card["kind"], card["queries"]) == ("ivf", "given")
    scores, rows = ItemIndex.load(tmp_path, MANY).search(QUERIES, card["measured_with"]["hits"])
    exact = np.argsort(-(QUERIES @ MANY.T), axis=1)[:, : card["measured_with"]["hits"]]
    found = [len(set(r) & set(e)) for r, e in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert sum(found) / exact.size == pytest.approx(card["recall"])
    assert card["recall"] >= 0.9
    products = np.take_along_axis(QUERIES @ MANY.T, rows, 1)
    np.testing.assert_allclose(scores, products, rtol=1e-5, atol=1e-6)


def test_an_approximate_index_gives_as_many_rows_as_asked_for(tmp_path: Path) -> None:
    build_index(MANY, tmp_path, "ivf", target=0.5, queries_BD=QUERIES)
    for k in (1, 700, 3000):
        _, rows = ItemIndex.load(tmp_path, MANY).search(QUERIES, k)
        assert rows.shape == (7, k)
        assert rows.min() >= 0
        assert all(len(set(row)) == k for row in rows.tolist())


def test_equal_vectors_have_an_approximate_index_too(tmp_path: Path) -> None:
    """Some of its lists are empty, and a search of few lists finds nothing."""
    equal = np.repeat(MANY[:40], 75, axis=0)
    build_index(equal, tmp_path, "ivf", target=0.01, queries_BD=QUERIES)
    _, rows = ItemIndex.load(tmp_path, equal).search(QUERIES, 5)
    assert rows.min() >= 0


def test_a_recall_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--index flat"):
        build_index(MANY, tmp_path, "ivf", target=1.01)


def test_a_small_catalogue_is_searched_exactly(tmp_path: Path) -> None:
    build_index(MANY, tmp_path)
    assert ItemIndex.load(tmp_path, MANY).kind == "flat"


def contest(dense: float, by_index: float) -> Contest:
    """One with a known end."""

    def run(vectors: Vectors, index: ItemIndex, queries: Vectors) -> tuple[Rates, Rates]:
        assert index.search(queries, 5)[1].shape == (len(queries), 5)
        return {str(b): dense for b in BATCHES}, {str(b): by_index for b in BATCHES}

    return run


@pytest.mark.parametrize("dense", [1.0, 3.0])
@pytest.mark.parametrize("large", [1000, 100_000])
def test_whole_scores_are_chosen_where_they_are_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: float, large: int
) -> None:
    """Faster than the better one of the two indexes: which one that is may differ."""
    monkeypatch.setattr("index.build.LARGE", large)
    build_index(MANY, tmp_path, "auto", 0.5, QUERIES, contest(dense, 2.0))
    card = json.loads((tmp_path / "index.json").read_text())
    other = (set(card["contest"]) - {"dense_per_second"}).pop()
    assert card["contest"] == {
        "dense_per_second": {str(b): dense for b in BATCHES},
        other: {str(b): 2.0 for b in BATCHES},
    }
    loaded = ItemIndex.load(tmp_path, MANY)
    assert f"{loaded.kind}_per_second" == ("dense_per_second" if dense > 2 else other)
    if loaded.kind == "dense":
        exact = np.argsort(-(QUERIES @ MANY.T), axis=1)[:, :10]
        assert loaded.search(QUERIES, 10)[1].tolist() == exact.tolist()


@pytest.mark.parametrize("kind", ["flat", "dense"])
def test_what_is_asked_for_is_not_contested(tmp_path: Path, kind: Literal["flat", "dense"]) -> None:
    build_index(MANY, tmp_path, kind, contest=contest(1.0 if kind == "dense" else 3.0, 2.0))
    assert ItemIndex.load(tmp_path, MANY).kind == kind


def test_too_many_items_for_whole_scores_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.build.MOST_DENSE", len(MANY) - 1)
    build_index(MANY, tmp_path, contest=contest(3.0, 2.0))
    assert ItemIndex.load(tmp_path, MANY).kind == "flat"


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    card = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {"kind": "graph"}))
    with pytest.raises(ValueError, match="unknown kind 'graph'"):
        ItemIndex.load(folder, VECTORS)
