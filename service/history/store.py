"""Histories of users, in Redis or in an embedded store that runs the same commands.

A history is the list `h:USER` of entries, newest first, trimmed to `limit`: any job in any language
can write it with LPUSH and LTRIM. An entry is an item id, or more: `service.history.entries`.
Beside it are the lists of `service.history.events`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from itertools import islice
from typing import Any, Self

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import InvalidResponse, NoPermissionError, RedisError

from service.history.cluster_reader import ClusterReader, NodeUnavailable
from service.history.embedded.store import EmbeddedStore
from service.history.entries import Entries, encode_entry, encode_item, without_old
from service.history.event_types import DEFAULT_TYPES, EventTypes
from service.history.events import (
    APPEND,
    APPEND_SHA,
    APPENDED,
    OFFER,
    EventIds,
    HistoryEvent,
    Retention,
    append_arguments,
    ids_key,
    offers_key,
)
from service.history.health import Health, words_of
from service.history.redis_client import close_client, new_connection, redis_client
from service.history.redis_reader import RedisReader
from service.history.redis_url import is_redis

FOREVER = Retention()
UNREADABLE = TypeError, ValueError, LookupError, AttributeError, RecursionError
"""The errors of redis-py's parsers if a reply is not of the form that its command has."""
Reader = RedisReader | ClusterReader
Command = tuple[str, Sequence[Any], dict[str, Any]]
"""A method of redis-py's client, its arguments and its options."""

LOAD_CHUNK = 500
"""Users whose histories one pipeline stores."""


class StoreUnavailable(Exception):
    """The store did not answer in time, or refused; the message says which."""


class StoreProblem(Enum):
    """The reason for which the history of a user could not be read or written."""

    WRONG_TYPE = "wrong_type"
    """The user's key is not a list. Other users are not affected."""
    UNAVAILABLE = "unavailable"
    """The store cannot answer, or refuses to."""


class HistoryStore:
    """Histories of users; a call is one round trip, but for a deletion."""

    def __init__(
        self,
        client: Any,
        limit: int,
        seconds: float | None = None,
        reader: Reader | None = None,
        embedded: EmbeddedStore | None = None,
        keep: Retention = FOREVER,
        types: EventTypes = DEFAULT_TYPES,
    ) -> None:
        """Takes a client, the time limit of a call, and a reader that is faster than the client."""
        self._client = client
        self._limit = limit
        self._seconds = seconds
        self._reader = reader
        self._embedded = embedded
        self._is_spread = isinstance(reader, ClusterReader)
        self._retention = keep
        self._types = types
        self._reading = Health("reading histories")
        self._writing = Health("writing histories")
        self._ids = EventIds()

    @classmethod
    def open(
        cls,
        url: str,
        limit: int = 1000,
        connections: int = 8,
        timeout_ms: int = 200,
        days: float | None = None,
        types: EventTypes = DEFAULT_TYPES,
    ) -> Self:
        """Opens the store at `embedded:PATH`, or at a URL as in `service.history.redis_url`.

        Events are kept for `days`, and the newest `limit` of a user; `types` says what they do.
        Redis need not be up. Raises ValueError for another URL, or if the file cannot be used.
        """
        keep = Retention(days)
        if url.startswith("embedded:"):
            embedded = EmbeddedStore(url.removeprefix("embedded:"))
            return cls(embedded.client, limit, embedded=embedded, keep=keep, types=types)
        if not is_redis(url):
            raise ValueError(
                "--store: give redis://host:port/db, redis+sentinel://host:port/service, "
                "redis+cluster://host:port or embedded:PATH"
            )
        seconds = timeout_ms / 1000
        client = redis_client(url, connections, seconds)
        reader: Reader = (
            ClusterReader(client, seconds)
            if isinstance(client, RedisCluster)
            else RedisReader(new_connection(client))
        )
        return cls(client, limit, seconds, reader, keep=keep, types=types)

    async def read(self, users: Sequence[str]) -> list[Entries | StoreProblem]:
        """Returns the entries of each user, none if there is no history, or why it cannot be read.

        Raises StoreUnavailable if no history can be read.
        """
        return (await self.read_with_offers(users, ()))[0]

    async def read_with_offers(
        self, users: Sequence[str], of: Sequence[int]
    ) -> tuple[list[Entries | StoreProblem], list[Sequence[bytes]]]:
        """Returns what `read` returns, and the offers of some of the users, by their numbers.

        Offers are ids of items, the newest first; there are none where they cannot be read.
        """
        keys = [_key(user) for user in users]
        keys += [offers_key(keys[number]) for number in of]
        replies = await self._first_items(keys, self._limit)
        read = [_problem(reply, self._reading) or reply for reply in replies]
        found, offers = read[: len(users)], read[len(users) :]
        if self._retention.days is not None:
            since = self._retention.since(time.time())
            found = [
                one if isinstance(one, StoreProblem) else without_old(one, since) for one in found
            ]
        return found, [() if isinstance(one, StoreProblem) else one for one in offers]

    async def append(self, events: Sequence[HistoryEvent]) -> list[StoreProblem | None]:
        """Appends events to the users' histories in order, and returns why one is not stored.

        All others are stored durably when it returns. Raises StoreUnavailable if none is known to
        be stored. In both cases events may be sent again: one that was stored is not stored twice
        (`service.history.events` says within which bounds).
        """
        by_user: dict[str, list[int]] = {}
        for position, event in enumerate(events):
            by_user.setdefault(event.user_id, []).append(position)
        if not by_user:
            return []
        ids, now = self._ids.assign(events), time.time()
        pipeline = self._pipeline()
        for number, (user, positions) in enumerate(by_user.items()):
            known = number and not self._is_spread  # each node learns a script for itself
            run, script = (pipeline.evalsha, APPEND_SHA) if known else (pipeline.eval, APPEND)
            told = [(ids[p], *self._told(events[p], now)) for p in positions]
            key = _key(user)
            keys = [key, ids_key(key), *([offers_key(key)] if self._types.has_offers else [])]
            arguments = append_arguments(self._limit, self._retention, now, told)
            run(script, len(keys), *keys, *arguments)
        async with self._talking(self._writing):
            replies = await pipeline.execute(raise_on_error=False)
            _raise_if_all_refuse(replies)
            if any(reply != APPENDED and not isinstance(reply, Exception) for reply in replies):
                raise InvalidResponse("a reply is not that of the script that stores events")
        problems: list[StoreProblem | None] = [None] * len(events)
        for positions, reply in zip(by_user.values(), replies, strict=True):
            for position in positions:
                problems[position] = _problem(reply, self._writing)
        self._ids.settle([e for e, problem in zip(events, problems, strict=True) if not problem])
        return problems

    async def load(
        self,
        histories: Iterable[tuple[str, Sequence[str] | Sequence[HistoryEvent]]],
        overwrite: bool = False,
    ) -> int:
        """Stores whole histories (ids of items or events, oldest first) and returns their number.

        A user who has a history keeps it unless `overwrite` is true. The offers behind a history
        go with it.
        """
        stored, now = 0, time.time()
        iterator = iter(histories)
        while chunk := list(islice(iterator, LOAD_CHUNK)):
            async with self._talking(self._writing):
                users = [user for user, _ in chunk]
                known = [False] * len(chunk) if overwrite else await self._known(users)
                if overwrite:
                    await self._delete_offers([user for user, items in chunk if items])
                pipeline = self._client.pipeline()
                for (user, items), has_one in zip(chunk, known, strict=True):
                    if has_one or not items:
                        continue
                    pipeline.delete(_key(user))
                    newest = items[: -self._limit - 1 : -1]
                    pipeline.rpush(
                        _key(user),
                        *(
                            encode_item(one) if isinstance(one, str) else encode_entry(one, now)
                            for one in newest
                        ),
                    )
                    if self._retention.days is not None:
                        pipeline.expire(_key(user), int(self._retention.expiry))
                    stored += 1
                await pipeline.execute()
        return stored

    async def delete(self, user: str) -> bool:
        """Deletes everything that the store has of a user; returns whether that was anything.

        Raises StoreUnavailable if it is not known to be deleted.
        """
        key = _key(user)
        async with self._talking(self._writing):
            deleted = await self._client.delete(key, ids_key(key))
            deleted += await self._delete_offers([user])
        return bool(deleted)

    @property
    def is_embedded(self) -> bool:
        """Whether no other process writes to the store."""
        return self._embedded is not None

    async def run(self, commands: Sequence[Command], health: Health) -> list[Any]:
        """Runs commands on other keys than histories in one round trip.

        Returns the replies, with an error in place of each that failed. Raises StoreUnavailable if
        every command failed for a reason that concerns more than its key.
        """
        pipeline = self._pipeline()
        for name, arguments, options in commands:
            getattr(pipeline, name)(*arguments, **options)
        async with self._talking(health):
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            _raise_if_all_refuse(replies)
        return replies

    async def ping(self) -> None:
        """Raises StoreUnavailable if histories cannot be read.

        It reads the history of a user who cannot exist, because a store may answer PING and
        nevertheless refuse to read: without permission, as a replica that was cut off, …
        """
        (reply,) = await self._first_items([_key("")], 1)
        if isinstance(reply, NodeUnavailable):
            raise StoreUnavailable(str(reply))

    async def close(self) -> None:
        """Closes the connections, and the file."""
        if self._embedded:
            await self._embedded.close()
            return
        await close_client(self._client)
        if self._reader:
            await self._reader.close()

    def _told(self, event: HistoryEvent, now: float) -> tuple[str, bytes]:
        """Returns the effect of an event, and its entry."""
        effect = self._types.of(event.type).effect
        return effect, event.item_id.encode() if effect == OFFER else self._entry(event, now)

    def _entry(self, event: HistoryEvent, now: float) -> bytes:
        """Returns the entry of an event in a history.

        A bare click is its item's id, which is shorter and faster to read. Where old events are not
        kept, it needs a time as well.
        """
        if event.is_bare and self._retention.days is None:
            return encode_item(event.item_id)
        return encode_entry(event, now)

    async def _delete_offers(self, users: Sequence[str]) -> int:
        """Deletes the offers of users, and returns how many of them had some."""
        pipeline = self._pipeline()
        for user in users:
            pipeline.delete(offers_key(_key(user)))
        replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            # Without permission none can have been stored.
            if isinstance(reply, Exception) and not isinstance(reply, NoPermissionError):
                raise reply
        return sum(reply for reply in replies if isinstance(reply, int))

    async def _known(self, users: Sequence[str]) -> list[bool]:
        pipeline = self._client.pipeline()
        for user in users:
            pipeline.exists(_key(user))
        return [bool(found) for found in await pipeline.execute()]

    async def _first_items(self, keys: Sequence[str], count: int) -> list[Any]:
        """Returns the first items of each list, or the error with which Redis answered.

        Raises StoreUnavailable if every list has such an error that concerns more than its key.
        """
        async with self._talking(self._reading):
            if self._reader:
                replies = await self._reader.read(keys, count)
            else:
                pipeline = self._pipeline()
                for key in keys:
                    pipeline.lrange(key, 0, count - 1)
                replies = await pipeline.execute(raise_on_error=False)
            _raise_if_all_refuse(replies)
        return replies

    def _pipeline(self) -> Any:
        """Returns a pipeline whose commands succeed or fail each for itself."""
        return self._client.pipeline(transaction=False)

    @asynccontextmanager
    async def _talking(self, health: Health) -> AsyncIterator[None]:
        """Turns every way in which a store fails into StoreUnavailable, and keeps the health."""
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError:
            words = f"TimeoutError: no answer within {self._seconds} s"
        except (RedisError, OSError) as error:
            words = words_of(error)
        except UNREADABLE as error:
            words = f"{type(error).__name__}: a reply has another form than Redis gives it"
        else:
            health.succeeded()
            return
        health.failed(words)
        raise StoreUnavailable(words)


def _key(user: str) -> str:
    return f"h:{user}"


def _refuses(reply: Any) -> bool:
    """Returns whether a reply is an error that concerns the store and not this key alone.

    A key of another type is the one error that says nothing of the store. All others do: missing
    permission or password, a replica that was cut off, a script that runs for long, a node of a
    cluster that has other keys, a server that still loads its data, …
    """
    return isinstance(reply, Exception) and "WRONGTYPE" not in words_of(reply)


def _raise_if_all_refuse(replies: Sequence[Any]) -> None:
    """Raises the first reply if every reply says that the store cannot be used.

    A node of a cluster is not the store.
    """
    if replies and all(map(_refuses, replies)) and not isinstance(replies[0], NodeUnavailable):
        raise replies[0]


def _problem(reply: Any, health: Health) -> StoreProblem | None:
    """Returns the problem that a reply tells of, and logs it."""
    if not isinstance(reply, Exception):
        return None
    if _refuses(reply):
        words = words_of(reply)
        health.complain(words.partition(":")[0], f"refused for some users: {words}")
        return StoreProblem.UNAVAILABLE
    health.complain("wrong type", "the keys of some users are not lists")
    return StoreProblem.WRONG_TYPE
