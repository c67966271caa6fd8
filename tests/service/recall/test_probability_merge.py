"""Lists merged by mean probability equal those of the reference, by both kinds of search."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from model.artifact.bundle import load_artifact
from model.data.dataset import Dataset
from model.evaluation.reference import DenseRecall
from model.network.config import RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle, service_recall
from service.recall.candidate_lists import POPULAR
from service.recall.filters.item_filters import EVERYTHING
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Query

RECALL = RecallConfig(interests=3, merge="probability", weights=(0.3, 0.5, 0.2))


@pytest.fixture(scope="module")
def model() -> GPT:
    return tiny.lively(tiny.gpt())


@pytest.fixture(scope="module", params=["exact", "ivf"])
def recaller(
    dataset: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    artifacts = tmp_path_factory.mktemp(request.param)
    export_bundle(artifacts, dataset, model, RECALL, {}, request.param)
    return Recaller.load(artifacts, "cpu")


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_the_trainers_reference(
    recaller: Recaller, dataset: Dataset, model: GPT, k: int
) -> None:
    histories, users = [dataset.history(user) for user in range(40)], np.arange(40)
    (found,) = service_recall(recaller, dataset)(histories, users, (k,))
    (expected,) = DenseRecall(model, RECALL)(histories, users, (k,))
    assert found.tolist() == expected.tolist()
    (by_quotas,) = DenseRecall(model, RECALL.model_copy(update={"merge": "quotas"}))(
        histories, users, (k,)
    )
    assert k == 1 or found.tolist() != by_quotas.tolist()


def test_queries_of_one_batch_may_ask_for_fewer_interests_and_other_lengths(
    recaller: Recaller, dataset: Dataset, model: GPT
) -> None:
    history = [dataset.item_ids[row] for row in dataset.history(0)]
    queries = [
        Query("", history, k=k, interests=interests, filter=form)
        for k, interests, form in ((7, 1, None), (3, 2, None), (5, 3, None), (5, 3, EVERYTHING))
    ]
    together, _ = recaller.recall([*queries[:3], Query("", [], k=4)])
    unknown = np.array([-1])
    for query, found in zip(queries[:3], together, strict=False):
        recall = RECALL.model_copy(update={"interests": query.interests})
        (expected,) = DenseRecall(model, recall)([dataset.history(0)], unknown, (query.k,))
        assert found.rows.tolist() == expected[0].tolist()
        assert set(found.interests.tolist()) <= set(range(query.interests or 0))
    assert together[3].interests.tolist() == [POPULAR] * 4
    (filtered,) = recaller.recall(queries[3:])[0]
    assert filtered.rows.tolist() == together[2].rows.tolist()


def test_a_score_is_the_inner_product_with_the_interest_that_adds_most(
    recaller: Recaller, dataset: Dataset
) -> None:
    meant = set()
    for user in range(40):
        history = [dataset.item_ids[row] for row in dataset.history(user)]
        query = Query("", history, k=12, explain=True)
        found = recaller.recall([query])[0][0]
        meant |= set(found.interests.tolist())
        if user > 4:
            continue
        told = recaller._explain(query, found.rows).interests
        for row, score, interest in zip(found.rows, found.scores, found.interests, strict=True):
            known = {item.row: item.score for item in told[interest]}
            assert row not in known or score == pytest.approx(known[row], abs=1e-4)
    assert meant == {0, 1, 2}


def test_popular_items_complete_a_list_that_excludes_almost_all(
    recaller: Recaller, dataset: Dataset
) -> None:
    history = [dataset.item_ids[row] for row in dataset.history(2)]
    found = recaller.recall([Query("", history, exclude=dataset.item_ids[:38], k=20)])[0][0]
    assert len(found.rows) <= 2
    assert len(set(found.rows.tolist())) == len(found.rows)


def test_a_gpu_refuses_it(dataset: Dataset, model: GPT, tmp_path: Path) -> None:
    artifact = load_artifact(export_bundle(tmp_path, dataset, model, RECALL, {}))
    with pytest.raises(ValueError, match=r"recall.merge = probability is not served on a GPU yet"):
        GpuBackend(artifact, torch.device("cpu"))
