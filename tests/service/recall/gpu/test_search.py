"""Searches for a GPU, on CPU tensors (the same code but for the 16-bit product) and on a GPU."""

from pathlib import Path

import faiss
import pytest
import torch
from torch.nn import functional as F

from index.build import build_index
from service.recall.gpu.search import (
    FaissFlatSearcher,
    FaissListSearcher,
    ProductSearcher,
    Searcher,
    searcher,
)


def clustered(items: int) -> torch.Tensor:
    """Vectors in 60 clusters, as inverted lists need them."""
    generator = torch.Generator().manual_seed(items)
    centres_CD = torch.randn(60, 16, generator=generator)
    near_VD = centres_CD[torch.randint(60, (items,), generator=generator)]
    return near_VD + 0.3 * torch.randn(items, 16, generator=generator)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


@pytest.fixture(scope="module", params=DEVICES)
def vectors_VD(request: pytest.FixtureRequest) -> torch.Tensor:
    return clustered(20_000).to(request.param)


@pytest.fixture(scope="module")
def bundle(vectors_VD: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index of inverted lists that holds 95 % of the exact hits."""
    folder = tmp_path_factory.mktemp("lists")
    build_index(vectors_VD.cpu().numpy(), folder, "ivf", 0.95, vectors_VD[:200].cpu().numpy())
    return folder


@pytest.fixture(scope="module")
def lists(vectors_VD: torch.Tensor, bundle: Path) -> Searcher:
    return searcher("faiss", vectors_VD, bundle)


@pytest.mark.parametrize("items", [5, 300, 20_000])  # the last is searched group by group
@pytest.mark.parametrize("kind", ["product", "faiss"])
@pytest.mark.parametrize("device", DEVICES)
def test_hits_are_those_of_sorting(items: int, kind: str, device: str) -> None:
    generator = torch.Generator().manual_seed(items)
    vectors_VD = F.normalize(torch.randn(items, 8, generator=generator), dim=1)
    interests_BD = torch.randn(6, 8, generator=generator)
    excluded_BC = torch.randint(-1, items, (6, 9), generator=generator)
    there_VD = vectors_VD.to(device)
    product = ProductSearcher(there_VD)
    search = product if kind == "product" else FaissFlatSearcher(there_VD, product)
    found = search.search(interests_BD.to(device), excluded_BC.to(device), 50)
    scores_BF, rows_BF = (part.cpu() for part in found)
    assert rows_BF.shape == scores_BF.shape == (6, min(50, items))
    for query in range(6):
        expected_V = vectors_VD @ interests_BD[query]
        expected_V[[row for row in excluded_BC[query].tolist() if row >= 0]] = -torch.inf
        order = [r for r in expected_V.argsort(descending=True).tolist() if expected_V[r] > -1e9]
        rows = rows_BF[query][scores_BF[query] > -torch.inf].tolist()
        assert rows == order[:50]
        torch.testing.assert_close(scores_BF[query, : len(rows)], expected_V[rows])


def test_queries_are_searched_in_chunks_if_their_scores_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors_VD, interests_BD = torch.randn(100, 4), torch.randn(7, 4)
    nothing = torch.full((7, 1), -1)
    _, together = ProductSearcher(vectors_VD).search(interests_BD, nothing, 10)
    monkeypatch.setattr("service.recall.gpu.search.SCORE_BYTES", 2 * 4 * 128)
    _, in_chunks = ProductSearcher(vectors_VD).search(interests_BD, nothing, 10)
    assert torch.equal(together, in_chunks)


def test_more_hits_than_faiss_can_fetch_are_found_by_the_product() -> None:
    vectors_VD = torch.randn(4000, 4)
    search = FaissFlatSearcher(vectors_VD, ProductSearcher(vectors_VD))
    _, rows = search.search(vectors_VD[:1], torch.full((1, 1), -1), 3000)
    assert len(set(rows[0].tolist())) == 3000


def test_lists_find_their_share_and_nothing_excluded(
    vectors_VD: torch.Tensor, lists: Searcher
) -> None:
    interests_BD = vectors_VD[-20:]
    nothing = torch.full((20, 1), -1, device=vectors_VD.device)
    _, exact_BF = ProductSearcher(vectors_VD).search(interests_BD, nothing, 100)
    excluded_BC = exact_BF[:, :50]
    scores_BF, rows_BF = lists.search(interests_BD, excluded_BC, 50)
    assert not (rows_BF[..., None] == excluded_BC[:, None]).any()
    found_BF = (rows_BF[..., None] == exact_BF[:, None, 50:]).any(dim=2)
    assert float(found_BF.float().mean()) > 0.9
    torch.testing.assert_close(
        scores_BF, torch.einsum("bfd,bd->bf", vectors_VD[rows_BF], interests_BD)
    )
    assert (scores_BF.diff(dim=1) <= 0).all()


def test_places_that_the_lists_cannot_fill_are_no_hits(
    vectors_VD: torch.Tensor, bundle: Path
) -> None:
    search = FaissListSearcher(vectors_VD, bundle, ProductSearcher(vectors_VD))
    search._nprobe = 0.1
    nothing = torch.full((4, 3), -1, device=vectors_VD.device)
    scores_BF, rows_BF = search.search(vectors_VD[:4], nothing, 1000)
    assert (scores_BF == -torch.inf).any()
    assert ((rows_BF >= 0) & (rows_BF < len(vectors_VD))).all()


def test_more_hits_probe_more_lists(vectors_VD: torch.Tensor, bundle: Path) -> None:
    search = FaissListSearcher(vectors_VD, bundle, ProductSearcher(vectors_VD))
    nothing, probed = torch.full((1, 1), -1, device=vectors_VD.device), []
    for hits in (100, 1000):
        search.search(vectors_VD[:1], nothing, hits)
        probed.append(search._index.nprobe)
    assert probed[1] > 3 * probed[0]


def test_the_setting_and_index_json_name_the_search(
    vectors_VD: torch.Tensor, bundle: Path, tmp_path: Path
) -> None:
    build_index(vectors_VD[:1000].cpu().numpy(), tmp_path, "exact")
    assert isinstance(searcher("product", vectors_VD, bundle), ProductSearcher)
    assert isinstance(searcher("faiss", vectors_VD, bundle), FaissListSearcher)
    assert isinstance(searcher("faiss", vectors_VD[:1000], tmp_path), FaissFlatSearcher)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this Faiss has a GPU part")
def test_a_faiss_without_a_gpu_part_is_refused(bundle: Path) -> None:
    elsewhere_VD = torch.empty(10, 4, device="meta")
    with pytest.raises(ValueError, match="has no GPU part"):
        searcher("faiss", elsewhere_VD, bundle)
    assert isinstance(searcher("product", elsewhere_VD, bundle), ProductSearcher)
