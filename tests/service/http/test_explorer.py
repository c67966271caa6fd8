import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from answers import recall
from in_process_worker import InProcessWorker, client_of

from service.history.store import HistoryStore
from service.http import index_quality
from service.http.app import create_app
from service.http.engine import Try
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(recaller: Recaller, bundle: ServedBundle, tmp_path: Path):  # type: ignore[no-untyped-def]
    settings = ServeSettings(artifacts=tmp_path, store="", explorer=True, deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store)
    async with client_of(app) as client:
        client.worker = worker  # type: ignore[attr-defined]
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


async def test_places_on_the_map(
    client: httpx.AsyncClient, recaller: Recaller, bundle: ServedBundle
) -> None:
    ids = recaller.item_ids
    body = {"items": [ids[7], "unknown", ids[3], ids[7]], "others": 5}
    answer = (await client.post("/explorer/map", json=body)).raise_for_status().json()
    assert (answer["version"], answer["available"]) == (recaller.version, True)
    assert answer["catalogue"] == len(ids)
    assert [place["item_id"] for place in answer["items"]] == [ids[7], ids[3]]
    assert bundle.item_map is not None
    places = [[place["x"], place["y"]] for place in answer["items"]]
    np.testing.assert_allclose(places, bundle.item_map[[7, 3]], atol=1e-4)
    assert len({place["item_id"] for place in answer["others"]}) == 5
    assert all(place["title"] == place["item_id"] for place in answer["others"])
    again = (await client.post("/explorer/map", json=body)).json()
    assert again == answer
    whole = (await client.post("/explorer/map", json={})).json()
    assert sorted(place["item_id"] for place in whole["others"]) == sorted(ids)


async def test_a_map_is_bounded_and_of_a_version_that_answers(client: httpx.AsyncClient) -> None:
    for body, where in (
        ({"items": ["i"] * 5001}, "items"),
        ({"others": 5001}, "others"),
        ({"others": -1}, "others"),
        ({"version": "gone"}, "version"),
        ({"sample": 1}, "sample"),
    ):
        answer = await client.post("/explorer/map", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["where"] == where


async def test_a_bundle_without_a_map_says_so(
    client: httpx.AsyncClient, bundle: ServedBundle
) -> None:
    worker: InProcessWorker = client.worker  # type: ignore[attr-defined]
    worker.bundle = bundle._replace(item_map=None)
    answer = (await client.post("/explorer/map", json={"items": ["i1"]})).json()
    assert (answer["available"], answer["items"], answer["others"]) == (False, [], [])


async def test_the_quality_of_an_exact_index(client: httpx.AsyncClient) -> None:
    answer = await client.post("/explorer/index?first=2&count=3&hits=7")
    quality = answer.raise_for_status().json()
    assert (quality["kind"], quality["lists"], quality["hits"]) == ("exact", 0, 7)
    assert (quality["measured"], quality["items"]) == (3, 40)
    assert quality["sample"] > 3
    (depth,) = quality["depths"]
    assert (depth["lists"], depth["served"], depth["recall"]) == (0, True, 1)
    assert depth["ms"] > 0


async def test_no_interest_of_the_sample_is_measured_twice(client: httpx.AsyncClient) -> None:
    async def measured(first: int) -> tuple[int, int]:
        answer = await client.post(f"/explorer/index?first={first}&count=4")
        found = answer.raise_for_status().json()
        return found["measured"], found["sample"]

    _, sample = await measured(0)
    assert (await measured(sample - 1))[0] == 1
    assert (await measured(sample))[0] == 0


async def test_a_measurement_is_bounded(client: httpx.AsyncClient) -> None:
    for where in ("first=-1", "count=0", "count=9", "hits=0", "hits=501", "hits=many"):
        answer = await client.post(f"/explorer/index?{where}")
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["where"] == where.partition("=")[0]


async def test_one_measurement_at_a_time_and_not_for_long(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that recalls leave no time answers no trial."""
    monkeypatch.setattr(index_quality, "SECONDS", 0.5)
    worker: InProcessWorker = client.worker  # type: ignore[attr-defined]
    asked = asyncio.Event()

    @asynccontextmanager
    async def busy() -> AsyncIterator[Try]:
        async def make(trial: Trial) -> TrialResult:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        yield make

    free = worker.trials
    worker.trials = busy  # type: ignore[method-assign]
    first = asyncio.create_task(client.post("/explorer/index"))
    await asked.wait()
    assert (await client.post("/explorer/index")).status_code == 429
    assert "no time" in (answer := await first).json()["detail"]
    assert answer.status_code == 503
    worker.trials = free  # type: ignore[method-assign]
    assert (await client.post("/explorer/index")).status_code == 200


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
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        assert (await client.get("/explorer")).status_code == 404
        assert (await client.post("/explorer/recall", json={})).status_code == 404
        for path in ("/explorer/map", "/explorer/index", "/explorer/exposures"):
            assert (await client.post(path, json={})).status_code == 404
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert not [path for path in paths if path.startswith("/explorer")]
