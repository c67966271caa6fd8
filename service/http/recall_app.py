"""The class of the HTTP application: how a request finds its operation."""

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.access import AdminPort, Guarded, LocalAdmin
from service.http.api_keys import ApiKey
from service.http.gate import Gate
from service.http.middleware import Observed
from service.observability.metrics import Metrics


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
        elif not keys:
            guarded = LocalAdmin(guarded)
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
