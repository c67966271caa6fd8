import numpy as np
import pytest
import torch
from pydantic_core import from_json
from tiny import RECALL

from model.artifact.bundle import load_artifact, read_item_vectors
from model.data.dataset import Dataset
from model.network.gpt import GPT
from service.offline import export_bundle
from service.recall.explainer import RELATED, SHOWN
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import EncodedCandidates, Explanation, Query


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def recaller(
    dataset: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    bundle = export_bundle(tmp_path_factory.mktemp(request.param), dataset, model, RECALL, {})
    if request.param == "cpu":
        return Recaller.load(bundle, "cpu")
    artifact = load_artifact(bundle)  # the GPU's code on CPU tensors
    return Recaller(artifact, GpuBackend(artifact, torch.device("cpu")))


def explained(recaller: Recaller, query: Query) -> tuple[EncodedCandidates, Explanation]:
    (answer,), _ = recaller.recall_json([query])
    assert answer.explanation
    return answer, Explanation(**from_json(answer.explanation))


def test_candidates_are_the_hits_that_no_earlier_interest_gave(
    recaller: Recaller, dataset: Dataset
) -> None:
    history = [dataset.item_ids[row] for row in dataset.history(3)]
    exclude = [item for item in dataset.item_ids[:5] if item not in history]
    query = Query("u3", history, exclude, k=10, interests=4, explain=True)
    answer, explanation = explained(recaller, query)
    assert len(explanation.interests) == 4
    given: set[str] = set()
    for number, hits in enumerate(explanation.interests):
        assert len(hits) == SHOWN
        assert not {item_id for _, item_id, _ in hits} & {*history, *exclude}
        candidates = [c for c in from_json(answer.json) if c["interest"] == number]
        left = [(item_id, score) for _, item_id, score in hits if item_id not in given]
        for (item_id, score), candidate in zip(left, candidates, strict=False):
            assert item_id == candidate["item_id"]
            assert score == pytest.approx(candidate["score"], abs=1e-4)
        given |= {c["item_id"] for c in candidates}


def test_an_offer_is_the_best_hit_that_was_not_offered_before(
    recaller: Recaller, dataset: Dataset
) -> None:
    history = [dataset.item_ids[row] for row in dataset.history(1)]
    _, explanation = explained(recaller, Query("u1", history, interests=4, explain=True))
    assert len(explanation.offers) == 3
    for step, offer in enumerate(explanation.offers):
        hits = [item_id for _, item_id, _ in explanation.interests[step]]
        assert offer == next(hit for hit in hits if hit not in explanation.offers[:step])


def test_history_is_what_the_network_reads(recaller: Recaller, dataset: Dataset) -> None:
    items = [dataset.item_ids[row] for row in range(12)]
    _, explanation = explained(recaller, Query("u0", ["unheard-of", *items], explain=True))
    assert [item_id for _, item_id, _ in explanation.history] == items[-8:]


def test_related_items_have_the_largest_cosines(recaller: Recaller, dataset: Dataset) -> None:
    history = [dataset.item_ids[row] for row in (4, 9, 9, 2, 30)]
    answer, explanation = explained(recaller, Query("u0", history, k=10, explain=True))
    vectors_VD = read_item_vectors(recaller.bundle)
    vectors_VD = vectors_VD / np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    distinct = sorted({4, 9, 2, 30})
    for row, related in zip(answer.rows.tolist(), explanation.related, strict=True):
        cosines = vectors_VD[distinct] @ vectors_VD[row]
        best = np.argsort(-cosines)[:RELATED]
        assert related == [dataset.item_ids[distinct[at]] for at in best]


def test_without_a_history_there_are_no_steps(recaller: Recaller) -> None:
    answer, explanation = explained(recaller, Query("nobody", [], k=3, explain=True))
    assert explanation == Explanation([], [], [], [[], [], []])
    assert answer.cold


def test_only_queries_that_ask_are_explained(recaller: Recaller, dataset: Dataset) -> None:
    history = dataset.item_ids[:3]
    queries = [Query("u0", history), Query("u0", history, explain=True), Query("u0", history)]
    answers, _ = recaller.recall_json(queries)
    assert [bool(answer.explanation) for answer in answers] == [False, True, False]
    assert answers[0].json == answers[1].json
