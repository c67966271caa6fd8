import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from answers import sample

pytestmark = pytest.mark.anyio


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
    "seconds before 0": ("/events", {"events": [EVENT | {"watch_seconds": -1}]}, 422, "watch_sec"),
    "a value of NaN": (
        "/events",
        b'{"events":[{"user_id":"u","item_id":"a","value":NaN}]}',
        422,
        "",
    ),
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
    "unknown fields everywhere": (
        "/events",
        {"events": [EVENT | {f"a{i}": 1 for i in range(30)}] * 300},
        422,
        "more than 5000 unknown fields",
    ),
    "a lone surrogate": ("/recall", b'{"user_id":"\\ud800"}', 400, "not JSON"),
    "unknown field with a long name": ("/recall", RECALL | {"x" * 9000: 1}, 422, "x" * 40 + ": "),
    "deep nesting": ("/recall", b"[" * 50_000, 400, "not JSON"),
    "empty batch": ("/recall/batch", {"requests": []}, 422, "requests"),
    "large batch": ("/recall/batch", {"requests": [RECALL] * 257}, 422, "requests"),
    "much in a batch": ("/recall/batch", {"requests": [RECALL | {"k": 2000}] * 13}, 422, "25600"),
    "bad in a batch": ("/recall/batch", {"requests": [RECALL, {}]}, 422, "requests.1: give"),
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


@pytest.mark.parametrize("path", ["/recall", "/recall/batch"])
@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "60001", "1" + "0" * 5000, "1e3", "٣"])
async def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(
    client: httpx.AsyncClient, path: str, value: str
) -> None:
    body = RECALL if path == "/recall" else {"requests": [RECALL]}
    headers = [(b"x-deadline-ms", value.encode())]
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["where"] == "x-deadline-ms"
    assert "from 1 to 60000" in error["problem"]


async def test_of_a_field_that_stands_twice_the_last_value_counts(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/recall", content=b'{"user_id": "u0", "k": 3, "k": 5, "k": 4}')
    assert len(answer.json()["items"]) == 4
    twice = b'{"user_id": "u0", "k": 4, "k": 0}'
    assert (await client.post("/recall", content=twice)).status_code == 422


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

    monkeypatch.setattr("service.http.routes.json_response", broken)
    answer = await client.post("/recall", json={"user_id": "u0"})
    assert answer.status_code == 500
    assert "internal secret" not in answer.text
    assert answer.json()["request_id"] in {
        getattr(record, "request_id", None) for record in caplog.records if record.exc_info
    }


async def test_an_odd_query_is_a_problem_document(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz?strict=perhaps")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["where"] == "strict"
    assert "perhaps" not in answer.text


@pytest.mark.parametrize("path", ["/recall", "/recall/batch", "/events"])
async def test_a_compressed_body_is_refused_as_such(client: httpx.AsyncClient, path: str) -> None:
    for encoding, status in (("gzip", 415), ("GZIP, br", 415), ("identity", 422)):
        headers = {"content-encoding": encoding}
        answer = await client.post(path, content=b"{}", headers=headers)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
    metrics = (await client.get("/metrics")).text
    assert sample(metrics, "recgpt_failures_total", reason="UnsupportedEncoding") == 2


@pytest.mark.parametrize("path", ["/recall", "/recall/batch", "/events"])
async def test_a_body_is_refused_by_its_head_before_it_is_read(
    client: httpx.AsyncClient, path: str
) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for name, value, status in (
        ("content-length", "100001", 413),
        ("transfer-encoding", "gzip, chunked", 415),
    ):
        answer = await client.post(path, content=unread(), headers={name: value})
        assert answer.status_code == status
