"""`GET /admin/slow`, and the requests of an application as spans."""

from typing import Any

import httpx
import pytest

from service.http.api_keys import KeyScope, scope_of
from service.observability.metrics import STAGES
from service.observability.tracing import TracedRequest

pytestmark = pytest.mark.anyio


class Recorded:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[TracedRequest] = []

    def trace(self, request: TracedRequest) -> str:
        self.requests.append(request)
        return f"trace-{len(self.requests)}"


def test_it_needs_the_scope_admin() -> None:
    assert scope_of("GET", "/admin/slow") is KeyScope.ADMIN


async def test_the_slowest_come_with_their_stages_and_without_users(
    client: httpx.AsyncClient,
) -> None:
    recall = await client.post("/recall", json={"user_id": "secret-user"})
    await client.get("/users/secret-user/history")
    await client.post("/recall", json={"k": 0})
    await client.get("/healthz")
    await client.get("/metrics")
    answer = await client.get("/admin/slow")
    assert "secret-user" not in answer.text
    requests: list[dict[str, Any]] = answer.json()["requests"]
    assert [one["ms"] for one in requests] == sorted((r["ms"] for r in requests), reverse=True)
    found = {(one["route"], one["status"]): one for one in requests}
    assert set(found) == {("/recall", 200), ("/users/{user_id}/history", 200), ("/recall", 422)}
    slow = found["/recall", 200]
    assert slow["request_id"] == recall.json()["request_id"]
    assert set(slow["stages"]) == set(STAGES)
    assert sum(slow["stages"].values()) <= slow["ms"]
    assert found["/recall", 422]["stages"] == {}


async def test_requests_are_traced_but_for_probes(client: httpx.AsyncClient) -> None:
    observed = client._transport.app.observed  # type: ignore[attr-defined]
    observed.tracer = tracer = Recorded()
    await client.post("/recall", json={"user_id": "u"}, headers={"traceparent": "00-a"})
    await client.get("/healthz")
    await client.get("/nowhere")
    recall, unknown = tracer.requests
    assert (recall.method, recall.route, recall.status) == ("POST", "/recall", 200)
    assert set(recall.stages) == set(STAGES)
    assert (b"traceparent", b"00-a") in list(recall.headers)
    assert (unknown.route, unknown.status, unknown.stages) == ("other", 404, {})


async def test_the_log_and_the_slow_requests_name_the_trace(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    observed = client._transport.app.observed  # type: ignore[attr-defined]
    await client.post("/recall", json={"user_id": "u"})
    observed.tracer = Recorded()
    with caplog.at_level("INFO", "service.http.middleware"):
        await client.post("/recall", json={"user_id": "u"})
    record = [one for one in caplog.records if one.name == "service.http.middleware"][-1]
    assert record.__dict__["trace_id"] == "trace-1"
    answer = await client.get("/admin/slow")
    assert {one["trace_id"] for one in answer.json()["requests"]} == {None, "trace-1"}
