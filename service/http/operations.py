"""The operations of the API: their paths, and what the OpenAPI document says of them."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from service.errors import ServiceError
from service.http.event_routes import EventRoutes
from service.http.experiments import ExperimentsResponse, LiveExperiments
from service.http.explanations import ExplainedResponse
from service.http.explorer import explorer_file, explorer_page
from service.http.explorer_routes import ExplorerRoutes, ExposuresResponse, MapRequest, MapResponse
from service.http.index_quality import IndexQuality, IndexQualityResponse
from service.http.item_routes import ItemPatch, ItemResponse, ItemRoutes
from service.http.live_versions import LiveVersions
from service.http.paths import ITEM, USER
from service.http.problems import Problem, error_responses
from service.http.recall_app import RecallApp
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

DOCS = HTMLResponse(
    Path(__file__).with_name("docs.html").read_bytes(),
    headers={
        "content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'"
    },
)
"""A page that shows the OpenAPI document, and loads nothing from elsewhere."""

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

EXPLAINED_PARAMETERS = {
    "parameters": [
        *DEADLINE_PARAMETER["parameters"],
        {
            "name": "arm",
            "in": "query",
            "description": "EXPERIMENT/ARM: answer as users of this arm are answered",
            "schema": {"type": "string"},
        },
        {
            "name": "version",
            "in": "query",
            "description": "version that answers: the served one, or one that an arm names",
            "schema": {"type": "string"},
        },
    ]
}
"""The same of recalls that are explained."""


def route_recalls(app: RecallApp, routes: Routes, events: EventRoutes) -> None:
    """Adds recalls and events, and the handlers of errors."""
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


def route_service(app: RecallApp, routes: Routes, versions: VersionRoutes) -> None:
    """Adds what is asked about the service itself."""
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


def route_users(app: RecallApp, users: UserRoutes) -> None:
    """Adds what the store has of a user."""
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


def route_explorer(
    app: RecallApp, routes: Routes, views: ExplorerRoutes, quality: IndexQuality
) -> None:
    """Adds the explorer, its recalls, and what its tabs ask."""
    app.post(
        "/explorer/recall",
        openapi_extra=_request_body(RecallRequest) | EXPLAINED_PARAMETERS,
        response_model=ExplainedResponse,
        summary="Candidates for a user, and the steps behind them",
        responses=error_responses(400, 408, 413, 415, 422, 429, 503, 504),
    )(routes.explained_recall)
    app.direct["POST", "/explorer/recall"] = routes.direct(routes.explained_recall)
    app.post(
        "/explorer/exposures",
        response_model=ExposuresResponse,
        summary="Counts of the answers of each arm",
        responses=error_responses(422, 503),
    )(views.exposures)
    app.post(
        "/explorer/index",
        response_model=IndexQualityResponse,
        summary="Approximate hits beside exact ones",
        responses=error_responses(422, 429, 503),
    )(quality.index)
    app.post(
        "/explorer/map",
        openapi_extra=_request_body(MapRequest),
        response_model=MapResponse,
        summary="The catalogue as a map",
        responses=error_responses(400, 408, 413, 415, 422, 503),
    )(views.map)
    app.get("/explorer", include_in_schema=False)(explorer_page)
    app.get("/explorer/{name:path}", include_in_schema=False)(explorer_file)


def route_items(app: RecallApp, items: ItemRoutes) -> None:
    """Adds items as they are now, and their changes."""
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


def route_experiments(
    app: RecallApp, scenarios: Scenarios, experiments: LiveExperiments, live: LiveVersions
) -> None:
    """Adds the lists of scenarios and of experiments."""

    async def list_experiments() -> ExperimentsResponse:
        """Lists the experiments that run, with what their arms set, and the versions they name."""
        return experiments.listed(live.arm_versions())

    app.get("/scenarios", response_model=ScenariosResponse, summary="Named fields of recalls")(
        scenarios.listed
    )
    app.get("/experiments", response_model=ExperimentsResponse, summary="Experiments on recalls")(
        list_experiments
    )


def route_slow(app: RecallApp) -> None:
    """Adds the slowest recent requests."""
    app.get("/admin/slow", response_model=SlowResponse, summary="Slowest recent requests")(
        SlowRoutes(app.observed.slow).slow
    )


BODIES = (RecallRequest, BatchRequest, EventsRequest, ItemPatch, MapRequest, Problem)
"""Bodies that operations read themselves, or write."""


def openapi(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI document, with the bodies that operations read themselves."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [(model, "validation") for model in BODIES],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"] |= bodies["$defs"]
        app.openapi_schema = document
    return app.openapi_schema


async def _docs() -> Response:
    return DOCS


def _request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the OpenAPI description of a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
