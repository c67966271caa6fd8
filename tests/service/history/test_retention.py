import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from appending import PATIENT
from redis_server import RedisServer
from stored import items_of

from service.history.events import DAY_SECONDS, HistoryEvent
from service.history.store import HistoryStore

pytestmark = pytest.mark.anyio

NOW = time.time()


@pytest.fixture(params=["redis", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """An empty store that keeps events for ten days."""
    url = f"embedded:{tmp_path / 'histories'}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url
    opened = HistoryStore.open(url, timeout_ms=PATIENT, days=10)
    yield opened
    await opened.close()


def event(item: str, days_ago: float) -> HistoryEvent:
    return HistoryEvent("ann", item, timestamp=NOW - days_ago * DAY_SECONDS)


async def entries(store: HistoryStore) -> int:
    return int(await store._client.llen("h:ann"))


async def test_old_events_are_not_read_and_go_with_the_next_event(store: HistoryStore) -> None:
    await store._client.lpush(
        "h:ann", "a\tclick\t17", "\tclick\t18\t\t\tb\tb", "c\t\t19", "d\tlike"
    )
    assert await items_of(store, ["ann"]) == [["d"]]
    await store.append([event("e", 9)])
    assert await items_of(store, ["ann"]) == [["d", "e"]]
    assert await entries(store) == 2


async def test_an_event_that_is_old_when_it_comes_is_not_kept(store: HistoryStore) -> None:
    await store.append([event("a", 12), event("b", 11)])
    assert await entries(store) == 0
    assert await items_of(store, ["ann"]) == [[]]


async def test_a_history_expires_with_its_latest_event(store: HistoryStore) -> None:
    await store.append([event("a", 0)])
    left = await store._client.ttl("h:ann")
    assert 9 * DAY_SECONDS < left <= 10 * DAY_SECONDS
    await store.load([("bob", ["x"])])
    left = await store._client.ttl("h:bob")
    assert 9 * DAY_SECONDS < left <= 10 * DAY_SECONDS


async def test_without_a_limit_nothing_expires(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    await store.append([event("a", 1000)])
    assert redis_server.command("TTL", "h:ann") == "-1"
    assert await items_of(store, ["ann"]) == [["a"]]
    await store.close()
