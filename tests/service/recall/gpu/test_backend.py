"""Generation on a GPU, run on CPU tensors here: the same code, but without CUDA graphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import query_batch

from model.artifact.bundle import load_artifact
from model.artifact.versions import find_bundle
from model.data.dataset import Dataset
from service.recall.gpu.backend import (
    DeviceBatch,
    GpuBackend,
    Hits,
    Rollout,
    Size,
    device_batch,
    padding,
    size_of,
)
from service.recall.gpu.search import ProductSearcher
from service.recall.recaller import Recaller
from service.recall.types import Query
from service.settings import GpuSearch

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["product", "faiss"])
def on_gpu(artifacts: Path, request: pytest.FixtureRequest) -> Recaller:
    """A recaller that generates as on a GPU."""
    artifact = load_artifact(find_bundle(artifacts))
    return Recaller(artifact, GpuBackend(artifact, CPU, request.param))


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


def test_a_size_that_comes_often_is_recorded_once(
    artifacts: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs themselves need a GPU: here one stands in that runs what it should have recorded."""
    recorded: list[Size] = []

    class Graph:
        def __init__(self, rollout: Rollout, size: Size, *_: object) -> None:
            recorded.append(size)
            self._run = rollout, size

        def __call__(self, batch: DeviceBatch) -> Hits:
            rollout, size = self._run
            return rollout(batch, size)

    monkeypatch.setattr("service.recall.gpu.backend.RolloutGraph", Graph)
    monkeypatch.setattr("service.recall.gpu.backend.RECORD_AFTER", 3)
    artifact = load_artifact(find_bundle(artifacts))
    backend = GpuBackend(artifact, CPU)
    backend._recording, backend._pool = True, None
    recaller = Recaller(artifact, backend)
    query = Query("u0", [dataset.item_ids[row] for row in dataset.history(0)], k=10)
    answers = [recaller.recall([query])[0][0].rows.tolist() for _ in range(5)]
    assert recorded == [(1, 64, 128, artifact.manifest.recall.interests)]
    assert answers == answers[:1] * 5


def test_a_rollout_reads_no_value_and_takes_none_from_the_host(artifacts: Path) -> None:
    """As a CUDA graph requires. Tensors without values stand for a GPU's: both would fail."""
    artifact, meta = load_artifact(find_bundle(artifacts)), torch.device("meta")
    model = artifact.model.to(meta)
    rollout = Rollout(model, ProductSearcher(model.items.weight.detach()))
    size = Size(8, 64, 128, artifact.manifest.model.max_interests)
    batch = DeviceBatch(
        *(part.to(meta) for part in padding(size, artifact.manifest.model.max_history))
    )
    with torch.inference_mode():
        scores, rows, _ = rollout(batch, size)
        large = ProductSearcher(torch.empty(100_000, 16, device=meta))  # searched group by group
        found = large.search(torch.empty(8, 16, device=meta), batch.excluded_BC, 128)
    assert rows.shape == scores.shape == (size.steps, 8, min(128, len(artifact.items)))
    assert found[0].shape == (8, 128)
    assert {part.device for part in (rows, scores, *found)} == {meta}
    assert large._coarse_PD.dtype == torch.float16


def test_batches_are_padded_to_few_sizes() -> None:
    def size(users: int, excluded: int, k: int) -> Size:
        many = [[0] * excluded] * users
        return size_of(query_batch(many, [[k]] * users), 1)

    assert size(1, 1, 1) == size(1, 64, 128) == (1, 64, 128, 1)
    assert size(5, 65, 129) == (8, 128, 256, 1)


def test_a_batch_holds_the_queries_with_a_history_and_padding() -> None:
    some = query_batch([[7, 8, 1], [2], [9]], [[5]] * 3, [[7, 8], [], [9, 10, 11]])
    real_BO = np.array([[3] + [-1] * 6, [4] + [-1] * 6, [5, 6] + [-1] * 5])
    history_BL, lengths_B, users_B, excluded_BC, offers_BO = device_batch(
        some._replace(users_B=np.array([4, 5, 6]), real_BO=real_BO),
        Size(4, excluded=4, hits=128, steps=1),
        longest=3,
    )
    assert history_BL.tolist() == [[7, 8, 0], [9, 10, 11], [0, 0, 0], [0, 0, 0]]
    assert lengths_B.tolist() == [2, 3, 1, 1]
    assert users_B.tolist() == [4, 6, -1, -1]
    assert excluded_BC.tolist() == [[7, 8, 1, -1], [9, -1, -1, -1], [-1] * 4, [-1] * 4]
    assert offers_BO.tolist() == [real_BO[0].tolist(), real_BO[2].tolist(), [-1] * 7, [-1] * 7]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("search", ["product", "faiss"])
def test_a_gpu_answers_as_the_cpu(artifacts: Path, dataset: Dataset, search: GpuSearch) -> None:
    """The parity test: CUDA graphs, 16-bit products and Faiss's GPU part included."""
    queries = [
        Query(f"u{user}", [dataset.item_ids[row] for row in dataset.history(user)], k=10)
        for user in range(50)
    ]
    found, _ = Recaller.load(artifacts, "cuda", search).recall(queries)
    expected, _ = Recaller.load(artifacts, "cpu").recall(queries)
    for one, other in zip(found, expected, strict=True):
        assert set(one.rows.tolist()) == set(other.rows.tolist())
