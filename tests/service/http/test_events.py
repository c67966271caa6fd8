from typing import Any

import httpx
import pytest
from answers import ids, recall, sample
from stored import items_of

from service.history.store import StoreProblem, StoreUnavailable
from service.recall.recaller import Recaller

pytestmark = pytest.mark.anyio


async def test_events_change_the_next_recall(client: httpx.AsyncClient, recaller: Recaller) -> None:
    first = await client.post(
        "/events", json={"events": [{"user_id": "u0", "item_id": recaller.item_ids[5]}]}
    )
    assert first.json() == {"accepted": 1, "stored": 1}
    before = await recall(client, user_id="u0", k=10)
    seen = ids(before)[0]
    event = {
        "user_id": "u0",
        "item_id": seen,
        "type": "purchase",
        "timestamp": "2026-01-02T03:04:05Z",
        "request_id": before["request_id"],
    }
    assert (await client.post("/events", json={"events": [event]})).status_code == 200
    after = await recall(client, user_id="u0", k=10)
    assert seen not in ids(after)
    assert ids(after) != ids(before)


async def test_events_of_one_call_are_ordered_by_time(client: httpx.AsyncClient) -> None:
    times = [3, "1970-01-01T00:00:01Z", 2.5, "1970-01-01T00:00:02"]
    events = [{"user_id": "ann", "item_id": f"i{i}", "timestamp": t} for i, t in enumerate(times)]
    await client.post("/events", json={"events": events})
    assert await items_of(client.store, ["ann"]) == [["i1", "i3", "i2", "i0"]]  # type: ignore[attr-defined]
    del events[1]["timestamp"]
    for event in events:
        event["user_id"] = "bob"
    await client.post("/events", json={"events": events})
    assert await items_of(client.store, ["bob"]) == [["i0", "i1", "i2", "i3"]]  # type: ignore[attr-defined]


async def test_events_that_cannot_be_stored_are_told_one_by_one(client: httpx.AsyncClient) -> None:
    await client.store._client.set("h:ann", "not a list")  # type: ignore[attr-defined]
    events: list[dict[str, Any]] = [
        {"user_id": "bob", "item_id": "b", "timestamp": 3},
        {"user_id": "ann", "item_id": "a", "timestamp": 2},
        {"user_id": "bob", "item_id": "c", "timestamp": 1},
        {"user_id": "ann", "item_id": "a", "timestamp": 4, "type": "impression"},
    ]
    for _ in range(2):  # a client that sends all of them again does no harm
        answer = await client.post("/events", json={"events": events})
        assert answer.status_code == 207
        body = answer.json()
        assert (body["accepted"], body["stored"]) == (3, 2)
        assert [error["where"] for error in body["errors"]] == ["events.1"]
        assert "not a list" in body["errors"][0]["problem"]
        assert await items_of(client.store, ["bob"]) == [["c", "b"]]  # type: ignore[attr-defined]
    alone = await client.post("/events", json={"events": events[1:2] * 12})
    assert alone.status_code == 409
    assert "retry-after" not in alone.headers
    assert [error["where"] for error in alone.json()["errors"]] == [
        f"events.{i}" for i in range(10)
    ]
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_refused_events_total", reason="wrong_type") == 14
    assert sample(metrics, "recgpt_events_total", type="click") == 4


@pytest.mark.parametrize("problem", [StoreProblem.UNAVAILABLE, None])
async def test_events_that_failed_for_now_are_to_be_sent_again(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, problem: StoreProblem | None
) -> None:
    async def refuses(*_: object) -> list[StoreProblem]:
        if problem:
            return [problem]
        raise StoreUnavailable("gone")

    monkeypatch.setattr(client.store, "append", refuses)  # type: ignore[attr-defined]
    answer = await client.post("/events", json={"events": [{"user_id": "ann", "item_id": "a"}]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "send the same events again" in answer.json()["detail"]
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_refused_events_total", reason="unavailable") == 1


async def test_impressions_are_counted_but_are_no_history(client: httpx.AsyncClient) -> None:
    events = [
        {"user_id": "ann", "item_id": "a", "type": "impression"},
        {"user_id": "ann", "item_id": "b", "type": "some_other"},
    ]
    answer = await client.post("/events", json={"events": events})
    assert answer.json() == {"accepted": 2, "stored": 1}
    assert await items_of(client.store, ["ann"]) == [["b"]]  # type: ignore[attr-defined]
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_events_total", type="impression") == 1
    assert sample(metrics, "recgpt_events_total", type="other") == 1


async def test_a_dislike_excludes_at_once_and_a_like_lifts_it(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    async def send(item: str, kind: str, **more: float) -> None:
        event = {"user_id": "ann", "item_id": item, "type": kind} | more
        answer = await client.post("/events", json={"events": [event]})
        assert answer.json() == {"accepted": 1, "stored": 1}

    await send(recaller.item_ids[5], "view", watch_seconds=12.5, value=3)
    best, second = ids(await recall(client, user_id="ann", k=40))[:2]
    await send(best, "dislike")
    await send(second, "skip")
    after = await recall(client, user_id="ann", k=40)
    assert not {best, second} & set(ids(after))
    assert len(ids(after)) == 37
    await send(best, "like")
    assert best not in ids(await recall(client, user_id="ann", k=40))  # in the history now
    await send(recaller.item_ids[5], "dislike")
    await send(best, "dislike")
    emptied = await recall(client, user_id="ann", k=40)
    assert emptied["degraded_reason"] == "no_history"
    assert len(ids(emptied)) == 37  # popular items obey, too
