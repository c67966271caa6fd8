"""Replies of a real Redis that are harmed on their way: no user gets another one's history."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from appending import PATIENT, append
from fault_proxy import FaultProxy, cut, garbled, late, one_behind, replaced, unharmed
from redis_server import RedisServer
from stored import items_of

from service.history.entries import decode_entry
from service.history.health import Health
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable

pytestmark = pytest.mark.anyio

USERS = [f"u{i}" for i in range(8)]


def own(user: str) -> list[str]:
    return [f"{user}-item-{i}" for i in range(5)]


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    redis_server.flush()
    async with FaultProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: FaultProxy) -> AsyncIterator[HistoryStore]:
    """A store behind the proxy; every user has a history that nobody else has."""
    opened = HistoryStore.open(proxy.url, timeout_ms=PATIENT)
    await append(opened, [(user, item) for user in USERS for item in own(user)])
    yield opened
    await opened.close()


async def check(store: HistoryStore, users: list[str]) -> bool:
    """Whether the store answered; fails if a history is not the user's own."""
    try:
        found = await items_of(store, users)
    except StoreUnavailable:
        return False
    assert found == [own(user) for user in users]
    return True


async def test_a_slow_redis_is_not_waited_for_and_its_late_replies_are_nobodys(
    store: HistoryStore, proxy: FaultProxy
) -> None:
    assert await check(store, USERS)
    proxy.fault = late(0.5)
    store._seconds = 0.1
    for user in USERS:
        assert not await check(store, [user])
    proxy.fault = unharmed
    store._seconds = PATIENT / 1000
    for user in reversed(USERS):
        assert await check(store, [user])


@pytest.mark.parametrize("after", [0, 1, 4, 5, 20, 60, 200])
async def test_a_connection_that_is_cut_in_a_reply(
    store: HistoryStore, proxy: FaultProxy, after: int
) -> None:
    assert await check(store, USERS)
    proxy.fault = cut(after)
    for users in (USERS, USERS[:1]):
        assert not await check(store, users)
    proxy.fault = unharmed
    assert await check(store, USERS)


@pytest.mark.parametrize("reply", [b"*1\r\n$3\r\nu-x\r\n", b"*0\r\n", b"$2\r\nu0\r\n", b":1\r\n"])
async def test_replies_that_come_one_too_late_are_noticed(
    store: HistoryStore, proxy: FaultProxy, reply: bytes
) -> None:
    """As over a connection on which somebody left an unread reply behind."""
    assert await check(store, USERS)
    proxy.fault = one_behind(reply)
    for user in USERS:
        await check(store, [user])  # notices it or has a new connection
    proxy.fault = one_behind(reply)
    assert not await check(store, USERS)
    proxy.fault = unharmed
    assert await check(store, USERS)


async def test_garbled_replies_raise_nothing_else_and_leave_nothing_behind(
    store: HistoryStore, proxy: FaultProxy
) -> None:
    """Ids may be garbled, too: only encryption helps there. But no reply is another user's."""
    chance = random.Random(0)
    failed = 0
    for _ in range(100):
        proxy.fault = garbled(chance)
        try:
            async with asyncio.timeout(1):
                found = await store.read(USERS)
        except (StoreUnavailable, TimeoutError):  # a garbled length can make it wait for more
            failed += 1
        else:
            for user, entries in zip(USERS, found, strict=True):
                if not isinstance(entries, StoreProblem):
                    items = [decode_entry(entry).item for entry in reversed(entries)]
                    assert len(items) == 5
                    assert len({item.encode() for item in own(user)} - {*items}) <= 1
        proxy.fault = unharmed
        assert await check(store, USERS)
    assert failed


NIL, NUMBER, NESTED = b"$-1\r\n", b":7\r\n", b"*1\r\n" * 50_000 + b":1\r\n"
ODD = {
    "nil": NIL,
    "a nil array": b"*-1\r\n",
    "a number": NUMBER,
    "a text": b"+OK\r\n",
    "a list of nil": b"*1\r\n" + NIL,
    "a list of numbers": b"*2\r\n" + NUMBER * 2,
    "a list of lists": b"*1\r\n*1\r\n$1\r\na\r\n",
    "lists in lists": NESTED,
    "no Redis": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an endless list": b"*999999999999\r\n$1\r\na\r\n",
}


@pytest.mark.parametrize("name", ODD)
async def test_replies_of_another_type_are_no_histories_and_no_acknowledgement(
    store: HistoryStore, proxy: FaultProxy, name: str
) -> None:
    store._seconds = 0.5  # for a list that never ends
    health = Health("testing")
    proxy.fault = replaced(ODD[name] * 9)
    for users in (USERS, USERS[:1]):
        assert not await check(store, users)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    with pytest.raises(StoreUnavailable):
        await append(store, [("somebody", "lost")])
    for command in ("hgetall", "smembers", "sscan", "xrevrange"):
        with suppress(StoreUnavailable):  # an empty reply may be read as nothing
            await store.run([(command, ("key",), {})], health)
    proxy.fault = unharmed
    store._seconds = PATIENT / 1000
    assert await check(store, USERS)


async def test_a_redis_that_restarts_empty_has_no_histories(
    store: HistoryStore, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        await store.read(USERS)
    redis_server.start()
    assert await items_of(store, USERS) == [[] for _ in USERS]
    await append(store, [("u0", "new")])  # its scripts are gone, too
    assert await items_of(store, ["u0"]) == [["new"]]


async def test_a_redis_user_without_echo_can_be_used(
    store: HistoryStore, redis_server: RedisServer
) -> None:
    redis_server.command("ACL", "SETUSER", "default", "-echo")
    try:
        assert await check(store, USERS)
        redis_server.command("ACL", "SETUSER", "default", "-lrange")
        assert not await check(store, USERS)
    finally:
        redis_server.command("ACL", "SETUSER", "default", "+@all")
    assert await check(store, USERS)
