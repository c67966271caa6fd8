"""The pool of connections to Redis that a URL describes."""

from typing import Any
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError


def redis_pool(url: str, connections: int) -> Any:
    """Returns a pool for `redis://…` or `rediss://…`. It connects when it is used.

    Raises ValueError if the URL cannot be used; the message holds no password.
    """
    try:
        database = urlsplit(url).path.strip("/")
        if not (database.isdecimal() or not database):
            raise ValueError("Invalid value for the database: it is a number")
        pool: Any = aioredis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=None,  # a whole call has one time limit: one timer, not several for a command
            socket_timeout=None,
            # One retry without a pause, for a connection that Redis closed meanwhile. A slow Redis
            # is not asked again.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
        )
        pool.connection_kwargs |= {"decode_responses": False, "encoding": "utf-8"}
        pool.make_connection()  # checks the options
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
    return pool
