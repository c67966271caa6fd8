"""Impressions that a user did not take, as the first offers of a recall."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from model.artifact.bundle import load_artifact
from model.data.dataset import Dataset
from model.evaluation.metrics import Histories
from model.evaluation.reference import DenseRecall
from model.network.config import MAX_OFFERS, RecallConfig
from model.network.gpt import GPT
from service.offline import export_bundle, service_recall
from service.processes.messages import FrameReader, decode_question, encode_question
from service.recall.filters.item_filters import EVERYTHING
from service.recall.gpu.backend import GpuBackend
from service.recall.recaller import Recaller
from service.recall.types import Query
from service.recall.variety.form import Variety, packed

RECALL = RecallConfig(interests=4, first_share=0.4)
CONFIG = tiny.CONFIG.model_copy(update={"user_rank": 0})
VARIED = packed(Variety(diversity=0.5))
K = 10


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> GPT:
    """A network whose offers matter."""
    return tiny.lively(tiny.gpt(CONFIG, dataset.catalogue, dataset.users))


KINDS: dict[str, dict[str, Any]] = {
    "exact": {},
    "ivf": {"index": "ivf"},
    "gpu": {},
    "probability": {"recall": RECALL.model_copy(update={"merge": "probability"})},
}


@pytest.fixture(scope="module", params=KINDS)
def recaller(
    dataset: Dataset,
    model: GPT,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Recaller:
    options = {"recall": RECALL} | KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    bundle = export_bundle(folder, dataset, model, figures={}, **options)
    if request.param == "gpu":  # its code on CPU tensors
        artifact = load_artifact(bundle)
        return Recaller(artifact, GpuBackend(artifact, torch.device("cpu")))
    return Recaller.load(bundle, "cpu")


def told(dataset: Dataset) -> Histories:
    """Histories with none to seven real offers, of all items, those of the histories too."""
    rng = np.random.default_rng(0)
    histories = Histories(dataset.history(user)[: 2 + user % 7] for user in range(dataset.users))
    histories.offers_BM = np.full((len(histories), MAX_OFFERS), -1)
    for user, row_M in enumerate(histories.offers_BM):
        count = user % (MAX_OFFERS + 1)
        row_M[:count] = rng.permutation(dataset.catalogue)[:count]
    return histories


def test_equals_the_reference(recaller: Recaller, model: GPT, dataset: Dataset) -> None:
    histories, users = told(dataset), np.full(dataset.users, -1)
    reference = DenseRecall(model, recaller.manifest.recall)
    served = service_recall(recaller, dataset)(histories, users, (1, K))
    trained = reference(histories, users, (1, K))
    assert [rows.tolist() for rows in served] == [rows.tolist() for rows in trained]
    histories.offers_BM = None
    untold = service_recall(recaller, dataset)(histories, users, (K,))[0]
    assert untold.tolist() == reference(histories, users, (K,))[0].tolist()
    assert (untold != served[1]).any()


def ids(dataset: Dataset, rows: list[int]) -> list[str]:
    return [dataset.item_ids[row] for row in rows]


def test_offers_follow_each_other(recaller: Recaller, dataset: Dataset) -> None:
    history = ids(dataset, dataset.history(0)[:5].tolist())
    (generated,) = explained(recaller, Query("", history))
    assert len(set(generated)) == 3
    other = [item for item in dataset.item_ids if item not in {*generated, *history}][:3]
    for offers, expected in (
        (["unknown", other[0]], other[:1]),
        ([generated[1]], [generated[1]]),
        (other, other),
        (history[:1], history[:1]),
    ):
        (found,) = explained(recaller, Query("", history, offers=offers))
        assert found[: len(expected)] == expected
        assert len(set(found)) == 3
    frame = encode_question([Query("", history, offers=other), Query("", [])])
    (body,) = FrameReader().feed(frame)
    assert explained(recaller, *decode_question(body)) == [other, []]


def explained(recaller: Recaller, *queries: Query) -> list[list[str]]:
    """The offers of queries, as their explanations tell them."""
    for query in queries:
        query.explain = True
    return [
        json.loads(answer.explanation or b"")["offers"]
        for answer in recaller.recall_json(queries)[0]
    ]


@pytest.mark.parametrize("more", [{}, {"filter": EVERYTHING}, {"variety": VARIED}])
def test_the_first_interest_stays(
    recaller: Recaller, dataset: Dataset, more: dict[str, Any]
) -> None:
    if recaller.manifest.recall.merge == "probability" and "variety" not in more:
        return
    history = ids(dataset, dataset.history(0)[:5].tolist())
    offers = [item for item in dataset.item_ids if item not in history][-3:]
    queries = [
        Query("", history, k=20, interests=interests, offers=offers, **more)
        for interests in (None, 1)
    ]
    told, alone = recaller.recall(queries)[0]
    untold, alone_untold = recaller.recall([replace(q, offers=()) for q in queries])[0]
    first = told.interests == 0
    assert (first == (untold.interests == 0)).all()
    assert told.rows[first].tolist() == untold.rows[first].tolist()
    assert told.rows[~first].tolist() != untold.rows[~first].tolist()
    assert alone.rows.tolist() == alone_untold.rows.tolist()
    some = [queries[0], replace(queries[0], offers=()), replace(queries[0], history=[])]
    both = recaller.recall(some)[0]  # a query without offers beside one that has some
    assert both[0].rows.tolist() == told.rows.tolist()
    assert both[1].rows.tolist() == untold.rows.tolist()
    assert both[2].cold
