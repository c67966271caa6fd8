"""The guard before all operations: it lets a request through if its key has the scope."""

import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.api_keys import ApiKey, KeyScope, digest_of, scope_of
from service.http.problems import problem_response

Headers = Iterable[tuple[bytes, bytes]]


class Refusal(NamedTuple):
    """An answer to a request that may not be made."""

    status: int
    detail: str
    headers: dict[str, str]


class AdminPort:
    """An ASGI application around another that serves operations of the scope admin at one port.

    Other operations are served at every port that the service listens on.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers as if there were no such operation."""
        app = self._app
        if scope["server"][1] != self._port and _scope_needed(scope) is KeyScope.ADMIN:
            detail = "no such operation here: those of the scope admin have a port of their own"
            app = problem_response(404, detail, scope["state"]["request_id"])
        await app(scope, receive, send)


def _scope_needed(request: Scope) -> KeyScope:
    method = "GET" if request["method"] == "HEAD" else request["method"]
    return scope_of(method, request["path"])


class Guarded:
    """An ASGI application that lets requests with a fitting key through to another one.

    That finds the name of the key in `scope["state"]["client"]`.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it before its body is read."""
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        request_id = scope["state"]["request_id"]
        status, detail, headers = refusal
        response = problem_response(status, detail, request_id, headers=headers)
        await response(scope, receive, send)

    def _refusal(self, request: Scope) -> Refusal | None:
        needed = _scope_needed(request)
        if needed is KeyScope.OPEN:
            return None
        key = key_of(self._keys, request["headers"])
        if key is None:
            detail = "no valid key: send the header Authorization: Bearer KEY"
            return Refusal(401, detail, {"www-authenticate": "Bearer"})
        if needed not in key.scopes:
            return Refusal(403, f"this key has no scope {needed.value}, which this needs", {})
        if seconds := key.wait_seconds():
            headers = {"retry-after": str(int(seconds) + 1)}
            return Refusal(429, "this key makes more requests than its rate allows", headers)
        request["state"]["client"] = key.name
        return None


def key_of(keys: Sequence[ApiKey], headers: Headers) -> ApiKey | None:
    """Returns the key of a request. Looks at all of them, whichever fits."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            digest = digest_of(value[7:].strip())
            for key in keys:
                if hmac.compare_digest(key.digest, digest):
                    found = key
    return found
