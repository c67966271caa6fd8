"""The store's URL, for one Redis, for a primary that Sentinels watch, or for a cluster.

    redis://user:password@host:port/database
    redis+sentinel://user:password@host:port,host:port/SERVICE/database
    redis+cluster://user:password@host:port,host:port

With `rediss` in place of `redis` connections are encrypted. `sentinel_username` and
`sentinel_password` behind `?` are for the Sentinels themselves.
"""

from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
DEFAULT_PORTS = {"redis": 6379, "sentinel": 26379, "cluster": 6379}


class RedisKind(Enum):
    """The ways in which Redis is run."""

    SINGLE = "redis"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


SCHEMES = {
    f"{scheme}{suffix}": kind
    for scheme in ("redis", "rediss")
    for suffix, kind in (
        ("", RedisKind.SINGLE),
        ("+sentinel", RedisKind.SENTINEL),
        ("+cluster", RedisKind.CLUSTER),
    )
}


class RedisUrl(NamedTuple):
    """A URL in its parts."""

    kind: RedisKind
    hosts: list[tuple[str, int]]
    """The Redis, or the Sentinels or nodes that are asked for all others."""
    service: str
    """The name under which Sentinels know the primary; else empty."""
    options: dict[str, Any]
    """Options of each connection to Redis, as redis-py names them."""
    sentinel: dict[str, Any]
    """Options of each connection to a Sentinel."""

    @property
    def encrypted(self) -> bool:
        """Whether connections are encrypted."""
        return self.options.get("connection_class") is SSLConnection


def is_redis(url: str) -> bool:
    """Returns whether the URL names a Redis of any kind."""
    return url.partition("://")[0] in SCHEMES and "://" in url


def parse_redis_url(url: str) -> RedisUrl:
    """Returns the parts of a URL. Raises ValueError whose message may hold a password."""
    scheme = url.partition("://")[0]
    kind = SCHEMES[scheme]
    # urlsplit knows one host, so the others are taken out, and all are read one by one.
    parts = urlsplit(url.replace(scheme, scheme.partition("+")[0], 1))
    credentials, at, places = parts.netloc.rpartition("@")
    if kind is RedisKind.SINGLE and "," in places:
        raise ValueError("Invalid value for the host: several need redis+cluster or redis+sentinel")
    hosts = [_host(place, kind) for place in places.split(",")]
    service, database = _path(parts, kind)
    single = parts._replace(netloc=credentials + at + places.split(",")[0], path=f"/{database}")
    options: dict[str, Any] = dict(parse_url(single.geturl()))
    sentinel = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in SENTINEL_OPTIONS
        if name in options
    }
    return RedisUrl(kind, hosts, service, options, sentinel)


def _path(parts: SplitResult, kind: RedisKind) -> tuple[str, str]:
    """Returns the name of the service and the number of the database."""
    path = parts.path.strip("/")
    service = ""
    if kind is RedisKind.SENTINEL:
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("Invalid value for the service: name it as in redis+sentinel://h/NAME")
    if not (path.isdecimal() or not path):
        raise ValueError("Invalid value for the database: it is a number")
    if kind is RedisKind.CLUSTER and int(path or 0):
        raise ValueError("Invalid value for the database: a cluster has only 0")
    return service, path


def _host(place: str, kind: RedisKind) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    port = parts.port  # raises ValueError if it is none
    return parts.hostname or "localhost", port or DEFAULT_PORTS[kind.value]
