"""The client that a store's URL describes: of one Redis, behind Sentinels, or of a cluster."""

from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from service.history.redis_url import RedisKind, RedisUrl, parse_redis_url


def redis_client(url: str, connections: int, seconds: float) -> Any:
    """Returns a client, which connects when it is used: `Redis`, or `RedisCluster`.

    Takes the time limit of a call. One Sentinel or node gets a half, so that a dead one does not
    use up the time in which another one can be asked.

    Raises ValueError if the URL cannot be used; the message holds no password.
    """
    try:
        parsed = parse_redis_url(url)
        if parsed.kind is RedisKind.CLUSTER:
            return _cluster(parsed, connections, seconds / 2)
        pool = _pool(parsed, connections, seconds / 2)
        pool.make_connection()  # checks the options
        return aioredis.Redis.from_pool(pool)
    except TypeError:
        raise ValueError("--store: the URL has an option that Redis does not take") from None
    except ValueError as error:
        words = str(error)
        if not words.startswith("Invalid value"):  # others may quote a part of the password
            words = "its form is not redis://user:password@host:port/database"
        raise ValueError(
            f"--store: the URL cannot be used: {words}. Write %XX for special characters of a "
            "password, such as %2F for a slash"
        ) from None


def new_connection(client: Any) -> Any:
    """Returns a connection that is in no pool, for one Redis or for the primary of Sentinels."""
    return client.connection_pool.make_connection()


async def close_client(client: Any) -> None:
    """Closes all connections of a client, those to Sentinels included."""
    await client.aclose()
    if not isinstance(client, RedisCluster):
        finder = client.connection_pool.connection_kwargs.get("connection_pool")
        for sentinel in finder.sentinel_manager.sentinels if finder else ():
            await sentinel.aclose()


def node_connection(node: ClusterNode) -> Any:
    """Returns a connection to a node of a cluster that is in no pool."""
    return node.connection_class(**(node.connection_kwargs | {"retry": _retry()}))


def _pool(url: RedisUrl, connections: int, seconds: float) -> Any:
    options = url.options | _common()
    if url.kind is RedisKind.SENTINEL:
        options = {name: options[name] for name in options if name not in ("host", "port")}
        options |= _through_sentinels(url, seconds)
    pool: Any = aioredis.BlockingConnectionPool(
        max_connections=connections,
        timeout=None,  # a whole call has one time limit: one timer, not several for a command
        retry=_retry(),
        **options,
    )
    return pool


def _through_sentinels(url: RedisUrl, seconds: float) -> dict[str, Any]:
    """Returns the options of connections that ask a Sentinel where to go whenever they connect."""
    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    sentinel = Sentinel(url.hosts, sentinel_kwargs=url.sentinel | limits)  # type: ignore[no-untyped-call]
    kind = SentinelManagedSSLConnection if url.encrypted else SentinelManagedConnection
    # The pool of the finder stays empty: it only knows how to ask.
    finder = SentinelConnectionPool(url.service, sentinel)  # type: ignore[no-untyped-call]
    return {"connection_class": kind, "connection_pool": finder}


def _cluster(url: RedisUrl, connections: int, seconds: float) -> Any:
    options = {k: v for k, v in url.options.items() if k not in ("host", "port", "db")}
    if options.pop("connection_class", None):
        options["ssl"] = True
    client: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in url.hosts],
        require_full_coverage=False,  # a node that is down concerns its own keys
        max_connections=connections,
        socket_connect_timeout=seconds,
        **(options | _common()),
    )
    return client


def _common() -> dict[str, Any]:
    return {"decode_responses": False, "encoding": "utf-8", "socket_timeout": None}


def _retry() -> Retry:
    """Returns one retry without a pause, for a connection that Redis closed meanwhile.

    A slow Redis is not asked again.
    """
    return Retry(NoBackoff(), 1, (RedisConnectionError,))
