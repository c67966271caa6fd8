"""Where histories live: Redis, or the same commands in this process, persisted to a file.

A history is the list `h:{user_id}` of item ids, newest first, cut to `limit`: any job in any
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
from service.history.redis_reader import Lists

log = logging.getLogger(__name__)

LOADED_AT_ONCE = 500  # users a pipeline


class StoreUnavailable(Exception):
    """The store did not answer in time, or refused; its message says which."""


class HistoryStore:
    """Histories of users, oldest first to the outside. One round trip a call."""

    def __init__(
        self,
        client: Any,
        limit: int,
        seconds: float | None = None,
        lists: Lists | None = None,
        embedded: EmbeddedStore | None = None,
    ) -> None:
        """A client that is waited for so many seconds a call, and what reads faster than it."""
        self._client = client
        self._limit = limit
        self._seconds = seconds
        self._lists = lists
        self._embedded = embedded

    @classmethod
    def open(cls, url: str, limit: int = 1000, connections: int = 8, timeout_ms: int = 200) -> Self:
        """The store at `redis://…`, `rediss://…` or `embedded:PATH`.

        Redis need not be up. Raises ValueError for another URL, or an unusable file.
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
            timeout=None,  # a call as a whole has a time limit: one timer, not several a command
            socket_timeout=None,
            # Once, at once, for a connection that Redis closed meanwhile; a slow Redis is not asked
            # again.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
        )
        try:
            lists = Lists(pool.make_connection())  # checks the URL's options; connects nowhere
        except TypeError:
            raise ValueError("--store: the URL has an option that Redis does not take") from None
        # The client closes the pool with it.
        return cls(aioredis.Redis.from_pool(pool), limit, seconds, lists)

    async def read(self, users: Sequence[str]) -> list[list[str]]:
        """Histories of the users, in order; empty where nothing is known.

        Raises StoreUnavailable.
        """
        keys = [_key(user) for user in users]
        async with self._talking():
            if self._lists:
                found = await self._lists.read(keys, self._limit)
            else:
                pipeline = self._client.pipeline()
                for key in keys:
                    pipeline.lrange(key, 0, self._limit - 1)
                found = await pipeline.execute(raise_on_error=False)
        return [_oldest_first(items) for items in found]

    async def append(self, events: Sequence[tuple[str, str]]) -> None:
        """Put (user, item) events behind the users' histories, in order.

        All of them are stored durably when it returns; raises StoreUnavailable.
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
        """Store whole histories (oldest first); returns how many.

        Users who have one keep theirs unless `overwrite` says otherwise.
        """
        stored = 0
        iterator = iter(histories)
        while some := list(islice(iterator, LOADED_AT_ONCE)):
            async with self._talking():
                known = [False] * len(some) if overwrite else await self._known(some)
                pipeline = self._client.pipeline()
                for (user, items), has_one in zip(some, known, strict=True):
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
        """Raises StoreUnavailable where the store does not answer."""
        async with self._talking():
            await self._client.exists("h:")  # the embedded store has no PING

    async def close(self) -> None:
        """Let go of connections, and of the file."""
        await self._client.aclose()
        if self._lists:
            await self._lists.close()
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
        """Every way in which a store fails is one error to the callers."""
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._seconds} s") from None
        except (RedisError, OSError) as error:
            # redis-py puts the command, that is ids of users, before the server's own words.
            words = str(error).rpartition("caused error: ")[2]
            raise StoreUnavailable(f"{type(error).__name__}: {words}") from None


def _key(user: str) -> str:
    return f"h:{user}"


def _oldest_first(found: Any) -> list[str]:
    """One user's reply. A key of another type, or bytes that are no text, harm nobody else."""
    if isinstance(found, ResponseError):
        log.warning("a history in the store is not a list: taken as empty")
        return []
    if isinstance(found, Exception):
        raise StoreUnavailable(f"{type(found).__name__}: {found}")
    return [item.decode(errors="replace") for item in reversed(found)]
