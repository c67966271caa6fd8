"""The HTTP application: its paths, its lifespan, and the OpenAPI document."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from model.kinds import Kind
from service.batcher import Batcher, Worker
from service.catalogue.popularity import RecentPopularity
from service.catalogue.state import CatalogueState, ItemsChange
from service.catalogue.store import CatalogueStore
from service.catalogue.watcher import CatalogueWatcher
from service.errors import ServiceError
from service.experiments.log import ExperimentLog
from service.history.event_types import load_event_types
from service.history.store import HistoryStore, StoreUnavailable
from service.http.access import AdminPort, Guarded
from service.http.api_keys import ApiKey
from service.http.engine import Engine
from service.http.event_routes import EventRoutes
from service.http.experiments import ExperimentsResponse, LiveExperiments
from service.http.explanations import ExplainedResponse
from service.http.explorer import explorer_file, explorer_page
from service.http.gate import Gate
from service.http.item_routes import ItemPatch, ItemResponse, ItemRoutes
from service.http.live_versions import LiveVersions
from service.http.middleware import Observed
from service.http.pages import Pages
from service.http.paths import ITEM, USER
from service.http.problems import Problem, error_responses
from service.http.routes import DEADLINE_HEADER, MAX_DEADLINE_MS, Routes
from service.http.scenarios import Scenarios, ScenariosResponse
from service.http.schemas import (
    BatchRequest,
    BatchResponse,
    EventsRequest,
    EventsResponse,
    Ready,
    RecallRequest,
    RecallResponse,
)
from service.http.slow_routes import SlowResponse, SlowRoutes
from service.http.user_routes import DeletedResponse, UserHistoryResponse, UserRoutes
from service.http.versions import ReloadResponse, VersionRoutes, VersionsResponse
from service.observability.metrics import ItemFigures, Metrics
from service.settings import ServeSettings

log = logging.getLogger(__name__)

DOCS = HTMLResponse(
    Path(__file__).with_name("docs.html").read_bytes(),
    headers={
        "content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'"
    },
)
"""A page that shows the OpenAPI document, and loads nothing from elsewhere."""


RETRY_SECONDS = 1.0
"""Pause before a task in the background that failed is tried again."""
DEADLINE_PARAMETER = {
    "parameters": [
        {
            "name": DEADLINE_HEADER.decode(),
            "in": "header",
            "description": "milliseconds for which the client waits; then the answer is 504",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
        }
    ]
}
"""The OpenAPI description of the header that recalls may have."""


class RecallApp(FastAPI):
    """A FastAPI application that documents all operations and serves the hot ones itself.

    FastAPI would take longer over the operations in `direct` than the operations take, so they
    read bodies and answer errors themselves (docs/results/bench.md).
    """

    def __init__(
        self, metrics: Metrics, keys: Sequence[ApiKey], admin_port: int | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], ASGIApp] = {}  # by method and path
        guarded: ASGIApp = Guarded(self._dispatch, keys) if keys else self._dispatch
        if admin_port is not None:
            guarded = AdminPort(guarded, admin_port)
        self.observed = Observed(guarded, metrics)
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called if this process answers no more recalls because of a bug."""
        self.gate: Gate
        """The gate of the server's connections."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, or the lifespan."""
        serve = self.observed if scope["type"] == "http" else super().__call__
        await serve(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # the answer to GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        direct = self.direct.get((scope["method"], scope["path"]))
        await (direct or super().__call__)(scope, receive, send)


def create_app(
    settings: ServeSettings,
    engine: Engine,
    store: HistoryStore,
    metrics: Metrics | None = None,
    leaving: Callable[[], bool] = lambda: False,
    keys: Sequence[ApiKey] = (),
    catalogue: CatalogueState | None = None,
    admin_port: int | None = None,
) -> RecallApp:
    """Returns the application around an engine and an opened store, open to all without keys.

    `leaving` is whether the service is about to end. The application keeps the state of the items
    in `catalogue` as the store has it. It serves operations of the scope admin at `admin_port`
    only, if there is one.

    The application closes the store when it ends. Raises ValueError if a file that the settings
    name cannot be used.
    """
    metrics = metrics or Metrics()
    event_types = load_event_types(settings.event_types)
    items, state = CatalogueStore(store), catalogue or CatalogueState()
    scenarios = Scenarios(settings.scenarios, lambda: _attributes(engine))
    pages = Pages(settings.cursor_key, lambda: state.hidden)
    exposures = ExperimentLog(
        store, lambda stream, count: metrics.lost_entries.inc(stream, by=count)
    )

    def batcher_of(worker: Worker) -> Batcher:
        made = Batcher(worker, store, metrics, settings, event_types)
        made.on_failure = lambda error: app.on_failure(error)
        return made

    batcher = batcher_of(engine)
    live = LiveVersions(engine, batcher, batcher_of)
    experiments = LiveExperiments(
        settings.experiments,
        scenarios,
        live.answers,
        metrics.arm_fallbacks.inc,
        lambda: _attributes(engine),
    )
    experiments.file.on_change = lambda: engine.want(experiments.versions)
    watcher = CatalogueWatcher(items, state)
    popularity = None
    if days := settings.popular_half_life_days:
        popularity = RecentPopularity(store, event_types, days, state)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await watcher.start()  # first, so that no recall returns a hidden item
        engine.on_arm_gone = live.drain_arm
        engine.want(experiments.versions)
        await engine.start()
        batcher.start()
        with suppress(StoreUnavailable):  # the log says at once what is wrong with the store
            await store.ping()
        background = [scenarios.file.follow, experiments.file.follow, exposures.follow]
        if popularity:
            background.append(popularity.follow)
        following = [asyncio.create_task(_keep_on(task)) for task in background]
        yield
        for task in following:
            task.cancel()
        await live.drain()
        await watcher.close()
        with suppress(StoreUnavailable):
            await exposures.flush()
        await store.close()
        log.info("drained")

    app = RecallApp(
        metrics,
        keys,
        admin_port,
        title="RecGPT recall",
        version=package_version("recgpt"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
    )
    app.gate = Gate(batcher, metrics, settings.max_connections, leaving, keys)
    routes = Routes(
        settings, engine, batcher, store, metrics, experiments, exposures, pages, live, leaving
    )
    logged = exposures if settings.experiments or settings.log_events else None
    events = EventRoutes(store, metrics, event_types, settings.body_limit, logged, popularity)
    _route(app, routes, events, VersionRoutes(settings, engine, live))
    _route_users(app, UserRoutes(store))
    app.get("/scenarios", response_model=ScenariosResponse, summary="Named fields of recalls")(
        scenarios.listed
    )

    async def list_experiments() -> ExperimentsResponse:
        """Lists the experiments that run, with what their arms set, and the versions they name."""
        return experiments.listed(live.arm_versions())

    app.get("/experiments", response_model=ExperimentsResponse, summary="Experiments on recalls")(
        list_experiments
    )
    app.get("/admin/slow", response_model=SlowResponse, summary="Slowest recent requests")(
        SlowRoutes(app.observed.slow).slow
    )
    if settings.explorer:
        _route_explorer(app, routes)
    _route_items(app, ItemRoutes(live, items, watcher, settings.body_limit))
    metrics.items = lambda: _figures(watcher, engine)
    state.listen(lambda change: _count(metrics, change))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _route(app: RecallApp, routes: Routes, events: EventRoutes, versions: VersionRoutes) -> None:
    app.add_exception_handler(ServiceError, routes.on_service_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, routes.on_http_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, routes.on_invalid_query)  # type: ignore[arg-type]
    recall_errors = error_responses(400, 408, 413, 415, 422, 429, 503, 504)
    events_errors = error_responses(400, 408, 409, 413, 415, 422, 503)
    events_errors[207] = {"model": EventsResponse, "description": "Some events were not stored"}

    def post(
        path: str, operation: Any, request: type[BaseModel], extra: dict[str, Any], **about: Any
    ) -> None:
        app.post(path, openapi_extra=_request_body(request) | extra, **about)(operation)
        app.direct["POST", path] = routes.direct(operation)

    post(
        "/recall",
        routes.recall,
        RecallRequest,
        DEADLINE_PARAMETER,
        response_model=RecallResponse,
        summary="Candidates for a user",
        responses=recall_errors,
    )
    post(
        "/recall/batch",
        routes.recall_batch,
        BatchRequest,
        DEADLINE_PARAMETER,
        response_model=BatchResponse,
        summary="Candidates for several users",
        responses=recall_errors,
    )
    post(
        "/events",
        events.events,
        EventsRequest,
        {},
        response_model=EventsResponse,
        summary="Feedback of users",
        responses=events_errors,
    )
    app.get("/healthz", summary="Liveness", responses=error_responses(503))(routes.healthz)
    app.get(
        "/readyz", response_model=Ready, summary="Readiness", responses=error_responses(422, 503)
    )(routes.readyz)
    app.get(
        "/versions",
        response_model=VersionsResponse,
        summary="Versions of the bundle",
        responses=error_responses(503),
    )(versions.versions)
    app.post(
        "/admin/reload",
        response_model=ReloadResponse,
        responses=error_responses(409, 503)
        | {202: {"model": ReloadResponse, "description": "Another version is being taken up"}},
        summary="Look for another version",
    )(versions.reload)
    app.get("/docs", include_in_schema=False)(_docs)
    app.get("/metrics", summary="Prometheus metrics", response_class=Response)(routes.metrics)


def _route_users(app: RecallApp, users: UserRoutes) -> None:
    app.get(
        f"{USER}/history",
        response_model=UserHistoryResponse,
        summary="Stored history of a user",
        responses=error_responses(409, 422, 503),
    )(users.history)
    app.delete(
        USER,
        response_model=DeletedResponse,
        summary="Deletion of a user's data",
        responses=error_responses(422, 503),
    )(users.delete)


def _route_explorer(app: RecallApp, routes: Routes) -> None:
    app.post(
        "/explorer/recall",
        openapi_extra=_request_body(RecallRequest) | DEADLINE_PARAMETER,
        response_model=ExplainedResponse,
        summary="Candidates for a user, and the steps behind them",
        responses=error_responses(400, 408, 413, 415, 422, 429, 503, 504),
    )(routes.explained_recall)
    app.direct["POST", "/explorer/recall"] = routes.direct(routes.explained_recall)
    app.get("/explorer", include_in_schema=False)(explorer_page)
    app.get("/explorer/{name:path}", include_in_schema=False)(explorer_file)


def _route_items(app: RecallApp, items: ItemRoutes) -> None:
    path, hidden = ITEM, f"{ITEM}/hidden"
    errors, write_errors = error_responses(404, 422, 503), error_responses(404, 409, 422, 503)
    body_errors = error_responses(400, 404, 408, 409, 413, 415, 422, 503)
    app.put(hidden, response_model=ItemResponse, summary="Hide an item", responses=write_errors)(
        items.hide
    )
    app.delete(
        hidden, response_model=ItemResponse, summary="Show a hidden item", responses=write_errors
    )(items.show)
    app.get(path, response_model=ItemResponse, summary="An item as it is now", responses=errors)(
        items.read
    )
    app.patch(
        path,
        response_model=ItemResponse,
        summary="Change attributes of an item",
        responses=body_errors,
        openapi_extra=_request_body(ItemPatch),
    )(items.change)


async def _keep_on(task: Callable[[], Awaitable[None]]) -> None:
    """Runs a task in the background until it returns; after a bug it is tried again."""
    while True:
        try:
            return await task()
        except Exception:
            log.exception("a task in the background failed because of a bug, and is tried again")
            await asyncio.sleep(RETRY_SECONDS)


def _figures(watcher: CatalogueWatcher, engine: Engine) -> ItemFigures:
    """Returns what `/metrics` tells of hidden and changed items."""
    bundle = engine.bundle
    return ItemFigures(
        hidden=len(watcher.state.hidden),
        unknown_hidden=bundle.items.unknown_hidden if bundle else 0,
        changed=len(watcher.state.texts),
        ignored=len(watcher.unusable) + (bundle.items.ignored_count if bundle else 0),
        age_seconds=watcher.age_seconds,
    )


def _count(metrics: Metrics, change: ItemsChange) -> None:
    metrics.item_changes.inc("attributes", by=len(change.texts))
    if change.hidden is not None:
        metrics.item_changes.inc("hidden")


def _attributes(engine: Engine) -> Mapping[str, Kind] | None:
    return engine.bundle.attributes if engine.bundle else None


async def _docs() -> Response:
    return DOCS


def _request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the OpenAPI description of a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [
                (model, "validation")
                for model in (RecallRequest, BatchRequest, EventsRequest, ItemPatch, Problem)
            ],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"] |= bodies["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
