import logging

import httpx
import pytest
from answers import sample

from service.history.store import StoreUnavailable
from service.http import app
from service.recall.recaller import Recaller

pytestmark = pytest.mark.anyio


async def test_health_and_readiness(
    client: httpx.AsyncClient, recaller: Recaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.get("/healthz")).json() == {"alive": True}
    for query in ("", "?strict=1", "?strict=true"):
        ready = await client.get(f"/readyz{query}")
        expected = {"ready": True, "version": recaller.version, "store": "available"}
        assert ready.json() == expected

    async def gone() -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(client.store, "ping", gone)  # type: ignore[attr-defined]
    blink = await client.get("/readyz")
    assert blink.status_code == 200
    assert blink.json() == expected | {"store": "unavailable"}
    absent = await client.get("/readyz?strict=1")
    assert absent.status_code == 503
    assert absent.headers["retry-after"] == "1"
    assert "store" in absent.json()["detail"]
    assert (await client.get("/healthz")).status_code == 200
    assert sample((await client.get("/metrics")).text, "recgpt_ready") == 0


async def test_strict_readiness_comes_back_with_the_histories(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is back before the recalls look again: until then they are degraded."""
    assert (await client.get("/readyz?strict=1")).status_code == 200
    monkeypatch.setattr("service.batcher.Batcher.skips_store", lambda _: True)
    assert (await client.get("/readyz?strict=1")).status_code == 503
    assert (await client.get("/readyz")).json()["store"] == "unavailable"


async def test_a_service_that_starts_refuses_all_but_events(
    client: httpx.AsyncClient,
) -> None:
    client.worker.bundle = None  # type: ignore[attr-defined]
    for path in ("/healthz", "/readyz"):
        refused = await client.get(path)
        assert refused.status_code == 503
        assert "starting" in refused.json()["detail"]
    assert (await client.post("/recall", json={"user_id": "ann"})).status_code == 503
    event = {"user_id": "ann", "item_id": "a"}
    assert (await client.post("/events", json={"events": [event]})).status_code == 200


async def test_a_refusal_of_readiness_is_logged_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("service.batcher.Batcher.alive", lambda _: False)
    for _ in range(3):
        refused = await client.get("/readyz")
        assert refused.status_code == 503
    monkeypatch.undo()
    caplog.set_level(logging.INFO)
    assert (await client.get("/readyz")).status_code == 200
    told = [r.getMessage() for r in caplog.records if r.name == "service.http.routes"]
    assert told == [f"not ready: {refused.json()['detail']}", "ready"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?strict=1", "/metrics"])
async def test_head_is_answered_as_get_is(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (await client.head("/recall")).headers["allow"] == "POST"


async def test_a_task_in_the_background_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "RETRY_SECONDS", 0.0)
    failures = [RuntimeError("poison"), RuntimeError("poison")]

    async def task() -> None:
        if failures:
            raise failures.pop()

    await app._keep_on(task)
    assert not failures
    assert caplog.text.count("tried again") == 2
