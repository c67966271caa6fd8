"""The operations of the HTTP API: they check a body, ask the batcher or the store, and answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import Query as QueryParameter
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.batcher import Batcher
from service.errors import (
    ClientGone,
    FieldError,
    Invalid,
    NotReady,
    ServiceError,
)
from service.experiments.assignment import Assignment
from service.experiments.config import Arm
from service.experiments.log import ExperimentLog
from service.experiments.team_draft import INTERLEAVED
from service.history.store import HistoryStore, StoreUnavailable
from service.http.answers import NO_TEAMS, first_page, page_response, recall_response
from service.http.bodies import json_response, read_body
from service.http.drafts import Draft, teams_of
from service.http.engine import Engine
from service.http.experiments import LiveExperiments
from service.http.live_versions import LiveVersions, recall_all
from service.http.pages import Pages
from service.http.problems import problem_response, service_error_response
from service.http.queries import Asked, checked
from service.http.schemas import TOO_MANY_ITEMS, BatchRequest, Ready, RecallRequest
from service.observability.metrics import Metrics
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings
from service.waiting import Answer

log = logging.getLogger(__name__)

WATCH_AFTER_SECONDS = 0.05
"""Time after which the service begins to watch whether the client leaves: most answers are sent
earlier, and a task for each of them would cost more than it saves."""
DEADLINE_HEADER = b"x-deadline-ms"
"""The header by which a client says how long it waits for a recall."""
MAX_DEADLINE_MS = 60_000
PROBE_SECONDS = 0.05
"""Time for which metrics, and a probe that is not strict, wait for the store."""

T = TypeVar("T")


class Routes:
    """The operations. They read bodies themselves, in one pass from bytes to checked fields."""

    def __init__(
        self,
        settings: ServeSettings,
        engine: Engine,
        batcher: Batcher,
        store: HistoryStore,
        metrics: Metrics,
        experiments: LiveExperiments,
        experiment_log: ExperimentLog,
        pages: Pages,
        live: LiveVersions,
        leaving: Callable[[], bool],
    ) -> None:
        self._body_limit = settings.body_limit
        self._engine = engine
        self._batcher = batcher
        self._store = store
        self._metrics = metrics
        self._experiments = experiments
        self._experiment_log = experiment_log
        self._pages = pages
        self._live = live
        self._leaving = leaving
        self._logged_problem = ""

    def direct(self, operation: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
        """Returns the operation as an ASGI application of its own, which answers its errors."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            try:
                response = await operation(request)
            except ServiceError as error:
                response = await self.on_service_error(request, error)
            await response(scope, receive, send)

        return serve

    async def recall(self, request: Request) -> Response:
        """Generates several interests from the user's history; each recalls its share."""
        return await self._recall(request)

    async def explained_recall(self, request: Request) -> Response:
        """Answers as `/recall` does, and tells the steps behind the answer: a costly operation.

        An arm that is named takes the place of the user's own arms, and its version answers, unless
        a version is named, too. So versions and arms can be compared.
        """
        return await self._recall(request, explain=True)

    async def _recall(self, request: Request, explain: bool = False) -> Response:
        given = await read_body(request, RecallRequest, self._body_limit)
        if given.cursor is not None:
            return self._following_page(request, given, given.cursor)
        if explain:
            asked = self._asked_by_name(given, request.query_params)
            query = replace(asked.query, explain=True)
        else:
            draft = self._experiments.draft_for(given)
            if draft and (sides := self._sides(draft)):
                return await self._drafted(request, draft, sides)
            asked = self._asked(given)
            query = asked.query
        recall = asked.version.batcher.recall(
            query, asked.is_stored, _patience(request), _client(request)
        )
        answer = await _while_connected(request, recall)
        request.scope["state"]["stages"] = answer.seconds
        timing = ", ".join([f"{name};dur={s * 1000:.3f}" for name, s in answer.seconds.items()])
        result = self._response(request, asked.body, answer, asked.arms)
        return json_response(result, {"server-timing": timing})

    def _asked(self, given: RecallRequest, where: str = "") -> Asked:
        """Returns a recall with the fields of the user's arms.

        If one of these does not fit the version that answers, the user is answered as if there were
        no experiment: the request is not at fault. Raises Invalid if it is.
        """
        body, arms = self._experiments.applied_to(given)
        try:
            return checked(body, arms, self._live.of(arms), where)
        except Invalid:
            if not arms:
                raise
        asked = checked(self._experiments.without_arms(given), [], self._live.of(()), where)
        self._experiments.on_fallback()
        return asked

    def _asked_by_name(self, given: RecallRequest, names: Mapping[str, str]) -> Asked:
        """Returns a recall as the user of an arm makes it, or for a version, if they are named."""
        arm, version = names.get("arm"), names.get("version")
        if not arm and not version:
            return self._asked(given)
        named = self._experiments.as_arm(given, arm) if arm else None
        body, arms = named or self._experiments.applied_to(given)
        return checked(body, arms, self._live.named(version) if version else self._live.of(arms))

    def _sides(self, draft: Draft) -> list[Asked] | None:
        """Returns the recalls of a draft; None if a field does not fit the version of its arm."""
        arms = [list(draft.arms_of(side)) for side in draft.sides]
        try:
            return [
                checked(side.request, own, self._live.of(own))
                for side, own in zip(draft.sides, arms, strict=True)
            ]
        except Invalid:
            self._experiments.on_fallback()
            return None

    async def _drafted(self, request: Request, draft: Draft, sides: Sequence[Asked]) -> Response:
        """Answers a user of an interleaved experiment."""
        recalls = self._all(request, sides)
        answers = await _while_connected(request, recalls)
        request.scope["state"]["stages"] = answers[0].seconds
        body = draft.sides[0].request
        if draft.is_of(answers):
            answer = draft.of(answers, request.scope["state"]["request_id"])
            teams = draft.bundles(answers)
            return json_response(self._response(request, body, answer, draft.arms, teams))
        arms = [one for one in draft.arms if one.arm != INTERLEAVED]
        return json_response(self._response(request, body, answers[0], arms))

    def _following_page(self, request: Request, given: RecallRequest, cursor: str) -> Response:
        """Answers with the page that a cursor begins, which is an exposure of its own."""
        page = self._pages.following(cursor)
        answer = page_response(request, given, page, self._live.bundle_of)
        if page.arms:
            arms = [Assignment(experiment, arm, Arm()) for experiment, arm in page.arms]
            request_id: str = request.scope["state"]["request_id"]
            about = page.user, request_id, page.version, bool(page.degraded_reason)
            self._experiment_log.expose(arms, *about, _teams(arms, page.json))
        return json_response(answer)

    async def recall_batch(self, request: Request) -> Response:
        """Answers up to 256 recalls at once, in the order of the requests."""
        body = await read_body(request, BatchRequest, self._body_limit)
        asked = [self._asked(one, f"requests.{at}.") for at, one in enumerate(body.requests)]
        if BatchRequest.is_too_large([one.body for one in asked]):  # by the k of a scenario
            raise Invalid(TOO_MANY_ITEMS)
        answers = await _while_connected(request, self._all(request, asked))
        results = [
            self._response(request, one.body, answer, one.arms)
            for one, answer in zip(asked, answers, strict=True)
        ]
        return json_response(b'{"results":[%b]}' % b",".join(results))

    def _all(self, request: Request, asked: Sequence[Asked]) -> Coroutine[Any, Any, list[Answer]]:
        """Returns how to get the answers to several recalls of a request."""
        queries = [(one.query, one.is_stored) for one in asked]
        chosen = [one.version for one in asked]
        return recall_all(queries, chosen, _patience(request), _client(request))

    async def healthz(self) -> Response:
        """Answers 200 while the service works; restart it if it answers anything else.

        Until all processes have been ready once it answers 503, as if nothing listened yet: an
        instance that answers 200 takes recalls.
        """
        if not self._engine.started:
            raise NotReady(self._engine.problem())
        if not self._live.alive():
            raise NotReady("a task of this process has ended: restart the service")
        if not self._engine.alive():
            raise NotReady("no engine has answered for too long: restart the service")
        return json_response(b'{"alive":true}')

    async def readyz(
        self,
        strict: Annotated[bool, QueryParameter(description="whether the store counts")] = False,
    ) -> Response:
        """Answers 200 if this process can answer recalls: it has loaded and is not going down.

        The body tells whether the store of histories is available. With `strict=1` an unavailable
        store is answered 503. A load balancer should ask without it: recalls are answered without
        a store too, and a moment without Redis must not take every replica out of rotation.
        """
        bundle = self._check_ready()
        available = await self._store_answers(None if strict else PROBE_SECONDS)
        if strict and not available:
            raise NotReady(
                "the store of histories is unavailable, and the log says why; recalls that bring "
                "a history are answered in full"
            )
        ready = Ready(
            ready=True,
            version=bundle.version,
            store="available" if available else "unavailable",
        )
        return json_response(to_json(ready))

    async def metrics(self) -> Response:
        """Answers with the metrics of all processes of the service, for Prometheus."""
        self._metrics.version = self._engine.bundle.version if self._engine.bundle else ""
        self._metrics.arm_versions = {v.version: v.loaded for v in self._live.arm_versions()}
        available = await self._store_answers(PROBE_SECONDS)
        self._metrics.ready = available and not self._process_problem()
        return Response(self._metrics.expose(), media_type="text/plain; version=0.0.4")

    async def on_service_error(self, request: Request, error: ServiceError) -> Response:
        """Answers with the problem document of the error."""
        self._metrics.failure(type(error).__name__)
        return service_error_response(error, request.state.request_id)

    async def on_invalid_query(self, request: Request, error: RequestValidationError) -> Response:
        """Answers a request whose query has a value that the operation does not take."""
        fields = [FieldError(str(p["loc"][-1]), p["msg"]) for p in error.errors()]
        detail = "; ".join(f"{field.where}: {field.problem}" for field in fields)
        return await self.on_service_error(request, Invalid(detail, fields))

    async def on_http_error(self, request: Request, error: HTTPException) -> Response:
        """Answers a request for an unknown path or method."""
        self._metrics.failure(f"HTTP{error.status_code}")
        detail = f"{error.detail}: /docs lists what there is"
        headers = dict(error.headers or {})
        return problem_response(
            error.status_code, detail, request.state.request_id, headers=headers
        )

    def _response(
        self,
        request: Request,
        body: RecallRequest,
        answer: Answer,
        arms: Sequence[Assignment],
        teams: Mapping[str, ServedBundle] = NO_TEAMS,
    ) -> bytes:
        """Returns a `RecallResponse` in JSON, and logs the exposure to arms of experiments.

        An explained answer is shown to a colleague, and no exposure of the user. An arm whose
        version was given up meanwhile has no part in the answer.
        """
        arms = [one for one in arms if one.settings.version in (None, answer.version)]
        page = first_page(body, answer, self._pages, arms, teams)
        response = recall_response(request, body, answer, page, arms, teams)
        is_shown = not answer.found.explanation
        if arms and is_shown and body.user_id is not None:
            request_id: str = request.scope["state"]["request_id"]
            degraded = bool(answer.degraded_reason)
            about = body.user_id, request_id, answer.version, degraded
            shown = page.json if page else answer.found.json
            self._experiment_log.expose(arms, *about, _teams(arms, shown))
        return response

    def _check_ready(self) -> ServedBundle:
        """Returns the served bundle. Raises NotReady if this process cannot answer recalls.

        Logs when that changes.
        """
        problem = self._process_problem()
        if problem != self._logged_problem:
            self._logged_problem = problem
            log.warning("not ready: %s", problem) if problem else log.info("ready")
        if problem or not self._engine.bundle:
            raise NotReady(problem)
        return self._engine.bundle

    def _process_problem(self) -> str:
        """Returns why this process cannot answer recalls; empty if it can."""
        if self._leaving() or self._batcher.draining:
            return "the service is going down: ask another instance"
        if not self._live.alive():
            return "a task of this process has not started, or has ended"
        return self._engine.problem()

    async def _store_answers(self, seconds: float | None = None) -> bool:
        """Returns whether recalls read histories, and can within this time.

        The store logs why not.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._store.ping()
        except (StoreUnavailable, TimeoutError):
            return False
        return not self._batcher.skips_store()


def _teams(arms: Sequence[Assignment], candidates: bytes) -> str:
    """Returns the teams of an interleaved answer, as they are logged."""
    return teams_of(candidates) if any(one.arm == INTERLEAVED for one in arms) else ""


def _client(request: Request) -> str:
    """Returns the name of the request's key; empty if there are no keys."""
    name: str = request.scope["state"].get("client", "")
    return name


def _patience(request: Request) -> float | None:
    """Returns the seconds in which the client wants an answer, None if it does not say.

    Raises Invalid if the header is not a number of milliseconds.
    """
    for name, value in request.scope["headers"]:
        if name == DEADLINE_HEADER:
            if value.isdigit() and len(value) <= 9 and 1 <= int(value) <= MAX_DEADLINE_MS:
                return int(value) / 1000
            words = f"Input should be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}"
            where = DEADLINE_HEADER.decode()
            raise Invalid(f"{where}: {words}", [FieldError(where, words)])
    return None


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work, and cancels it when the client leaves. The body must have been read."""
    working = asyncio.current_task()
    assert working
    leaving: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal leaving
        leaving = asyncio.create_task(_on_leave(request, working.cancel))

    soon = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if leaving and leaving.done() and not leaving.cancelled():
            working.uncancel()
            raise ClientGone("the client left before the answer") from None
        raise
    finally:
        soon.cancel()
        if leaving:
            leaving.cancel()


async def _on_leave(request: Request, act: Callable[[], object]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    act()
