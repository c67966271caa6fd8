"""The operations of the HTTP API: they check a body, ask the batcher or the store, and answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import Query as QueryParameter
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service.batcher import Answer, Batcher
from service.errors import (
    ClientGone,
    FieldError,
    HistoryUnusable,
    Invalid,
    NotReady,
    ServiceError,
    StoreFailed,
    TooLarge,
    TooSlow,
    UnsupportedEncoding,
)
from service.history.event_types import EventTypes
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable
from service.http.engine import Engine
from service.http.explanations import with_explanation
from service.http.problems import (
    MAX_LISTED,
    problem_response,
    service_error_response,
    validation_error,
)
from service.http.queries import query_of
from service.http.scenarios import Scenarios
from service.http.schemas import (
    TOO_MANY_ITEMS,
    BatchRequest,
    Event,
    EventsRequest,
    Ready,
    RecallRequest,
)
from service.observability.metrics import Metrics
from service.recall.served_bundle import ServedBundle
from service.settings import ServeSettings

log = logging.getLogger(__name__)

BODY_SECONDS = 10.0
"""Time within which a whole body must arrive."""
WATCH_AFTER_SECONDS = 0.05
"""Time after which the service begins to watch whether the client leaves: most answers are sent
earlier, and a task for each of them would cost more than it saves."""
DEADLINE_HEADER = b"x-deadline-ms"
"""The header by which a client says how long it waits for a recall."""
MAX_DEADLINE_MS = 60_000
PROBE_SECONDS = 0.05
"""Time for which metrics, and a probe that is not strict, wait for the store."""

SEND_AGAIN = "send the same events again; one with a timestamp is not stored twice"
NOT_STORED = {
    StoreProblem.WRONG_TYPE: "not stored: a key of this user in the store is not a list; delete or "
    "repair it before you send this event again",
    StoreProblem.UNAVAILABLE: "not stored: the store refused it; send this event again",
}

B = TypeVar("B", bound=BaseModel)
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
        event_types: EventTypes,
        scenarios: Scenarios,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._batcher = batcher
        self._store = store
        self._metrics = metrics
        self._types = event_types
        self._scenarios = scenarios
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
        """Answers as `/recall` does, and tells the steps behind the answer: a costly operation."""
        return await self._recall(request, explain=True)

    async def _recall(self, request: Request, explain: bool = False) -> Response:
        body = self._scenarios.applied_to(await self._body(request, RecallRequest))
        self._check_interests([body])
        query, is_stored = query_of(body)
        if explain:
            query = replace(query, explain=True)
        recall = self._batcher.recall(query, is_stored, patience=_patience(request))
        answer = await _while_connected(request, recall)
        timing = ", ".join([f"{name};dur={s * 1000:.3f}" for name, s in answer.seconds.items()])
        return _json(_result(request, body, answer), {"server-timing": timing})

    async def recall_batch(self, request: Request) -> Response:
        """Answers up to 256 recalls at once, in the order of the requests."""
        body = await self._body(request, BatchRequest)
        requests = [self._scenarios.applied_to(one) for one in body.requests]
        if BatchRequest.is_too_large(requests):  # by the k of a scenario
            raise Invalid(TOO_MANY_ITEMS)
        self._check_interests(requests)
        queries = [query_of(one) for one in requests]
        recalls = self._batcher.recall_all(queries, patience=_patience(request))
        answers = await _while_connected(request, recalls)
        results = [
            _result(request, one, answer) for one, answer in zip(requests, answers, strict=True)
        ]
        return _json(b'{"results":[%b]}' % b",".join(results))

    async def events(self, request: Request) -> Response:
        """Appends to the users' histories, in the order of time if every event has one.

        The type says what an event does: a dislike excludes its item from the next answer on.
        200 means that all events are stored; 207 that some are, and `errors` says of each other
        what to do with it. After a 503 send the same events again: an event that was stored
        already, with the same user, item, type, timestamp and request_id, is not stored twice.
        Give every event a timestamp: an event without timestamp and request_id is told from a new
        one only by the front end that it was sent to before, and there may be several of them
        (`--http-workers`, replicas).
        """
        body = await self._body(request, EventsRequest)
        errors = await self._append(body.events)
        for position, event in enumerate(body.events):
            if position not in errors:
                self._metrics.event(event.type)
        counted = sum(not self._types.of(event.type).is_stored for event in body.events)
        accepted = len(body.events) - len(errors)
        answer: dict[str, Any] = {"accepted": accepted, "stored": accepted - counted}
        if errors:
            answer["errors"] = [errors[position]._asdict() for position in sorted(errors)]
        return _json(to_json(answer), status=207 if errors else 200)

    async def healthz(self) -> Response:
        """Answers 200 while the service works; restart it if it answers anything else.

        Until all processes have been ready once it answers 503, as if nothing listened yet: an
        instance that answers 200 takes recalls.
        """
        if not self._engine.started:
            raise NotReady(self._engine.problem())
        if not self._batcher.alive():
            raise NotReady("a task of this process has ended: restart the service")
        if not self._engine.alive():
            raise NotReady("no engine has answered for too long: restart the service")
        return _json(b'{"alive":true}')

    async def readyz(
        self,
        strict: Annotated[bool, QueryParameter(description="whether the store counts")] = False,
    ) -> Response:
        """Answers 200 if this process can answer recalls: it has loaded and is not draining.

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
        return _json(to_json(ready))

    async def metrics(self) -> Response:
        """Answers with the metrics of all processes of the service, for Prometheus."""
        self._metrics.version = self._engine.bundle.version if self._engine.bundle else ""
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

    async def _append(self, events: Sequence[Event]) -> dict[int, FieldError]:
        """Stores events, and returns an error for each position whose event is not stored.

        Raises StoreFailed or HistoryUnusable if no event at all is acknowledged.
        """
        stored = [self._types.of(event.type).is_stored for event in events]
        order = [(event, i) for i, event in enumerate(events) if stored[i]]
        if all(event.timestamp is not None for event in events):
            order.sort(key=lambda entry: entry[0].moment)
        try:
            problems = await self._store.append([event.for_history() for event, _ in order])
        except StoreUnavailable as error:
            self._metrics.refused_events.inc(StoreProblem.UNAVAILABLE.value, by=len(order))
            raise StoreFailed(f"the events could not be stored: {SEND_AGAIN}") from error
        errors = {}
        for (_, position), problem in zip(order, problems, strict=True):
            if problem:
                self._metrics.refused_events.inc(problem.value)
                errors[position] = FieldError(f"events.{position}", NOT_STORED[problem])
        if len(errors) == len(events):
            first = [errors[position] for position in sorted(errors)][:MAX_LISTED]
            if StoreProblem.UNAVAILABLE in problems:
                raise StoreFailed(f"no event was stored: {SEND_AGAIN}", first)
            raise HistoryUnusable(f"{first[0].where}: {first[0].problem}", first)
        return errors

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
        if self._batcher.draining:
            return "the service is draining: ask another instance"
        if not self._batcher.alive():
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

    async def _body(self, request: Request, kind: type[B]) -> B:
        """Reads and checks a body of bounded size."""
        _check_encoding(request)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read(request)
        except ClientDisconnect:
            raise ClientGone("the body ended too early: send all of it") from None
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {BODY_SECONDS:g} s") from None
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise validation_error(error) from None

    async def _read(self, request: Request) -> bytearray:
        limit = self._settings.body_limit
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"the body has more than {limit} bytes: send less at once")
        return body

    def _check_interests(self, requests: list[RecallRequest]) -> None:
        """Raises NotReady, or Invalid if the bundle cannot generate as many interests."""
        bundle = self._engine.bundle
        if not bundle:
            raise NotReady(self._engine.problem())
        limit = bundle.max_interests
        if any((request.interests or 0) > limit for request in requests):
            raise Invalid(f"interests: this bundle generates at most {limit}")


def _result(request: Request, body: RecallRequest, answer: Answer) -> bytes:
    """Returns a `RecallResponse` in JSON. Nothing that is put between quotes needs escapes."""
    found, reason, bundle = answer.found, answer.degraded_reason, answer.bundle
    assert bundle
    result = (
        b'{"request_id":"%b","version":%b,"items":%b,"degraded":%b,"degraded_reason":%b,'
        b'"unknown_items":%d}'
    ) % (
        request.scope["state"]["request_id"].encode(),
        to_json(bundle.version),
        bundle.metadata.added_to(found.json, found.rows) if body.with_metadata else found.json,
        b"true" if reason else b"false",
        b'"%b"' % reason.encode() if reason else b"null",
        found.unknown_items,
    )
    return with_explanation(result, answer, body.with_metadata) if found.explanation else result


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


def _check_encoding(request: Request) -> None:
    """Raises UnsupportedEncoding if the body is compressed."""
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedEncoding("the body has a Content-Encoding: send it uncompressed")


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


def _json(body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(body, status, headers, media_type="application/json")
