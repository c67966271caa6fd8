import json
from pathlib import Path

import numpy as np
import pytest

from index.build import build_index, vectors_sha256
from index.search import ItemIndex

VECTORS = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(VECTORS, tmp_path)
    return tmp_path


def test_search_is_exact(folder: Path) -> None:
    rows, scores = ItemIndex.load(folder).search(QUERIES, 10)
    expected = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :10]
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(
        scores, np.take_along_axis(QUERIES @ VECTORS.T, expected, 1), rtol=1e-5
    )


def test_k_above_the_catalogue_gives_what_there_is(folder: Path) -> None:
    rows, scores = ItemIndex.load(folder).search(QUERIES, 1000)
    assert rows.shape == scores.shape == (7, 50)
    assert sorted(rows[0]) == list(range(50))


def test_the_card_names_the_vectors(folder: Path) -> None:
    index = ItemIndex.load(folder)
    assert (index.items, index.dim, index.kind) == (50, 8, "flat")
    assert index.vectors_sha256 == vectors_sha256(VECTORS) != vectors_sha256(QUERIES)


def test_a_damaged_index_is_refused(folder: Path) -> None:
    file = folder / "index.faiss"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read"):
        ItemIndex.load(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match=r"index\.json"):
        ItemIndex.load(folder)


def test_an_index_of_other_vectors_is_refused(folder: Path) -> None:
    card = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {"items": 49}))
    with pytest.raises(ValueError, match="is not the index that"):
        ItemIndex.load(folder)


def test_without_a_gpu_it_stays_on_the_cpu(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    faiss = pytest.importorskip("faiss")
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    rows, _ = ItemIndex.load(folder, "cuda").search(QUERIES, 3)
    assert rows.shape == (7, 3)
    assert "stays on the CPU" in caplog.text
