"""An index as the service loads it: what it finds, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from index.build import build_index, vectors_sha256
from index.exact import ExactIndex
from index.search import IvfIndex, load_index

VECTORS = np.random.default_rng(2).normal(size=(3000, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)
HASH = vectors_sha256(VECTORS)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    build_index(VECTORS, folder, "exact")
    return folder


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ivf")
    build_index(VECTORS, folder, "ivf", target=0.5, queries_BD=QUERIES)
    return folder


def test_a_share_that_is_none_is_refused(exact: Path, tmp_path: Path) -> None:
    folder = copied(exact, tmp_path, filters={"gathered_share": 2})
    with pytest.raises(ValueError, match=r"gathered_share is 2, and should be from 0 to 1"):
        load_index(folder, VECTORS, HASH)


def copied(folder: Path, to: Path, **changed: object) -> Path:
    """The index with other values in index.json."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    content = json.loads((to / "index.json").read_text())
    (to / "index.json").write_text(json.dumps(content | changed))
    return to


def test_the_kind_is_that_of_the_description(exact: Path, inverted: Path) -> None:
    assert isinstance(load_index(exact, VECTORS, HASH), ExactIndex)
    assert isinstance(load_index(inverted, VECTORS, HASH), IvfIndex)


def test_exact_search_finds_what_sorting_finds(exact: Path) -> None:
    scores, rows = load_index(exact, VECTORS, HASH).search(QUERIES, 10)
    expected = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :10]
    assert rows.tolist() == expected.tolist()
    products = np.take_along_axis(QUERIES @ VECTORS.T, expected, 1)
    np.testing.assert_allclose(scores, products, rtol=1e-5)


def test_inverted_lists_give_as_many_rows_as_wanted(inverted: Path) -> None:
    index = load_index(inverted, VECTORS, HASH)
    for k in (1, 700, 3000, 9000):
        scores, rows = index.search(QUERIES, k)
        assert rows.shape == (7, min(k, 3000))
        assert rows.min() >= 0
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        products = np.take_along_axis(QUERIES @ VECTORS.T, rows, 1)
        np.testing.assert_allclose(scores, products, rtol=1e-5, atol=1e-6)


def test_lists_of_equal_vectors_give_as_many_rows_as_wanted(tmp_path: Path) -> None:
    """Some lists are empty, and a search of few lists finds nothing."""
    equal = np.repeat(VECTORS[:40], 75, axis=0)
    build_index(equal, tmp_path, "ivf", target=0.01, queries_BD=QUERIES)
    _, rows = load_index(tmp_path, equal, vectors_sha256(equal)).search(QUERIES, 5)
    assert rows.min() >= 0


def test_damaged_lists_are_refused(inverted: Path, tmp_path: Path) -> None:
    file = copied(inverted, tmp_path) / "index.faiss"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be used"):
        load_index(tmp_path, VECTORS, HASH)


@pytest.mark.parametrize("name", ["index.json", "index.faiss"])
def test_a_missing_file_is_refused(inverted: Path, tmp_path: Path, name: str) -> None:
    (copied(inverted, tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_index(tmp_path, VECTORS, HASH)


@pytest.mark.parametrize("changed", [{"items": 2999}, {"dim": 9}, {"vectors_sha256": "0"}])
def test_an_index_of_other_vectors_is_refused(
    exact: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="built from other item vectors"):
        load_index(copied(exact, tmp_path, **changed), VECTORS, HASH)


def test_an_unknown_kind_is_refused(exact: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown kind 'graph'"):
        load_index(copied(exact, tmp_path, kind="graph"), VECTORS, HASH)


def test_an_index_of_an_older_version_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"kind": "dense"}')
    with pytest.raises(ValueError, match=r"has the format 1.*recgpt export"):
        load_index(tmp_path, VECTORS, HASH)


def test_more_lists_find_more_of_the_hits(inverted: Path) -> None:
    index = load_index(inverted, VECTORS, HASH)
    assert isinstance(index, IvfIndex)
    assert 1 <= index.effort(10) <= index.effort(1000) <= index.lists
    exact = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :50]
    shares = []
    for lists in (1, index.lists // 2, index.lists):
        _, rows = index.search_lists(QUERIES, 50, lists)
        found = [len(np.intersect1d(one, two)) for one, two in zip(rows, exact, strict=True)]
        shares.append(sum(found) / exact.size)
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] > 0.99
