from pathlib import Path

import httpx
import pytest
from answers import recall
from in_process_worker import InProcessWorker

from service.history.store import HistoryStore
from service.http.app import create_app
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(recaller: Recaller, bundle: ServedBundle, tmp_path: Path):  # type: ignore[no-untyped-def]
    settings = ServeSettings(artifacts=tmp_path, store="", explorer=True, deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_an_explained_recall_is_a_recall_with_its_steps(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    body = {"user_id": "u0", "k": 10, "history": recaller.item_ids[:3], "interests": 2}
    plain = await recall(client, **body)
    answer = await client.post("/explorer/recall", json=body)
    assert answer.status_code == 200
    assert "search;dur=" in answer.headers["server-timing"]
    explained = answer.json()
    explanation = explained.pop("explanation")
    assert explained == plain | {"request_id": answer.headers["x-request-id"]}
    assert explanation["history"] == [{"item_id": item} for item in recaller.item_ids[:3]]
    first, last = explanation["interests"]
    assert first["offer"] == first["hits"][0]["item_id"]
    assert last["offer"] is None
    assert set(first["hits"][0]) == {"item_id", "score"}
    assert len(explanation["related"]) == 10


async def test_items_of_an_explanation_have_their_metadata(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    body = {"user_id": "u0", "k": 3, "history": recaller.item_ids[:3], "with_metadata": True}
    explanation = (await client.post("/explorer/recall", json=body)).json()["explanation"]
    assert all("metadata" in item for item in explanation["history"])
    assert all("metadata" in hit for steps in explanation["interests"] for hit in steps["hits"])


async def test_a_stored_history_and_a_missing_one(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    event = {"user_id": "u1", "item_id": recaller.item_ids[7]}
    await client.post("/events", json={"events": [event]})
    stored = (await client.post("/explorer/recall", json={"user_id": "u1"})).json()
    assert stored["explanation"]["history"] == [{"item_id": recaller.item_ids[7]}]
    cold = (await client.post("/explorer/recall", json={"user_id": "nobody", "k": 2})).json()
    assert cold["explanation"] == {"history": [], "interests": [], "related": [[], []]}


async def test_a_wrong_body_is_explained(client: httpx.AsyncClient) -> None:
    answer = await client.post("/explorer/recall", json={"user_id": "u1", "k": 0})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "k"


async def test_the_page_and_its_files(client: httpx.AsyncClient) -> None:
    page = await client.get("/explorer")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for name in ("static_files.py", "../http/app.py", "%2e%2e/settings.py", "nothing.js", ""):
        assert (await client.get(f"/explorer/{name}")).status_code == 404


async def test_there_is_no_explorer_unless_it_is_switched_on(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> None:
    settings = ServeSettings(artifacts=tmp_path, store="")
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert (await client.get("/explorer")).status_code == 404
        assert (await client.post("/explorer/recall", json={})).status_code == 404
        assert "/explorer/recall" not in (await client.get("/openapi.json")).json()["paths"]
