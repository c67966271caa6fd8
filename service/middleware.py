"""Around every request: its id, its time, its line in the log, and an answer whatever happens."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem_response
from service.metrics import ROUTES, Metrics

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Observed:
    """Pure ASGI middleware; `scope["state"]["request_id"]` is there for the routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            log.exception("unexpected", extra={"request_id": request_id})
            self._metrics.failures.labels("unexpected").inc()
            if status:  # the answer has begun: all that is left is to break it off
                raise
            detail = "an error of ours: the log has it under this request_id"
            await problem_response(500, detail, request_id)(scope, receive, send_observed)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - started)
        return None

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in ROUTES else "other"
        self._metrics.request_seconds[route].observe(seconds)
        self._metrics.requests.labels(route, str(status)).inc()
        quiet = route in ("/healthz", "/readyz", "/metrics") and status < 400
        level = logging.ERROR if status == 500 else logging.DEBUG if quiet else logging.INFO
        if log.isEnabledFor(level):
            about = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 3),
            }
            log.log(level, "request", extra=about)


def _request_id(scope: Scope) -> str:
    """The client's own id where it is fit for logs and headers, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
