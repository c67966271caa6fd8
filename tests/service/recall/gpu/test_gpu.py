"""Generation on a GPU, run on the CPU here: the same code, but for graphs and 16-bit products."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import query_batch
from torch.nn import functional as F

from model.artifact.bundle import find_bundle, load_artifact
from model.data.dataset import Dataset
from service.recall.gpu.backend import (
    DeviceBatch,
    Found,
    GpuBackend,
    Rollout,
    Size,
    device_batch,
    padding,
    size_of,
)
from service.recall.gpu.choice import Approximate, by_lists, fastest, fastest_search
from service.recall.gpu.faiss_search import FaissFlat, FaissLists
from service.recall.gpu.search import Search, Shards, WholeScores
from service.recall.recaller import Recaller
from service.recall.types import Query

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[1, 3], ids=["one device", "three shards"])
def on_gpu(artifacts: Path, request: pytest.FixtureRequest) -> Recaller:
    """A recaller that generates as on GPUs."""
    artifact = load_artifact(find_bundle(artifacts))
    return Recaller(artifact, GpuBackend(artifact, [CPU] * request.param))


def test_answers_are_those_of_the_cpu(on_gpu: Recaller, artifacts: Path, dataset: Dataset) -> None:
    recaller = Recaller.load(artifacts, "cpu")
    histories = [[dataset.item_ids[row] for row in dataset.history(u)] for u in range(20)]
    queries = [
        Query(f"u{user}", history[: user + 1], histories[-1][:user], k=user + 1, interests=steps)
        for steps in (None, 1, 4)
        for user, history in enumerate(histories)
    ]
    queries += [Query("u0", []), Query("u1", dataset.item_ids), Query("u2", histories[2], k=40)]
    for found, expected in zip(on_gpu.recall(queries)[0], recaller.recall(queries)[0], strict=True):
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.interests.tolist() == expected.interests.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def searches(vectors_VD: torch.Tensor) -> list[Search]:
    whole = WholeScores(vectors_VD)
    return [whole, Shards(vectors_VD, [CPU] * 3), FaissFlat(vectors_VD, otherwise=whole)]


@pytest.mark.parametrize("items", [5, 300, 20_000])  # the last is searched group by group
@pytest.mark.parametrize("at", range(3), ids=["whole", "shards", "faiss"])
def test_hits_are_those_of_sorting(items: int, at: int) -> None:
    generator = torch.Generator().manual_seed(items)
    vectors_VD = F.normalize(torch.randn(items, 8, generator=generator), dim=1)
    interest_BD = torch.randn(6, 8, generator=generator)
    closed_BC = torch.randint(-1, items, (6, 9), generator=generator)
    rows, scores = searches(vectors_VD)[at].hits(interest_BD, closed_BC, 50)
    assert rows.shape == scores.shape == (6, min(50, items))
    for user in range(6):
        expected_V = vectors_VD @ interest_BD[user]
        expected_V[[row for row in closed_BC[user].tolist() if row >= 0]] = -torch.inf
        order = [r for r in expected_V.argsort(descending=True).tolist() if expected_V[r] > -1e9]
        found = rows[user][scores[user] > -torch.inf].tolist()
        assert found == order[:50]
        torch.testing.assert_close(scores[user, : len(found)], expected_V[found])


def test_many_users_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_VD, interest_BD = torch.randn(100, 4), torch.randn(7, 4)
    nothing = torch.full((7, 1), -1)
    together = WholeScores(vectors_VD).hits(interest_BD, nothing, 10)
    monkeypatch.setattr("service.recall.gpu.search.SCORE_BYTES", 2 * 4 * 128)
    in_turn = WholeScores(vectors_VD).hits(interest_BD, nothing, 10)
    assert torch.equal(together[0], in_turn[0])


def test_more_hits_than_faiss_gives_are_found_all_the_same() -> None:
    vectors_VD = torch.randn(4000, 4)
    nothing = torch.full((1, 1), -1)
    rows, _ = FaissFlat(vectors_VD, WholeScores(vectors_VD)).hits(vectors_VD[:1], nothing, 3000)
    assert len(set(rows[0].tolist())) == 3000


def clustered(items: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(items)
    centres_CD = torch.randn(60, 16, generator=generator)
    near_VD = centres_CD[torch.randint(60, (items,), generator=generator)]
    return near_VD + 0.3 * torch.randn(items, 16, generator=generator)


def test_lists_find_the_wanted_share_and_nothing_closed() -> None:
    vectors_VD = clustered(20_000)
    whole = WholeScores(vectors_VD)
    search = FaissLists(vectors_VD, whole, vectors_VD[:200], 0.95)
    assert search.recall >= 0.95
    interest_BD, nothing = vectors_VD[-20:], torch.full((20, 1), -1)
    exact_BF, _ = whole.hits(interest_BD, nothing, 100)
    closed_BC = exact_BF[:, :50]
    rows_BF, scores_BF = search.hits(interest_BD, closed_BC, 50)
    assert not (rows_BF[..., None] == closed_BC[:, None]).any()
    found_BF = (rows_BF[..., None] == exact_BF[:, None, 50:]).any(dim=2)
    assert float(found_BF.float().mean()) > 0.9
    torch.testing.assert_close(
        scores_BF, torch.einsum("bfd,bd->bf", vectors_VD[rows_BF], interest_BD)
    )
    assert (scores_BF.diff(dim=1) <= 0).all()


def test_what_lists_do_not_hold_is_no_hit() -> None:
    vectors_VD = clustered(3000)
    search = FaissLists(vectors_VD, WholeScores(vectors_VD), vectors_VD[:50], 0.5)
    search._lists = 1
    rows_BF, scores_BF = search.hits(vectors_VD[:4], torch.full((4, 3), -1), 1000)
    assert (scores_BF == -torch.inf).any()
    assert (rows_BF[scores_BF > -torch.inf] >= 0).all()


def test_the_fastest_search_is_taken_and_lists_that_find_too_little_are_not() -> None:
    vectors_VD = clustered(5000)
    whole = WholeScores(vectors_VD)

    class Slow(WholeScores):
        def hits(self, *asked: Any) -> Found:
            time.sleep(0.01)
            return super().hits(*asked)

    assert fastest([Slow(vectors_VD), whole], vectors_VD) is whole
    assert len(by_lists(vectors_VD, whole, Approximate(0.9, vectors_VD[:100]))) == 1
    assert by_lists(vectors_VD, whole, Approximate(1.1, vectors_VD[:100])) == []


def test_only_what_was_asked_for_is_approximate(artifacts: Path, tmp_path: Path) -> None:
    bundle = find_bundle(artifacts)
    approximate = Approximate.of(bundle)
    assert approximate
    assert approximate.target == 0.98
    assert len(approximate.queries_BD) > 0
    for name in ("index.json", "index_queries.npy"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    card = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(card | {"asked": "flat"}))
    assert Approximate.of(tmp_path) is None


def test_without_a_gpu_whole_scores_are_used() -> None:
    assert isinstance(fastest_search(torch.randn(10, 4), [CPU]), WholeScores)
    assert isinstance(fastest_search(torch.randn(10, 4), [CPU, CPU]), Shards)


def test_a_size_that_comes_often_is_recorded_once(
    artifacts: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs themselves need a GPU: here one stands in that runs what it should have recorded."""
    recorded: list[Size] = []

    class Graph:
        def __init__(self, rollout: Rollout, size: Size, *_: object) -> None:
            recorded.append(size)
            self._run = rollout, size

        def __call__(self, batch: DeviceBatch) -> Found:
            rollout, size = self._run
            return rollout(batch, size)

    monkeypatch.setattr("service.recall.gpu.backend.Graph", Graph)
    monkeypatch.setattr("service.recall.gpu.backend.OFTEN", 3)
    artifact = load_artifact(find_bundle(artifacts))
    backend = GpuBackend(artifact, [CPU])
    backend._recording, backend._pool = True, None
    recaller = Recaller(artifact, backend)
    query = Query("u0", [dataset.item_ids[row] for row in dataset.history(0)], k=10)
    answers = [recaller.recall([query])[0][0].rows.tolist() for _ in range(5)]
    assert recorded == [(1, 64, 128, artifact.manifest.recall.interests)]
    assert answers == answers[:1] * 5


def test_a_rollout_waits_for_no_value_and_takes_none_from_the_host(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CUDA graph wants it. Tensors without values stand for a GPU's: both would fail."""
    monkeypatch.setattr(
        "service.recall.gpu.backend.fastest_search", lambda vectors_VD, *_: WholeScores(vectors_VD)
    )
    artifact, meta = load_artifact(find_bundle(artifacts)), torch.device("meta")
    rollout = Rollout(artifact.model.to(meta), [meta])
    size = Size(8, 64, 128, artifact.manifest.model.max_interests)
    batch = padding(size, artifact.manifest.model.max_history)
    with torch.inference_mode():
        rows, scores = rollout(DeviceBatch(*(part.to(meta) for part in batch)), size)
        of_groups = WholeScores(torch.empty(100_000, 16, device=meta))
        found = of_groups.hits(torch.empty(8, 16, device=meta), batch.closed_BC.to(meta), 128)
    assert rows.shape == scores.shape == (size.steps, 8, min(128, len(artifact.items)))
    assert found[0].shape == (8, 128)
    assert {part.device for part in (rows, scores, *found)} == {meta}
    assert of_groups._coarse_PD.dtype == torch.float16


def test_batches_are_padded_to_few_sizes() -> None:
    def size(users: int, closed: int, k: int) -> Size:
        many = [[0] * closed] * users
        return size_of(query_batch(many, [[k]] * users), 1)

    assert size(1, 1, 1) == size(1, 64, 128) == (1, 64, 128, 1)
    assert size(5, 65, 129) == (8, 128, 256, 1)


def test_a_batch_holds_those_who_run_and_padding() -> None:
    some = query_batch([[7, 8, 1], [2], [9]], [[5]] * 3, [[7, 8], [], [9, 10, 11]])
    history_BL, lengths_B, users_B, closed_BC = device_batch(
        some._replace(users_B=np.array([4, 5, 6])), Size(4, closed=4, most=128, steps=1), longest=3
    )
    assert history_BL.tolist() == [[7, 8, 0], [9, 10, 11], [0, 0, 0], [0, 0, 0]]
    assert lengths_B.tolist() == [2, 3, 1, 1]
    assert users_B.tolist() == [4, 6, -1, -1]
    assert closed_BC.tolist() == [[7, 8, 1, -1], [9, -1, -1, -1], [-1] * 4, [-1] * 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_answers_as_the_cpu(artifacts: Path, dataset: Dataset) -> None:
    """The parity test: graphs, 16-bit products and Faiss's GPU part included."""
    queries = [
        Query(f"u{user}", [dataset.item_ids[row] for row in dataset.history(user)], k=10)
        for user in range(50)
    ]
    found, _ = Recaller.load(artifacts, "cuda").recall(queries)
    expected, _ = Recaller.load(artifacts, "cpu").recall(queries)
    for one, other in zip(found, expected, strict=True):
        assert set(one.rows.tolist()) == set(other.rows.tolist())
