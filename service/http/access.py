"""The guard before all operations: it lets a request through if its key has the scope."""

import hmac
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.api_keys import ApiKey, KeyScope, digest_of, named_scope, scope_of
from service.http.problems import problem_response

Headers = Iterable[tuple[bytes, bytes]]
FORWARDED = {b"forwarded", b"x-forwarded-for"}
"""Headers by which a proxy says whom a request is from."""


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


class LocalAdmin:
    """An ASGI application around another that serves operations of the scope admin locally only.

    It stands where there are neither keys nor a port for administration: without it, everybody who
    may ask for a recall could read and delete histories. A request is local if it comes over the
    loopback address, names nobody else for whom a proxy has passed it on, and has localhost or an
    address as its host. The last rule is against DNS rebinding: the owner of any other name can let
    it lead to this machine, and a page of that name in a browser here would be answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it before its body is read."""
        app = self._app
        if named_scope(_method(scope), scope["path"]) is KeyScope.ADMIN and not _is_local(scope):
            detail = (
                "operations of the scope admin are answered on the service's own machine only, at "
                "localhost: set RECGPT_API_KEYS, or give them a port by --admin-port"
            )
            app = problem_response(403, detail, scope["state"]["request_id"])
        await app(scope, receive, send)


def _is_local(request: Scope) -> bool:
    headers: list[tuple[bytes, bytes]] = request["headers"]
    if not request["client"] or any(name in FORWARDED for name, _ in headers):
        return False
    if not all(_is_address_or_localhost(value) for name, value in headers if name == b"host"):
        return False
    address = _address(request["client"][0])
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address is not None and (inner or address).is_loopback


def _is_address_or_localhost(host: bytes) -> bool:
    """Returns whether a host, with or without a port, is localhost or an address."""
    try:
        name = urlsplit(b"//" + host).hostname or b""
    except ValueError:
        return False
    return name == b"localhost" or _address(name.decode("latin-1")) is not None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _scope_needed(request: Scope) -> KeyScope:
    return scope_of(_method(request), request["path"])


def _method(request: Scope) -> str:
    return "GET" if request["method"] == "HEAD" else str(request["method"])


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
