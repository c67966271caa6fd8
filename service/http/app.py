"""The HTTP application: what stands at which path, lifespan, and the OpenAPI document."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.batcher import Engine, Worker
from service.errors import Problem, ServiceError, error_responses
from service.history.store import HistoryStore
from service.http.metadata import Catalogue
from service.http.middleware import Observed
from service.http.routes import Routes
from service.http.schemas import (
    BatchRequest,
    BatchResponse,
    EventsRequest,
    EventsResponse,
    Ready,
    RecallRequest,
    RecallResponse,
)
from service.observability.metrics import Metrics
from service.settings import ServeSettings

log = logging.getLogger(__name__)


class RecallApp(FastAPI):
    """FastAPI documents all operations; those in `direct` it does not carry out.

    It would take longer over them than they do: what they need of it, they do themselves.
    """

    def __init__(self, metrics: Metrics, **options: Any) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], ASGIApp] = {}  # by method and path
        self._observed = Observed(self._dispatch, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the lifespan."""
        serve = self._observed if scope["type"] == "http" else super().__call__
        await serve(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = self.direct.get((scope["method"], scope["path"]))
        await (direct or super().__call__)(scope, receive, send)


def create_app(
    settings: ServeSettings,
    worker: Worker,
    catalogue: Catalogue,
    store: HistoryStore,
    metrics: Metrics | None = None,
) -> RecallApp:
    """The application around a worker, its catalogue and an opened store, which it closes."""
    metrics = metrics or Metrics()
    metrics.version = catalogue.version
    engine = Engine(worker, store, metrics, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await worker.start()
        engine.start()
        log.info("ready to serve", extra={"version": catalogue.version})
        yield
        await engine.drain()
        await store.close()
        log.info("drained")

    app = RecallApp(
        metrics,
        title="RecGPT recall",
        version=package_version("recgpt"),
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    _route(app, Routes(settings, catalogue, engine, store, metrics))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _route(app: RecallApp, routes: Routes) -> None:
    app.add_exception_handler(ServiceError, routes.on_service_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, routes.on_http_error)  # type: ignore[arg-type]
    for path, operation, takes, gives, summary in (
        ("/recall", routes.recall, RecallRequest, RecallResponse, "Candidates for a user"),
        ("/recall/batch", routes.recall_batch, BatchRequest, BatchResponse, "… for several users"),
        ("/events", routes.events, EventsRequest, EventsResponse, "What users did"),
    ):
        app.post(
            path,
            response_model=gives,
            summary=summary,
            responses=error_responses(400, 408, 413, 422, 429, 503, 504),
            openapi_extra=_takes(takes),
        )(operation)
        app.direct["POST", path] = routes.direct(operation)
    unready = error_responses(503)
    app.get("/healthz", summary="Alive", responses=unready)(routes.healthz)
    app.get("/readyz", response_model=Ready, summary="Able to answer in full", responses=unready)(
        routes.readyz
    )
    app.get("/metrics", summary="Prometheus metrics", response_class=Response)(routes.metrics)


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """Document a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [
                (kind, "validation")
                for kind in (RecallRequest, BatchRequest, EventsRequest, Problem)
            ],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"] |= bodies["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
