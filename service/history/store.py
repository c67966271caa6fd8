"""Histories of users, in Redis or in an embedded store that runs the same commands.

A history is the list `h:{user_id}` of item ids, newest first, trimmed to `limit`: any job in any
language can write it with LPUSH and LTRIM.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Self

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from service.history.embedded import EmbeddedStore
from service.history.redis_reader import RedisReader

log = logging.getLogger(__name__)

LOAD_CHUNK = 500
"""Users whose histories one pipeline stores."""


class StoreUnavailable(Exception):
    """The store did not answer in time, or refused; the message says which."""


class HistoryStore:
    """Histories of users. They are given and taken oldest first; a call is one round trip."""

    def __init__(
        self,
        client: Any,
        limit: int,
        seconds: float | None = None,
        reader: RedisReader | None = None,
        embedded: EmbeddedStore | None = None,
    ) -> None:
        """Takes a client, the time limit of a call, and a reader that is faster than the client."""
        self._client = client
        self._limit = limit
        self._seconds = seconds
        self._reader = reader
        self._embedded = embedded

    @classmethod
    def open(cls, url: str, limit: int = 1000, connections: int = 8, timeout_ms: int = 200) -> Self:
        """Opens the store at `redis://…`, `rediss://…` or `embedded:PATH`.

        Redis need not be up. Raises ValueError for another URL, or if the file cannot be used.
        """
        if url.startswith("embedded:"):
            embedded = EmbeddedStore(url.removeprefix("embedded:"))
            return cls(embedded.client, limit, embedded=embedded)
        if not url.startswith(("redis://", "rediss://")):
            raise ValueError("--store: give redis://host:port/db or embedded:PATH")
        seconds = timeout_ms / 1000
        pool: Any = aioredis.BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=None,  # a whole call has one time limit: one timer, not several for a command
            socket_timeout=None,
            # One retry without a pause, for a connection that Redis closed meanwhile. A slow Redis
            # is not asked again.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
        )
        try:
            reader = RedisReader(pool.make_connection())  # checks the options, does not connect
        except TypeError:
            raise ValueError("--store: the URL has an option that Redis does not take") from None
        # The client closes the pool when it is closed.
        return cls(aioredis.Redis.from_pool(pool), limit, seconds, reader)

    async def read(self, users: Sequence[str]) -> list[list[str]]:
        """Returns the history of each user, empty if there is none.

        Raises StoreUnavailable.
        """
        keys = [_key(user) for user in users]
        async with self._talking():
            if self._reader:
                found = await self._reader.read(keys, self._limit)
            else:
                pipeline = self._client.pipeline()
                for key in keys:
                    pipeline.lrange(key, 0, self._limit - 1)
                found = await pipeline.execute(raise_on_error=False)
        return [_oldest_first(items) for items in found]

    async def append(self, events: Sequence[tuple[str, str]]) -> None:
        """Appends (user, item) events to the users' histories, in order.

        They are stored durably when it returns. Raises StoreUnavailable.
        """
        if not events:
            return
        pipeline = self._client.pipeline()
        for user, item in events:
            pipeline.lpush(_key(user), item)
        for user in dict.fromkeys(user for user, _ in events):
            pipeline.ltrim(_key(user), 0, self._limit - 1)
        async with self._talking():
            await pipeline.execute()
            await self._keep()

    async def load(
        self, histories: Iterable[tuple[str, Sequence[str]]], overwrite: bool = False
    ) -> int:
        """Stores whole histories (oldest first) and returns their number.

        A user who has a history keeps it unless `overwrite` is true.
        """
        stored = 0
        iterator = iter(histories)
        while chunk := list(islice(iterator, LOAD_CHUNK)):
            async with self._talking():
                known = [False] * len(chunk) if overwrite else await self._known(chunk)
                pipeline = self._client.pipeline()
                for (user, items), has_one in zip(chunk, known, strict=True):
                    if has_one or not items:
                        continue
                    pipeline.delete(_key(user))
                    pipeline.rpush(_key(user), *items[: -self._limit - 1 : -1])
                    stored += 1
                await pipeline.execute()
        async with self._talking():
            await self._keep()
        return stored

    async def ping(self) -> None:
        """Raises StoreUnavailable if the store does not answer."""
        async with self._talking():
            await self._client.exists("h:")  # the embedded store has no PING

    async def close(self) -> None:
        """Closes the connections, and the file."""
        await self._client.aclose()
        if self._reader:
            await self._reader.close()
        if self._embedded:
            self._embedded.close()

    async def _known(self, histories: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
        pipeline = self._client.pipeline()
        for user, _ in histories:
            pipeline.exists(_key(user))
        return [bool(found) for found in await pipeline.execute()]

    async def _keep(self) -> None:
        if self._embedded:
            await self._embedded.keep()

    @asynccontextmanager
    async def _talking(self) -> AsyncIterator[None]:
        """Turns every way in which a store fails into StoreUnavailable."""
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._seconds} s") from None
        except (RedisError, OSError) as error:
            # redis-py puts the command, which holds ids of users, before the words of the server.
            words = str(error).rpartition("caused error: ")[2]
            raise StoreUnavailable(f"{type(error).__name__}: {words}") from None


def _key(user: str) -> str:
    return f"h:{user}"


def _oldest_first(found: Any) -> list[str]:
    """Returns the history in one reply. Bytes that are no text are replaced."""
    if isinstance(found, ResponseError):
        log.warning("a history in the store is not a list: it is taken as empty")
        return []
    if isinstance(found, Exception):
        raise StoreUnavailable(f"{type(found).__name__}: {found}")
    return [item.decode(errors="replace") for item in reversed(found)]
