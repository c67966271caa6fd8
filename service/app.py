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

from service.engine import Engine
from service.errors import Problem, ServiceError, error_responses
from service.history import HistoryStore
from service.metrics import Metrics
from service.middleware import Observed
from service.recall import Recaller
from service.routes import Routes
from service.schemas import (
    BatchRequest,
    BatchResponse,
    EventsRequest,
    EventsResponse,
    Ready,
    RecallRequest,
    RecallResponse,
)
from service.settings import ServeSettings

log = logging.getLogger(__name__)


def create_app(settings: ServeSettings, recaller: Recaller, store: HistoryStore) -> FastAPI:
    """The application around a loaded artifact and an opened store, which it closes."""
    metrics = Metrics()
    engine = Engine(recaller, store, metrics, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        metrics.artifact.labels(recaller.version).set(1)
        metrics.queue_length.set_function(engine.queue_length)
        log.info("ready to serve", extra={"version": recaller.version})
        yield
        await engine.drain()
        await store.close()
        log.info("drained")

    app = FastAPI(
        title="RecGPT recall",
        version=package_version("recgpt"),
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Observed, metrics=metrics)
    _route(app, Routes(settings, engine, store, metrics))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _route(app: FastAPI, routes: Routes) -> None:
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
