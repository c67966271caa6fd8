"""Middleware for every request: its id, its time, its log line, and an answer in every case."""

import logging
import os
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem_response
from service.observability.metrics import QUIET_ROUTES, ROUTES, Metrics
from service.observability.slow_requests import SlowRequest, SlowRequests
from service.observability.tracing import TracedRequest, Tracer

log = logging.getLogger(__name__)

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer: browsers neither guess its type, frame it, pass on its address nor keep
it."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Observed:
    """An ASGI application around another that gives requests an id, counts, logs and traces them.

    The routes find the id in `scope["state"]["request_id"]`, and leave the seconds of the stages of
    a recall in `scope["state"]["stages"]`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.slow = SlowRequests()
        self.tracer: Tracer | None = None
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        started = time.perf_counter()
        request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], own, *SECURITY_HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id})
            self._metrics.failure("unexpected")
            if status:  # the answer has begun, so it can only be broken off
                raise
            detail = "internal error: the service's log has the details under this request_id"
            await problem_response(500, detail, request_id)(scope, receive, send_observed)
        finally:
            now = time.perf_counter()
            self._record(scope, request_id, status, now - started, now)

    def _record(
        self, scope: Scope, request_id: str, status: int, seconds: float, now: float
    ) -> None:
        pattern = getattr(scope.get("route"), "path_format", scope["path"])
        route = pattern if pattern in ROUTES else "other"
        self._metrics.request(route, status, seconds)
        is_asked_often = route in QUIET_ROUTES
        trace_id = None
        if self.tracer and not is_asked_often:
            method, headers = scope["method"], scope["headers"]
            stages = scope["state"].get("stages", {})
            trace_id = self.tracer.trace(
                TracedRequest(method, route, status, request_id, headers, seconds, stages)
            )
        if not is_asked_often and self.slow.is_slow(seconds, now):
            stages = scope["state"].get("stages", {})
            self.slow.add(
                SlowRequest(seconds, time.time(), request_id, route, status, stages, trace_id)
            )
        quiet = is_asked_often and status < 400  # those would fill the log
        level = logging.ERROR if status == 500 else logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level):
            about = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 3),
            }
            if trace_id:
                about["trace_id"] = trace_id
            log.log(level, "request", extra=about)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the client's own id if it is fit for logs and headers, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return os.urandom(16).hex()
