"""The files that an export writes, and its choice of a search."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import crossover
from index.build import Requested, build_index, build_index_like, vectors_sha256
from index.exact import ExactIndex
from index.formats import FORMAT
from index.kernels.masks import Bools
from index.search import load_index, selection_search

VECTORS = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(7, 8)).astype(np.float32)


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "index.json").read_text())
    return content


def test_an_exact_index_is_a_description_only(tmp_path: Path) -> None:
    build_index(VECTORS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]
    assert written(tmp_path) == {
        "format": FORMAT,
        "kind": "exact",
        "parameters": {},
        "requested": "auto",
        "target": 0.98,
        "queries": "perturbed items",
        "metric": "inner_product",
        "items": 3000,
        "dim": 8,
        "vectors_sha256": vectors_sha256(VECTORS),
    }
    assert vectors_sha256(VECTORS) != vectors_sha256(QUERIES)


def test_inverted_lists_reach_the_recall_that_is_told(tmp_path: Path) -> None:
    build_index(VECTORS, tmp_path, "ivf", target=0.9, queries_BD=QUERIES)
    content = written(tmp_path)
    assert (content["kind"], content["queries"]) == ("ivf", "given")
    hits = content["measured"]["hits"]
    _, rows = load_index(tmp_path, VECTORS, vectors_sha256(VECTORS)).search(QUERIES, hits)
    _, exact = ExactIndex(VECTORS).search(QUERIES, hits)
    found = [len(set(r) & set(e)) for r, e in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert sum(found) / exact.size == pytest.approx(content["measured"]["recall"])
    assert content["measured"]["recall"] >= 0.9


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_the_share_that_is_gathered_is_measured(
    kind: Requested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_from = 0.4
    monkeypatch.setattr(crossover, "MEASURED_FROM", 1000)
    monkeypatch.setattr(crossover, "_seconds", lambda search: 0.0 if search() else 1.0)

    def faster(index: object, allowed_V: Bools, *_: object) -> bool:
        assert by_clock(index, allowed_V, *_) is False  # type: ignore[arg-type]  # runs both
        return bool(allowed_V.mean() > slow_from - 0.05)

    by_clock = crossover._mask_is_faster
    monkeypatch.setattr(crossover, "_mask_is_faster", faster)
    build_index(VECTORS, tmp_path, kind, target=0.5, queries_BD=QUERIES)
    assert written(tmp_path)["filters"] == {"gathered_share": 0.25}
    index = load_index(tmp_path, VECTORS, vectors_sha256(VECTORS))
    allowed_V = np.arange(3000) < 750
    assert selection_search(index).select(allowed_V).gathered
    allowed_V[750] = True
    assert not selection_search(index).select(allowed_V).gathered
    monkeypatch.setattr(crossover, "MAX_GATHERED", 200)
    build_index(VECTORS, tmp_path, kind, target=0.5, queries_BD=QUERIES)
    assert written(tmp_path)["filters"] == {"gathered_share": 0.05}


def test_a_recall_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--index exact"):
        build_index(VECTORS, tmp_path, "ivf", target=1.01)


@pytest.mark.parametrize(
    ("requested", "large", "target", "ivf_rate", "kind"),
    [
        ("auto", 1000, 0.5, 3.0, "ivf"),
        ("auto", 1000, 0.5, 1.0, "exact"),  # slower
        ("auto", 1000, 1.01, 3.0, "exact"),  # too few hits
        ("auto", 3001, 0.5, 3.0, "exact"),  # a small catalogue
        ("ivf", 3001, 0.5, 1.0, "ivf"),
        ("exact", 1000, 0.5, 3.0, "exact"),
    ],
)
def test_lists_are_chosen_if_they_pay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requested: Requested,
    large: int,
    target: float,
    ivf_rate: float,
    kind: str,
) -> None:
    monkeypatch.setattr("index.build.LARGE", large)
    monkeypatch.setattr("index.build.rates", lambda *_, **__: [{"8": ivf_rate}, {"8": 2.0}])
    build_index(VECTORS, tmp_path, requested, target, QUERIES)
    content = written(tmp_path)
    assert content["kind"] == kind
    assert (tmp_path / "index.faiss").exists() == (kind == "ivf")
    tried = kind == "ivf" or (requested == "auto" and large <= 3000)
    assert ("measured" in content) == tried
    if tried:
        assert content["measured"]["ivf_per_second"] == {"8": ivf_rate}
        assert content["measured"]["exact_per_second"] == {"8": 2.0}


@pytest.mark.parametrize("queries", [QUERIES, None])
def test_an_index_like_another_one(tmp_path: Path, queries: np.ndarray | None) -> None:
    base, new = tmp_path / "base", tmp_path / "new"
    base.mkdir()
    new.mkdir()
    build_index(VECTORS, base, "ivf", 0.6, queries)
    build_index_like(VECTORS[:2000], new, base)
    before, after = written(base), written(new)
    for key in ("requested", "target", "queries", "kind"):
        assert before[key] == after[key]
    assert after["items"] == 2000
    assert (new / "index_queries.npy").exists() == (queries is not None)
