"""Impressions by HTTP: items that a user was shown and did not take change the next recall."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from answers import ids, recall
from in_process_worker import InProcessWorker, client_of
from served import served_bundle

from model.data.dataset import Dataset
from model.evaluation.metrics import Histories
from model.evaluation.reference import DenseRecall
from model.network.config import MAX_OFFERS, RecallConfig
from model.network.gpt import GPT
from service.history.event_types import load_event_types
from service.history.store import HistoryStore
from service.http.app import create_app
from service.offline import export_bundle
from service.recall.recaller import Recaller
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

RECALL = RecallConfig(interests=3, first_share=0.4)
CONFIG = tiny.CONFIG.model_copy(update={"user_rank": 0})
K = 20
HISTORY = [f"i{n}" for n in range(5)]
SHOWN = ["i30", "i21", "i12"]


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> GPT:
    return tiny.lively(tiny.gpt(CONFIG, dataset.catalogue, dataset.users))


@pytest.fixture(scope="module")
def recaller(model: GPT, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Recaller:
    folder = tmp_path_factory.mktemp("bundle")
    export_bundle(folder, dataset, model, RECALL, {})
    recaller = Recaller.load(folder, "cpu")
    recaller.warm_up()
    return recaller


@pytest.fixture
async def client(recaller: Recaller, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service for which impressions are offers."""
    types = tmp_path / "types.toml"
    types.write_text("[impression]\noffer = true\n")
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000, event_types=types)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}", types=load_event_types(types))
    worker = InProcessWorker(recaller, bundle=served_bundle(recaller, tmp_path))
    app = create_app(settings, worker, store)
    async with client_of(app) as client:
        client.store = store  # type: ignore[attr-defined]
        yield client


async def tell(client: httpx.AsyncClient, *events: tuple[str, str]) -> dict[str, Any]:
    body = [{"user_id": "ann", "item_id": item, "type": kind} for item, kind in events]
    answer = await client.post("/events", json={"events": body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def expected(
    dataset: Dataset, model: GPT, history: Sequence[str], offers: Sequence[str]
) -> list[str]:
    """The trainer's own recall behind that history and these offers, the newest first."""
    rows = {item: row for row, item in enumerate(dataset.item_ids)}
    histories = Histories([np.array([rows[item] for item in history])])
    real = [rows[item] for item in offers]
    histories.offers_BM = np.array([real + [-1] * (MAX_OFFERS - len(real))])
    found = DenseRecall(model, RECALL)(histories, np.array([-1]), (K,))[0][0]
    return [dataset.item_ids[row] for row in found.tolist()]


async def test_an_impression_changes_the_later_interests_until_a_click(
    client: httpx.AsyncClient, dataset: Dataset, model: GPT
) -> None:
    await tell(client, *((item, "click") for item in HISTORY))
    before = await recall(client, user_id="ann", k=K)
    assert ids(before) == expected(dataset, model, HISTORY, [])
    assert await tell(client, *((item, "impression") for item in SHOWN)) == {
        "accepted": 3,
        "stored": 3,
    }
    shown = await recall(client, user_id="ann", k=K)
    assert ids(shown) == expected(dataset, model, HISTORY, SHOWN[::-1])
    firsts = [[c for c in answer["items"] if c["interest"] == 0] for answer in (before, shown)]
    assert firsts[0] == firsts[1]
    assert ids(shown) != ids(before)
    told = (await client.get("/users/ann/history")).json()
    assert told["offers"] == SHOWN[::-1]
    assert [event["item_id"] for event in told["events"]] == HISTORY
    await tell(client, (SHOWN[0], "click"))
    after = await recall(client, user_id="ann", k=K)
    assert ids(after) == expected(dataset, model, [*HISTORY, SHOWN[0]], [])
    assert "offers" not in (await client.get("/users/ann/history")).json()


async def test_an_offer_without_a_history_is_acknowledged_and_not_kept(
    client: httpx.AsyncClient,
) -> None:
    assert await tell(client, (SHOWN[0], "impression")) == {"accepted": 1, "stored": 1}
    told = (await client.get("/users/ann/history")).json()
    assert told == {"user_id": "ann", "events": []}


async def test_offers_are_read_only_where_a_recall_makes_some(
    client: httpx.AsyncClient, dataset: Dataset, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.store  # type: ignore[attr-defined]
    await tell(client, *((item, "click") for item in HISTORY), *((i, "impression") for i in SHOWN))
    asked: list[list[int]] = []
    read = store.read_with_offers

    async def noted(users: Sequence[str], of: Sequence[int]) -> Any:
        asked.append(list(of))
        return await read(users, of)

    monkeypatch.setattr(store, "read_with_offers", noted)
    for body, of in (({}, [0]), ({"interests": 2}, [0]), ({"interests": 1}, [])):
        await recall(client, user_id="ann", k=K, **body)
        assert asked.pop() == of
    assert not asked
    await recall(client, history=HISTORY)
    assert not asked


async def test_a_request_may_bring_offers(
    client: httpx.AsyncClient, dataset: Dataset, model: GPT
) -> None:
    found = await recall(client, history=HISTORY, offers=SHOWN, k=K)
    assert ids(found) == expected(dataset, model, HISTORY, SHOWN[::-1])
    many = [f"i{n}" for n in range(10, 20)]
    found = await recall(client, history=HISTORY, offers=many, k=K)
    assert ids(found) == expected(dataset, model, HISTORY, many[:-8:-1])
    await tell(client, *((item, "click") for item in HISTORY), (SHOWN[0], "impression"))
    found = await recall(client, user_id="ann", offers=["unknown", SHOWN[1]], k=K)
    assert ids(found) == expected(dataset, model, HISTORY, [SHOWN[1], SHOWN[0]])
    # Each is offered once, though it was shown twice or is in the store, too.
    twice = [SHOWN[1], SHOWN[2], SHOWN[1], SHOWN[1]]
    found = await recall(client, history=HISTORY, offers=twice, k=K)
    assert ids(found) == expected(dataset, model, HISTORY, [SHOWN[1], SHOWN[2]])
    found = await recall(client, user_id="ann", offers=[SHOWN[0]], k=K)
    assert ids(found) == expected(dataset, model, HISTORY, [SHOWN[0]])
    # A seed is newer than what was shown.
    found = await recall(client, user_id="ann", seeds=["i25"], k=K)
    assert ids(found) == expected(dataset, model, [*HISTORY, "i25"], [])
    found = await recall(client, user_id="ann", seeds=["i25"], offers=SHOWN, k=K)
    assert ids(found) == expected(dataset, model, [*HISTORY, "i25"], SHOWN[::-1])
    assert (await recall(client, user_id="nobody", offers=SHOWN))["degraded"]
    answer = await client.post("/recall", json={"offers": SHOWN})
    assert answer.status_code == 422
