"""The keys of the API, their scopes and their rates.

Keys come from the environment, so that no list of processes shows them:

    RECGPT_API_KEYS="NAME:SCOPES:SECRET,NAME:SCOPES@RATE:SECRET"
    RECGPT_API_KEYS="shop:read+write@500:3f9c…,jobs:admin+write:81ab…"

A client sends `Authorization: Bearer SECRET`. Several keys are valid at the same time, so that one
can be replaced without a gap. Secrets are kept as digests, and a given one is compared with all
of them in constant time. RATE is a bound on requests/s, of which each front end grants its
share. Without keys everything is open, as behind a gateway that does all this, but for operations
of the scope admin: see `service.http.access`.
"""

import time
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import sha256

VARIABLE = "RECGPT_API_KEYS"
MIN_SECRET = 16
"""Characters of the shortest secret."""
FORM = f"{VARIABLE}: each key is NAME:SCOPES:SECRET or NAME:SCOPES@RATE:SECRET"


class KeyScope(Enum):
    """A part of the API."""

    OPEN = "open"
    """Health, and the files of the explorer's page, which hold no data: anybody may ask."""
    READ = "read"
    """Recalls, and what the service knows of items, versions and itself."""
    WRITE = "write"
    """Events, and changes of items."""
    ADMIN = "admin"
    """Data of users, and changes of the service."""


RULES: Sequence[tuple[str, str, KeyScope]] = (
    ("GET", "/healthz", KeyScope.OPEN),
    ("GET", "/readyz", KeyScope.OPEN),
    ("GET", "/metrics", KeyScope.READ),
    ("GET", "/docs", KeyScope.READ),
    ("GET", "/openapi.json", KeyScope.READ),
    ("POST", "/recall", KeyScope.READ),
    ("GET", "/explorer", KeyScope.OPEN),
    ("POST", "/explorer", KeyScope.ADMIN),
    ("GET", "/versions", KeyScope.READ),
    ("GET", "/scenarios", KeyScope.READ),
    ("GET", "/experiments", KeyScope.READ),
    ("GET", "/items", KeyScope.READ),
    ("POST", "/events", KeyScope.WRITE),
    ("POST", "/items", KeyScope.WRITE),
    ("PUT", "/items", KeyScope.WRITE),
    ("PATCH", "/items", KeyScope.WRITE),
    ("DELETE", "/items", KeyScope.WRITE),
    ("GET", "/users", KeyScope.ADMIN),
    ("DELETE", "/users", KeyScope.ADMIN),
    ("GET", "/admin", KeyScope.ADMIN),
    ("POST", "/admin", KeyScope.ADMIN),
)
"""Method, path and the scope that they need. A path stands for everything below it, too."""
_EXACT = {(method, path): scope for method, path, scope in RULES}


class ApiKey:
    """A key, and the requests that it may still make."""

    def __init__(
        self, name: str, scopes: frozenset[KeyScope], secret: str, rate: float | None = None
    ) -> None:
        self.name = name
        self.scopes = scopes
        self.digest = digest_of(secret.encode())
        self._rate = rate
        self._burst = max(1.0, rate or 0.0)  # the requests of a second
        self._left = self._burst
        self._at = time.monotonic()

    def wait_seconds(self) -> float:
        """Takes one request; returns 0, or the seconds until there is one to take."""
        if self._rate is None:
            return 0.0
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


def keys_from(environment: Mapping[str, str], front_ends: int = 1) -> list[ApiKey]:
    """Returns the keys of the environment, none if there are none.

    Raises ValueError if one is malformed; the message holds no secret.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return []
    keys = [_key(part, position, front_ends) for position, part in enumerate(text.split(","), 1)]
    if len({key.name for key in keys}) < len(keys) or len({k.digest for k in keys}) < len(keys):
        raise ValueError(f"{VARIABLE}: names and secrets must differ from each other")
    return keys


def scope_of(method: str, path: str) -> KeyScope:
    """Returns the scope that an operation needs: the highest one if no rule names it."""
    return named_scope(method, path) or KeyScope.ADMIN


def named_scope(method: str, path: str) -> KeyScope | None:
    """Returns the scope that a rule gives an operation; None if there is no such operation."""
    if exact := _EXACT.get((method, path)):
        return exact
    for rule_method, rule_path, scope in RULES:
        below = path == rule_path or path.startswith(f"{rule_path}/")
        if below and method == rule_method:
            return scope
    return None


def _key(text: str, position: int, front_ends: int) -> ApiKey:
    name, _, rest = text.strip().partition(":")
    words, _, secret = rest.partition(":")
    scopes, _, rate = words.partition("@")
    if not name or not secret:
        raise ValueError(f"{FORM}; key {position} is not")
    if len(secret) < MIN_SECRET:
        raise ValueError(f"{VARIABLE}: the secret of {name} has fewer than {MIN_SECRET} characters")
    try:
        allowed = frozenset(KeyScope(scope) for scope in scopes.split("+"))
    except ValueError:
        raise ValueError(f"{FORM}; the scopes of {name} are not read, write, admin") from None
    if not rate:
        return ApiKey(name, allowed, secret)
    if not rate.isdecimal() or int(rate) < 1:
        raise ValueError(f"{FORM}; the rate of {name} is no number of requests a second")
    return ApiKey(name, allowed, secret, int(rate) / front_ends)


def digest_of(secret: bytes) -> bytes:
    """Returns the digest by which secrets are kept and compared."""
    return sha256(secret).digest()
