import logging
from urllib.parse import quote

import httpx
import pytest
from answers import recall, sample

from service.history.store import StoreProblem, StoreUnavailable
from service.recall.recaller import Recaller

pytestmark = pytest.mark.anyio

ODD = "ann/history/ü b\t?#\n"


async def test_a_history_is_returned_with_all_that_is_known(client: httpx.AsyncClient) -> None:
    empty = await client.get("/users/ann/history")
    assert empty.json() == {"user_id": "ann", "events": []}
    await client.store._client.lpush("h:ann", "242")  # type: ignore[attr-defined]
    first = {"item_id": "a", "type": "purchase", "timestamp": 17.5, "value": 9.99}
    second = {"item_id": "a\tb", "type": "view", "timestamp": 18.0, "watch_seconds": 30.0}
    events = [{"user_id": "ann"} | first, {"user_id": "ann"} | second]
    await client.post("/events", json={"events": events})
    found = await client.get("/users/ann/history")
    assert found.json()["events"] == [{"item_id": "242"}, first, second]


async def test_a_deleted_user_is_a_new_one(client: httpx.AsyncClient, recaller: Recaller) -> None:
    for user in (ODD, "bob"):
        events = [{"user_id": user, "item_id": recaller.item_ids[5], "timestamp": 1}]
        await client.post("/events", json={"events": events})
    path = f"/users/{quote(ODD, safe='')}"
    history = (await client.get(f"{path}/history")).json()
    assert (history["user_id"], len(history["events"])) == (ODD, 1)
    assert (await client.delete(path)).json() == {"deleted": True}
    assert (await client.delete(path)).json() == {"deleted": False}
    for user, kept in ((ODD, 0), ("bob", 1)):
        for key in (f"h:{user}", f"e:{{h:{user}}}"):
            assert await client.store._client.exists(key) == kept  # type: ignore[attr-defined]
    assert (await recall(client, user_id=ODD))["degraded_reason"] == "no_history"
    assert not (await recall(client, user_id="bob"))["degraded"]


async def test_the_log_and_the_metrics_name_no_user(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.get("/users/private-user/history")
    await client.delete("/users/private-user")
    records = [r for r in caplog.records if r.message == "request"]
    routes = ["/users/{user_id}/history", "/users/{user_id}"]
    assert [getattr(record, "route", "") for record in records] == routes
    assert all("private-user" not in str(vars(r)) for r in caplog.records if "httpx" not in r.name)
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_requests_total", route=routes[1], status="200") == 1


async def test_an_id_that_is_too_long_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.delete(f"/users/{'x' * 513}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "user_id"


async def test_a_store_that_fails_is_told(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.store._client.set("h:ann", "no list")  # type: ignore[attr-defined]
    assert (await client.get("/users/ann/history")).status_code == 409

    async def refuses(*_: object) -> tuple[list[StoreProblem], list[list[bytes]]]:
        return [StoreProblem.UNAVAILABLE], [[]]

    async def gone(*_: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(client.store, "read_with_offers", refuses)  # type: ignore[attr-defined]
    assert (await client.get("/users/ann/history")).status_code == 503
    monkeypatch.setattr(client.store, "read_with_offers", gone)  # type: ignore[attr-defined]
    monkeypatch.setattr(client.store, "delete", gone)  # type: ignore[attr-defined]
    for answer in (await client.get("/users/ann/history"), await client.delete("/users/ann")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
