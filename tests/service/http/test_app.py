import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process_worker import InProcessWorker
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message

from service.history.store import HistoryStore, StoreProblem, StoreUnavailable
from service.http.app import create_app
from service.http.metadata import ServedBundle
from service.recall.metadata_encoder import read_metadata
from service.recall.recaller import Recaller
from service.recall.types import EncodedCandidates, Query, StageSeconds
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def recaller(artifacts: Path) -> Recaller:
    recaller = Recaller.load(artifacts, "cpu")
    recaller.warm_up()  # compiles, which on a busy machine may take longer than any deadline
    return recaller


@pytest.fixture(scope="module")
def bundle(recaller: Recaller) -> ServedBundle:
    metadata = read_metadata(recaller.bundle)
    return ServedBundle(recaller.version, recaller.max_interests, metadata)


@pytest.fixture
async def client(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServeSettings(artifacts=tmp_path, store="", body_limit=100_000, deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        client.store = store  # type: ignore[attr-defined]
        client.worker = worker  # type: ignore[attr-defined]
        yield client


async def recall(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/recall", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def sample(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return float(found.value)
    raise AssertionError(f"no sample {name} {labels}")


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
    assert await client.store.read(["ann"]) == [["i1", "i3", "i2", "i0"]]  # type: ignore[attr-defined]
    del events[1]["timestamp"]
    for event in events:
        event["user_id"] = "bob"
    await client.post("/events", json={"events": events})
    assert await client.store.read(["bob"]) == [["i0", "i1", "i2", "i3"]]  # type: ignore[attr-defined]


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
        assert await client.store.read(["bob"]) == [["c", "b"]]  # type: ignore[attr-defined]
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
    assert await client.store.read(["ann"]) == [["b"]]  # type: ignore[attr-defined]
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_events_total", type="impression") == 1
    assert sample(metrics, "recgpt_events_total", type="other") == 1


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
    monkeypatch.setattr("service.http.routes.BODY_SECONDS", 0.05)
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


RECALL: dict[str, Any] = {"user_id": "u0"}
EVENT: dict[str, Any] = {"user_id": "u0", "item_id": "a"}

BAD = {
    "empty body": ("/recall", b"", 400, "not JSON"),
    "not JSON": ("/recall", b"{", 400, "not JSON"),
    "not UTF-8": ("/recall", b'{"user_id":"\xff\xfe"}', 400, "not JSON"),
    "an array": ("/recall", [], 422, "object"),
    "null": ("/recall", None, 422, "object"),
    "no user": ("/recall", {}, 422, "user_id"),
    "a number as user": ("/recall", {"user_id": 5}, 422, "user_id"),
    "empty user": ("/recall", {"user_id": ""}, 422, "user_id"),
    "long user": ("/recall", {"user_id": "x" * 513}, 422, "user_id"),
    "k of 0": ("/recall", RECALL | {"k": 0}, 422, "k: "),
    "k of -1": ("/recall", RECALL | {"k": -1}, 422, "k: "),
    "k of 1e9": ("/recall", RECALL | {"k": 10**9}, 422, "k: "),
    "huge k": ("/recall", b'{"user_id":"u0","k":1' + b"0" * 400 + b"}", 422, "k: "),
    "k of NaN": ("/recall", b'{"user_id":"u0","k":NaN}', 422, "k: "),
    "k of Infinity": ("/recall", b'{"user_id":"u0","k":Infinity}', 422, "k: "),
    "k as text": ("/recall", RECALL | {"k": "10"}, 422, "k: "),
    "k as float": ("/recall", RECALL | {"k": 1.5}, 422, "k: "),
    "k as bool": ("/recall", RECALL | {"k": True}, 422, "k: "),
    "many excludes": ("/recall", RECALL | {"exclude": ["a"] * 10_000}, 422, "exclude"),
    "long history": ("/recall", RECALL | {"history": ["a"] * 1001}, 422, "history"),
    "history of numbers": ("/recall", RECALL | {"history": [1]}, 422, "history.0"),
    "history as text": ("/recall", RECALL | {"history": "a"}, 422, "history"),
    "no interests": ("/recall", RECALL | {"interests": 0}, 422, "interests"),
    "interests beyond the artifact": ("/recall", RECALL | {"interests": 8}, 422, "at most 4"),
    "unknown field": ("/recall", RECALL | {"kk": 5}, 422, "kk"),
    "too large": ("/recall", RECALL | {"exclude": ["a" * 200] * 600}, 413, "100000 bytes"),
    "many unknown fields": (
        "/recall",
        RECALL | {f"a{i}": 1 for i in range(5000)},
        422,
        "5000 problems",
    ),
    "unknown field with a long name": ("/recall", RECALL | {"x" * 9000: 1}, 422, "x" * 40 + ": "),
    "deep nesting": ("/recall", b"[" * 50_000, 400, "not JSON"),
    "empty batch": ("/recall/batch", {"requests": []}, 422, "requests"),
    "large batch": ("/recall/batch", {"requests": [RECALL] * 257}, 422, "requests"),
    "much in a batch": ("/recall/batch", {"requests": [RECALL | {"k": 2000}] * 13}, 422, "25600"),
    "bad in a batch": ("/recall/batch", {"requests": [RECALL, {}]}, 422, "requests.1.user_id"),
    "no events": ("/events", {"events": []}, 422, "events"),
    "many events": ("/events", {"events": [EVENT] * 1001}, 422, "events"),
    "event without item": ("/events", {"events": [{"user_id": "u0"}]}, 422, "events.0.item_id"),
    "event at NaN": (
        "/events",
        b'{"events":[{"user_id":"u","item_id":"i","timestamp":NaN}]}',
        422,
        "timestamp",
    ),
    "event type": ("/events", {"events": [EVENT | {"type": "Ä b"}]}, 422, "type"),
    "event time": ("/events", {"events": [EVENT | {"timestamp": "soon"}]}, 422, "timestamp"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_a_problem_document(client: httpx.AsyncClient, case: str) -> None:
    path, body, status, hint = BAD[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert hint in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    if status == 422 and "at most 4" not in hint and "5000" not in hint:
        assert problem["errors"][0].keys() == {"where", "problem"}
    assert len(answer.content) < 3000


async def test_the_input_is_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.post("/recall", json={"user_id": "u", "k": "secret-value"})
    assert answer.status_code == 422
    assert "secret-value" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/recall", 405), ("POST", "/recall/", 404)],
)
async def test_other_errors_have_the_same_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_failures_total", reason=f"HTTP{status}") == 1


async def test_an_internal_error_is_logged_and_hidden(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("internal secret")

    monkeypatch.setattr("service.http.routes._json", broken)
    answer = await client.post("/recall", json={"user_id": "u0"})
    assert answer.status_code == 500
    assert "internal secret" not in answer.text
    assert answer.json()["request_id"] in {
        getattr(record, "request_id", None) for record in caplog.records if record.exc_info
    }


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


async def test_an_odd_query_is_a_problem_document(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz?strict=perhaps")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["where"] == "strict"
    assert "perhaps" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/readyz?strict=1", "/metrics"])
async def test_head_is_answered_as_get_is(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (await client.head("/recall")).headers["allow"] == "POST"


async def test_the_api_is_documented(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/recall",
        "/recall/batch",
        "/events",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#')[1:]}:
        target: Any = document
        for step in reference.strip("/").split("/"):
            target = target[step]
    body = document["components"]["schemas"]["RecallRequest"]["properties"]
    assert set(body) == {"user_id", "k", "history", "exclude", "interests", "with_metadata"}
    assert set(document["paths"]["/recall"]["post"]["responses"]) >= {"200", "422", "429", "504"}
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    refused = document["paths"]["/recall"]["post"]["responses"]["422"]
    assert refused["content"] == {"application/problem+json": problem}


async def test_the_page_of_the_api_needs_no_other_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "openapi.json" in page.text
    assert "//" not in page.text.replace("// ", "")
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/recall", "/recall/batch", "/events"])
async def test_a_compressed_body_is_refused_as_such(client: httpx.AsyncClient, path: str) -> None:
    for encoding, status in (("gzip", 415), ("GZIP, br", 415), ("identity", 422)):
        headers = {"content-encoding": encoding}
        answer = await client.post(path, content=b"{}", headers=headers)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_failures_total", reason="UnsupportedEncoding") == 2
