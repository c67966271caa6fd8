import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from answers import ids, recall, sample
from starlette.types import Message

from service.recall.recaller import Recaller
from service.recall.types import EncodedCandidates, Query, StageSeconds

pytestmark = pytest.mark.anyio


async def test_recall_answers_with_candidates(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    history = recaller.item_ids[:3]
    answer = await client.post("/recall", json={"user_id": "u0", "k": 10, "history": history})
    body = answer.json()
    assert set(body) == {
        "request_id",
        "version",
        "items",
        "degraded",
        "degraded_reason",
        "unknown_items",
    }
    assert body["version"] == recaller.version
    assert body["request_id"] == answer.headers["x-request-id"]
    assert (body["degraded"], body["degraded_reason"], body["unknown_items"]) == (False, None, 0)
    assert len(ids(body)) == 10
    assert not set(ids(body)) & set(history)
    assert set(body["items"][0]) == {"item_id", "score", "interest"}
    stages = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["queue", "store", "model", "search", "merge", "encode"]


async def test_unknown_user_unknown_items_and_too_much_asked(
    client: httpx.AsyncClient, recaller: Recaller
) -> None:
    new = await recall(client, user_id="stranger", k=5)
    assert (new["degraded"], new["degraded_reason"]) == (True, "no_history")
    assert {item["interest"] for item in new["items"]} == {-1}
    odd = await recall(client, user_id="stranger", k=5, history=["a", "b"])
    assert (odd["degraded_reason"], odd["unknown_items"]) == ("unknown_items", 2)
    mixed = await recall(client, user_id="stranger", history=["a", recaller.item_ids[0]], k=2000)
    assert (mixed["degraded"], mixed["unknown_items"]) == (False, 1)
    assert set(ids(mixed)) == set(recaller.item_ids[1:])


async def test_batch_equals_single_recalls(client: httpx.AsyncClient, recaller: Recaller) -> None:
    requests = [
        {"user_id": "u0", "history": recaller.item_ids[:4], "k": 7},
        {"user_id": "nobody", "k": 3},
        {"user_id": "u3", "history": recaller.item_ids[5:6], "k": 5, "interests": 1},
    ]
    answer = await client.post("/recall/batch", json={"requests": requests})
    together = answer.json()["results"]
    alone = [await recall(client, **request) for request in requests]
    assert [ids(one) for one in together] == [ids(one) for one in alone]
    assert [one["degraded"] for one in together] == [False, True, False]


async def test_metadata_is_given_on_request(client: httpx.AsyncClient, recaller: Recaller) -> None:
    with_it = await recall(client, user_id="u0", history=recaller.item_ids[:2], with_metadata=True)
    assert all(item["metadata"] == {} for item in with_it["items"])  # walks have no titles


async def exchange(app: Any, path: str, messages: list[Message]) -> list[Message]:
    """Sends a request message by message, as odd clients do; returns the messages sent back."""
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return sent


def body(content: bytes, more_body: bool = False) -> Message:
    return {"type": "http.request", "body": content, "more_body": more_body}


LEAVE = {"type": "http.disconnect"}


async def test_a_client_that_leaves_early_is_not_an_internal_error(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    app = client._transport.app  # type: ignore[attr-defined]
    sent = await exchange(app, "/recall", [body(b'{"user', more_body=True), LEAVE])
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_failures_total", reason="ClientGone") == 1


@pytest.mark.parametrize("path", ["/recall", "/recall/batch"])
async def test_a_recall_whose_client_left_is_not_computed(
    client: httpx.AsyncClient, recaller: Recaller, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    go, real, computed = threading.Event(), recaller.recall_json, []

    def held(queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        computed.extend(query.user_id for query in queries)
        assert go.wait(10)
        return real(queries)

    monkeypatch.setattr(recaller, "recall_json", held)
    first = asyncio.create_task(recall(client, user_id="first"))
    while not computed:
        await asyncio.sleep(0.001)
    content: dict[str, Any] = {"user_id": "gone"}
    if path == "/recall/batch":
        content = {"requests": [content]}
    app = client._transport.app  # type: ignore[attr-defined]
    sent = await exchange(app, path, [body(json.dumps(content).encode()), body(b""), LEAVE])
    assert sent[0]["status"] == 400
    go.set()
    await first
    await recall(client, user_id="last")
    assert computed == ["first", "last"]


async def test_a_body_that_does_not_arrive_is_answered_408(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.bodies.BODY_SECONDS", 0.05)
    app = client._transport.app  # type: ignore[attr-defined]
    sent = await exchange(app, "/recall", [body(b'{"user', more_body=True)])
    assert sent[0]["status"] == 408


async def test_a_batch_that_fails_leaves_nothing_behind(
    client: httpx.AsyncClient, recaller: Recaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = recaller.recall_json, []

    def picky(queries: Sequence[Query]) -> tuple[list[EncodedCandidates], StageSeconds]:
        computed.extend(query.user_id for query in queries)
        if any(query.user_id == "u0" for query in queries):
            raise RuntimeError("poison")
        return real(queries)

    monkeypatch.setattr(recaller, "recall_json", picky)
    requests = [{"user_id": f"u{i}"} for i in range(256)]
    answer = await client.post("/recall/batch", json={"requests": requests})
    assert answer.status_code == 500
    monkeypatch.undo()
    await recall(client, user_id="last")
    assert len(set(computed)) < 256


async def test_request_ids_of_clients_are_kept_if_they_are_fit_for_logs(
    client: httpx.AsyncClient,
) -> None:
    body = {"user_id": "u0"}
    kept = await client.post("/recall", json=body, headers={"x-request-id": "trace-1.2:3"})
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "trace-1.2:3"
    for odd in ("a b", "x" * 129, "{}"):
        other = await client.post("/recall", json=body, headers={"x-request-id": odd})
        assert other.headers["x-request-id"] != odd
        assert len(other.headers["x-request-id"]) == 32


async def test_logs_name_the_request_but_no_user(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.post("/recall", json={"user_id": "private-user"})
    await client.post("/events", json={"events": [{"user_id": "private-user", "item_id": "a"}]})
    records = [r for r in caplog.records if r.message == "request"]
    assert [getattr(r, "route", "") for r in records] == ["/recall", "/events"]
    assert all(len(getattr(r, "request_id", "")) == 32 for r in records)
    assert all("private-user" not in str(vars(r)) for r in caplog.records)


async def test_metrics_count_what_happened(client: httpx.AsyncClient, recaller: Recaller) -> None:
    history = recaller.item_ids[:2]
    await recall(client, user_id="u0", history=history)
    await recall(client, user_id="nobody")
    await client.post("/recall", json={})
    text = (await client.get("/metrics")).text
    for stage in ("queue", "model", "search", "merge"):
        assert sample(text, "recgpt_stage_seconds_count", stage=stage) == 2
    assert sample(text, "recgpt_stage_seconds_count", stage="store") == 1  # one brought its own
    assert sample(text, "recgpt_batch_size_count") == 2
    assert sample(text, "recgpt_requests_total", route="/recall", status="200") == 2
    assert sample(text, "recgpt_requests_total", route="/recall", status="422") == 1
    assert sample(text, "recgpt_request_seconds_count", route="/recall") == 3
    assert sample(text, "recgpt_failures_total", reason="Invalid") == 1
    assert sample(text, "recgpt_fallbacks_total", reason="no_history") == 1
    assert sample(text, "recgpt_artifact_info", version=recaller.version) == 1
    assert sample(text, "recgpt_queue_length") == 0
    assert sample(text, "recgpt_ready") == 1


async def test_a_client_says_how_long_it_waits(client: httpx.AsyncClient) -> None:
    for wait, status in (("1", 504), ("60000", 200)):
        many = {"requests": [{"user_id": "u0"}] * 256}
        answer = await client.post("/recall/batch", json=many, headers={"x-deadline-ms": wait})
        assert answer.status_code == status
        if status == 504:
            assert "within 1 ms" in answer.json()["detail"]


async def test_the_api_is_documented(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/recall",
        "/recall/batch",
        "/events",
        "/versions",
        "/scenarios",
        "/items/{item_id}",
        "/items/{item_id}/hidden",
        "/experiments",
        "/users/{user_id}/history",
        "/users/{user_id}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/admin/reload",
        "/admin/slow",
    }
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#')[1:]}:
        target: Any = document
        for step in reference.strip("/").split("/"):
            target = target[step]
    body = document["components"]["schemas"]["RecallRequest"]["properties"]
    assert set(body) == {
        *("user_id", "k", "history", "seeds", "exclude", "interests", "repeats", "filter"),
        *("outcome", "popular", "offers"),
        *("caps", "diversity", "fresh", "with_metadata", "scenario", "page_size", "cursor"),
    }
    assert set(document["paths"]["/recall"]["post"]["responses"]) >= {"200", "422", "429", "504"}
    (header,) = document["paths"]["/recall"]["post"]["parameters"]
    assert header["name"] == "x-deadline-ms"
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    refused = document["paths"]["/recall"]["post"]["responses"]["422"]
    assert refused["content"] == {"application/problem+json": problem}


async def test_the_page_of_the_api_needs_no_other_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "openapi.json" in page.text
    assert "//" not in page.text.replace("// ", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/recall", "/events"])
async def test_the_documented_examples_are_answered(client: httpx.AsyncClient, path: str) -> None:
    document = (await client.get("/openapi.json")).json()
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    examples = [schema["example"], *schema["examples"]]
    for example in examples:
        answer = await client.post(path, json=example)
        assert answer.status_code == 200, (example, answer.text)
    if path == "/recall":
        together = {"requests": schema["examples"]}
        assert (await client.post("/recall/batch", json=together)).status_code == 200


async def test_a_history_that_cannot_be_read_is_not_taken_for_none(
    client: httpx.AsyncClient,
) -> None:
    store = client.store  # type: ignore[attr-defined]
    await store._client.set("h:ann", "not a list")
    found = await recall(client, user_id="ann", k=3)
    assert (found["degraded_reason"], len(ids(found))) == ("unreadable_history", 3)
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_fallbacks_total", reason="unreadable_history") == 1
    assert (await client.get("/readyz?strict=1")).status_code == 200  # it concerns one user only
