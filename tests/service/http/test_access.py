import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from in_process_worker import InProcessWorker

from service.admission import Admission
from service.history.store import HistoryStore
from service.http import api_keys
from service.http.api_keys import RULES, VARIABLE, ApiKey, KeyScope, keys_from, scope_of
from service.http.app import create_app
from service.http.recall_app import RecallApp
from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.server import _warn_of_open_ports
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

KEYS = ",".join(
    [
        "shop:read:secret-of-the-shop-1",
        "shop-new:read+write:secret-of-the-shop-2",
        "slow:read@2:secret-of-the-slow-one",
        "jobs:admin:secret-of-the-jobs!",
    ]
)
SHOP, SHOP_NEW, SLOW, JOBS = (key.split(":")[2] for key in KEYS.split(","))


def with_key(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def app(recaller: Recaller, bundle: ServedBundle, tmp_path: Path) -> AsyncIterator[RecallApp]:
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store, keys=keys_from({VARIABLE: KEYS}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def guarded(app: RecallApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def recall(client: httpx.AsyncClient, secret: str) -> httpx.Response:
    return await client.post("/recall", json={"user_id": "u"}, headers=with_key(secret))


async def test_a_key_opens_what_it_has_a_scope_for(guarded: httpx.AsyncClient) -> None:
    events = {"events": [{"user_id": "ann", "item_id": "i"}]}
    for secret, statuses in {
        SHOP: [200, 403, 403],
        SHOP_NEW: [200, 200, 403],
        JOBS: [403, 403, 200],
    }.items():
        headers = with_key(secret)
        answers = [
            await recall(guarded, secret),
            await guarded.post("/events", json=events, headers=headers),
            await guarded.delete("/users/ann", headers=headers),
        ]
        assert [answer.status_code for answer in answers] == statuses


async def test_recalls_count_for_the_name_of_their_key(
    guarded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which admission is fair between clients."""
    entered: list[str] = []
    enter = Admission.enter

    def noted(admission: Admission, client: str = "") -> None:
        entered.append(client)
        enter(admission, client)

    monkeypatch.setattr(Admission, "enter", noted)
    await recall(guarded, SHOP)
    batch = {"requests": [{"user_id": "u"}] * 2}
    await guarded.post("/recall/batch", json=batch, headers=with_key(SHOP_NEW))
    assert entered == ["shop", "shop-new", "shop-new"]


async def test_without_a_valid_key_only_health_answers(
    guarded: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in ({}, with_key("x"), with_key(SHOP[:-1]), {"authorization": f"Basic {SHOP}"}):
        answer = await guarded.post("/recall", content=b"[" * 100, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "x-request-id" in answer.headers
        assert (await guarded.get("/nowhere", headers=headers)).status_code == 401
        assert (await guarded.get("/docs", headers=headers)).status_code == 401
        assert (await guarded.get("/healthz", headers=headers)).status_code == 200
        assert (await guarded.get("/readyz", headers=headers)).status_code == 200
    assert (await recall(guarded, SHOP)).status_code == 200
    assert (await guarded.get("/nowhere", headers=with_key(JOBS))).status_code == 404
    assert SHOP not in caplog.text


async def test_a_key_may_make_as_many_requests_as_its_rate(
    guarded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1e6
    monkeypatch.setattr(api_keys.time, "monotonic", lambda: now)
    for _ in range(3):
        now += 10
        statuses = [(await recall(guarded, SLOW)).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
    refused = await recall(guarded, SLOW)
    assert refused.headers["retry-after"] == "1"
    assert (await recall(guarded, SHOP)).status_code == 200
    now += 0.5
    assert (await recall(guarded, SLOW)).status_code == 200


async def test_every_operation_has_a_rule_of_its_own(app: RecallApp) -> None:
    """An operation without one would need the scope admin."""
    named = {(method, path) for method, path, _ in RULES}
    for route in app.routes:
        methods = route.methods if isinstance(route, APIRoute) else {"GET"}
        for method in methods or set():
            path = getattr(route, "path", "").split("/{")[0]
            parts = path.split("/")
            above = {"/".join(parts[:end]) for end in range(2, len(parts) + 1)}
            assert method == "HEAD" or any((method, one) in named for one in above), (method, path)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/recall", KeyScope.READ),
        ("POST", "/recall/batch", KeyScope.READ),
        ("GET", "/explorer/explorer.js", KeyScope.OPEN),
        ("POST", "/explorer/recall", KeyScope.ADMIN),
        ("POST", "/recallx", KeyScope.ADMIN),
        ("PUT", "/items/a/b/hidden", KeyScope.WRITE),
        ("GET", "/users/healthz", KeyScope.ADMIN),
        ("POST", "/healthz", KeyScope.ADMIN),
        ("GET", "/recall/../healthz", KeyScope.ADMIN),
    ],
)
def test_scopes(method: str, path: str, scope: KeyScope) -> None:
    assert scope_of(method, path) is scope


async def test_answers_have_headers_for_browsers(client: httpx.AsyncClient) -> None:
    for answer in (await client.get("/docs"), await client.get("/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"


def test_keys_of_the_environment() -> None:
    assert keys_from({}) == keys_from({VARIABLE: " "}) == []
    keys = keys_from({VARIABLE: KEYS}, front_ends=2)
    assert [key.name for key in keys] == ["shop", "shop-new", "slow", "jobs"]
    assert keys[1].scopes == {KeyScope.READ, KeyScope.WRITE}
    assert SHOP.encode() not in repr([vars(key) for key in keys]).encode()
    shared = ApiKey("k", frozenset(), "s" * 16, rate=0.5)
    assert shared.wait_seconds() == 0
    assert 0 < shared.wait_seconds() <= 2


@pytest.mark.parametrize(
    "text",
    [
        "top-secret-of-16-characters",
        "name:read:",
        "name:read:top-secret",
        "name:all:top-secret-of-16-characters",
        "name:read@fast:top-secret-of-16-characters",
        "name:read@0:top-secret-of-16-characters",
        "a:read:top-secret-of-16-characters,a:read:top-secret-of-17-characters",
        "a:read:top-secret-of-16-characters,b:read:top-secret-of-16-characters",
        "a:read:top-secret-of-16-characters,",
    ],
)
def test_malformed_keys_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ValueError, match=VARIABLE) as refused:
        keys_from({VARIABLE: text})
    assert "top-secret" not in str(refused.value)


async def test_operations_of_the_scope_admin_can_have_a_port_of_their_own(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path
) -> None:
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000, explorer=True)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    worker = InProcessWorker(recaller, bundle=bundle)
    app = create_app(settings, worker, store, admin_port=8001)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as everybody,
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8001") as operator,
    ):
        for method, path in (
            ("GET", "/users/ann/history"),
            ("DELETE", "/users/ann"),
            ("POST", "/admin/reload"),
        ):
            refused = await everybody.request(method, path)
            assert refused.status_code == 404
            assert "a port of their own" in refused.json()["detail"]
            assert (await operator.request(method, path)).status_code == 200
        refused = await everybody.post("/explorer/recall", json={"user_id": "ann"})
        assert refused.status_code == 404
        for client in (everybody, operator):
            assert (await client.post("/recall", json={"user_id": "ann"})).status_code == 200
            assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.5", False)],
)
async def test_without_keys_operations_of_the_scope_admin_are_local(
    recaller: Recaller, bundle: ServedBundle, tmp_path: Path, address: str, is_local: bool
) -> None:
    settings = ServeSettings(artifacts=tmp_path, store="", deadline_ms=60_000, explorer=True)
    store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
    app = create_app(settings, InProcessWorker(recaller, bundle=bundle), store)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 50_000))
    asked = {"user_id": "ann", "history": ["i1"]}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client,
    ):
        for method, path in (
            ("GET", "/users/ann/history"),
            ("DELETE", "/users/ann"),
            ("POST", "/admin/reload"),
            ("GET", "/admin/slow"),
            ("POST", "/explorer/recall"),
        ):
            body = asked if method == "POST" else None
            answer = await client.request(method, path, json=body)
            assert answer.status_code == (200 if is_local else 403), path
            passed_on = {"x-forwarded-for": "10.0.0.5"}
            answer = await client.request(method, path, json=body, headers=passed_on)
            assert answer.status_code == 403  # it comes from elsewhere, through a proxy
            assert "RECGPT_API_KEYS, or give them a port" in answer.json()["detail"]
            for host in ("recall.example:8000", "localhost.example", "[", ""):
                answer = await client.request(method, path, json=body, headers={"host": host})
                assert answer.status_code == 403, host  # a browser was led here
            for host in ("127.0.0.1:8000", "[::1]:8000", "localhost"):
                answer = await client.request(method, path, json=body, headers={"host": host})
                assert answer.status_code == (200 if is_local else 403), host
        assert (await client.post("/recall", json=asked)).status_code == 200
        assert (await client.get("/versions")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/nothing")).status_code == 404


def test_the_log_says_what_others_may_do_without_a_key(caplog: pytest.LogCaptureFixture) -> None:
    about = {"artifacts": Path(), "store": ""}
    _warn_of_open_ports(ServeSettings.model_validate(about))
    assert not caplog.records
    _warn_of_open_ports(ServeSettings.model_validate(about | {"host": "0.0.0.0"}))
    assert caplog.messages == [
        "anybody who reaches the port may recall and send events: RECGPT_API_KEYS is not set"
    ]
    open_port = {"admin_port": 1, "admin_host": "0.0.0.0"}
    _warn_of_open_ports(ServeSettings.model_validate(about | open_port))
    assert "--admin-port may read and delete histories" in caplog.messages[-1]
