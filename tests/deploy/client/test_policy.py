"""Retries, deadlines and hedging of both clients, over a transport that the test controls."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from recgpt_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Event,
    Policy,
    ServiceError,
    ServiceUnavailable,
)

pytestmark = pytest.mark.anyio

ANSWER: dict[str, Any] = {
    "request_id": "r",
    "version": "v",
    "items": [{"item_id": "a", "score": 1.5, "interest": 0}],
    "degraded": False,
    "degraded_reason": None,
    "unknown_items": 0,
    "a_field_of_tomorrow": 1,
}
PROBLEM = {
    "title": "t",
    "status": 422,
    "detail": "k: too large",
    "request_id": "r7",
    "errors": [{"where": "k", "problem": "too large"}],
}
PATIENT = Policy(timeout=30, first_pause=0.001)
Respond = Callable[[httpx.Request], httpx.Response]


class Script:
    """A transport that gives one response after another, the last one again and again."""

    def __init__(self, *responses: httpx.Response | Exception) -> None:
        self._responses = responses
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self._responses[min(len(self.requests), len(self._responses)) - 1]
        if isinstance(response, Exception):
            raise response
        content, headers = response.content, response.headers  # each response can be read once
        return httpx.Response(response.status_code, content=content, headers=headers)


def client_of(respond: Respond, policy: Policy = PATIENT, **options: Any) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(respond))
    return Client("http://test/", policy=policy, http=http, **options)


async def both(respond: Respond, act: str, *given: Any, policy: Policy = PATIENT) -> list[Any]:
    """Returns the outcome of an operation, or its error, with the sync and the async client."""
    outcomes: list[Any] = []
    with client_of(respond, policy) as client:
        try:
            outcomes.append(getattr(client, act)(*given))
        except Exception as error:
            outcomes.append(error)
    http = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    async with AsyncClient("http://test/", policy=policy, http=http) as asynchronous:
        try:
            outcomes.append(await getattr(asynchronous, act)(*given))
        except Exception as error:
            outcomes.append(error)
    return outcomes


def ok(body: Any = None) -> httpx.Response:
    return httpx.Response(200, json=ANSWER if body is None else body)


def test_a_recall_is_typed_and_tells_its_deadline_and_key() -> None:
    script = Script(ok())
    with client_of(script, api_key="secret") as client:
        recall = client.recall(user_id="u", k=3, repeats={"after_days": 3})
    assert recall.item_ids == ["a"]
    assert recall.items[0].metadata is None
    assert recall.filter is None
    (request,) = script.requests
    assert request.url.path == "/recall"
    assert request.headers["authorization"] == "Bearer secret"
    assert 1 <= int(request.headers["x-deadline-ms"]) <= 30_000
    assert request.read() == b'{"user_id": "u", "k": 3, "repeats": {"after_days": 3}}'


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_passing_refusals_are_tried_again(status: int) -> None:
    refusal = httpx.Response(status, json=PROBLEM, headers={"retry-after": "0"})
    for outcome in await both(Script(refusal), "ready"):
        assert isinstance(outcome, ServiceError)  # readiness is told as it is
    script = Script(refusal, ok())
    with client_of(script) as client:
        assert client.recall(user_id="u").item_ids == ["a"]
    assert len(script.requests) == 2


async def test_lost_connections_are_tried_again_and_named_in_the_end() -> None:
    script = Script(httpx.ConnectError("refused"))
    for outcome in await both(script, "recall_batch", []):
        assert isinstance(outcome, ServiceUnavailable)
        assert "refused" in str(outcome)
    assert len(script.requests) == 2 * PATIENT.attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
async def test_other_refusals_are_raised_at_once_with_all_that_they_say(status: int) -> None:
    script = Script(httpx.Response(status, json=PROBLEM))
    for outcome in await both(script, "history", "u"):
        assert isinstance(outcome, ServiceError)
        assert (outcome.status, outcome.detail, outcome.request_id) == (
            status,
            "k: too large",
            "r7",
        )
        assert [(e.where, e.problem) for e in outcome.errors] == [("k", "too large")]
    assert len(script.requests) == 2


async def test_retry_after_is_honoured_within_the_deadline_only() -> None:
    refusal = httpx.Response(429, json=PROBLEM, headers={"retry-after": "60"})
    script = Script(refusal)
    for outcome in await both(script, "item", "a"):
        assert isinstance(outcome, ServiceError)
        assert outcome.retry_after == 60
    assert len(script.requests) == 2  # it would be over before the next try


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    refusal = httpx.Response(503, json=PROBLEM, headers={"retry-after": "2"})
    with client_of(Script(refusal, ok())) as client:
        client.recall(user_id="u")
    (pause,) = pauses
    assert 2 <= pause <= 2 + PATIENT.first_pause


async def test_an_answer_of_something_else_is_no_answer() -> None:
    for response in (httpx.Response(200, text="<html>"), ok({"hello": 1}), ok([])):
        for outcome in await both(Script(response), "ready"):
            assert isinstance(outcome, ServiceUnavailable)
    for outcome in await both(Script(httpx.Response(404, text="<html>")), "item", "a"):
        assert isinstance(outcome, ServiceError)
        assert outcome.detail == "Not Found"


async def test_no_try_begins_after_the_deadline() -> None:
    script = Script(ok())
    policy = Policy(timeout=1e-9)
    for outcome in await both(script, "send_events", [Event("u", "a")], policy=policy):
        assert isinstance(outcome, DeadlineExceeded)
    assert not script.requests


async def test_an_async_try_ends_at_the_deadline() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    http = httpx.AsyncClient(transport=httpx.MockTransport(never))
    async with AsyncClient("http://test", policy=Policy(timeout=0.05), http=http) as client:
        with pytest.raises(DeadlineExceeded):
            await client.recall(user_id="u")


HEDGED = Policy(timeout=30, hedge_after=0.01, attempts=1)


async def test_a_hedged_recall_takes_the_second_answer_if_it_is_first() -> None:
    asked: list[httpx.Request] = []

    async def slow_first(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return ok()

    http = httpx.AsyncClient(transport=httpx.MockTransport(slow_first))
    async with AsyncClient("http://test", policy=HEDGED, http=http) as client:
        assert (await client.recall(user_id="u")).item_ids == ["a"]
    assert len(asked) == 2


def test_a_hedged_recall_of_threads_takes_the_second_answer_if_it_is_first() -> None:
    second_is_done = threading.Event()
    first = threading.Semaphore(1)

    def slow_first(request: httpx.Request) -> httpx.Response:
        if first.acquire(blocking=False):
            assert second_is_done.wait(30)
            return httpx.Response(500, json=PROBLEM)
        return ok()

    with client_of(slow_first, HEDGED) as client:
        assert client.recall(user_id="u").item_ids == ["a"]
        second_is_done.set()


async def test_a_hedged_recall_fails_only_if_both_copies_do() -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.02)
        return httpx.Response(500, json=PROBLEM)

    http = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    async with AsyncClient("http://test", policy=HEDGED, http=http) as client:
        with pytest.raises(ServiceError):
            await client.recall(user_id="u")


def test_all_tries_of_a_request_have_one_id() -> None:
    """So that an experiment counts one recall, however often it was asked."""
    script = Script(httpx.Response(503), httpx.Response(200, json=ANSWER))
    with client_of(script) as client:
        client.recall(user_id="u")
        client.recall(user_id="u")
    first, again, other = [request.headers["x-request-id"] for request in script.requests]
    assert first == again != other


def test_events_are_not_hedged_and_hedging_is_off_by_default() -> None:
    script = Script(ok({"accepted": 1, "stored": 1}))
    with client_of(script, HEDGED) as client:
        assert client.send_events([Event("u", "a")]).stored == 1
    assert len(script.requests) == 1
    assert Policy().hedge_after is None


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"attempts": 0}, {"hedge_after": 0}, {"first_pause": -1}]
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)


def test_ids_may_have_any_characters() -> None:
    script = Script(ok({"user_id": "", "events": []}))
    with client_of(script) as client:
        client.history("a/b ?#é")
    assert script.requests[0].url.raw_path == b"/users/a%2Fb%20%3F%23%C3%A9/history"
