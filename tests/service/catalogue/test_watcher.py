"""The watcher keeps the state as the store has it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_server import RedisServer

from service.catalogue.state import CatalogueState, ItemsChange
from service.catalogue.store import CatalogueStore
from service.catalogue.watcher import CatalogueWatcher
from service.history.store import HistoryStore, StoreUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def watcher(items: CatalogueStore) -> AsyncIterator[CatalogueWatcher]:
    """One that looks only when it is asked."""
    return CatalogueWatcher(items, CatalogueState())


async def until(condition: object) -> None:
    """Returns when the condition, a function, holds."""
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_state_of_before_is_read_at_the_start(
    items: CatalogueStore, watcher: CatalogueWatcher
) -> None:
    await items.set_hidden("a", True)
    await items.set_texts("b", {"price": "3"}, [])
    await watcher.start()
    assert watcher.state.hidden == {"a"}  # before the first recall
    await until(lambda: watcher.state.texts)
    assert watcher.state.texts == {"b": {"price": "3"}}
    await watcher.close()


async def test_changes_are_followed(items: CatalogueStore, watcher: CatalogueWatcher) -> None:
    await watcher.start()
    await items.set_hidden("a", True)
    await until(lambda: watcher.state.hidden == {"a"})
    await items.set_texts("a", {"price": "3"}, [])
    await until(lambda: watcher.state.texts == {"a": {"price": "3"}})
    await items.set_texts("a", {}, ["price"])
    await items.set_hidden("a", False)
    await until(lambda: not watcher.state.texts and not watcher.state.hidden)
    await watcher.close()


async def test_a_look_sees_what_was_written_before_it(
    items: CatalogueStore, watcher: CatalogueWatcher
) -> None:
    await watcher.look()
    for number in range(20):
        await items.set_hidden(str(number), True)
        await watcher.look()
        assert str(number) in watcher.state.hidden
    await asyncio.gather(*(items.set_hidden(f"x{n}", True) for n in range(20)))
    await asyncio.gather(*(watcher.look() for _ in range(20)))
    assert len(watcher.state.hidden) == 40


async def test_listeners_are_told_of_differences_only(
    items: CatalogueStore, watcher: CatalogueWatcher
) -> None:
    told: list[ItemsChange] = []
    await items.set_texts("a", {"price": "3"}, [])
    await watcher.look()
    watcher.state.listen(told.append)
    await items.set_texts("a", {"price": "3"}, [])
    await watcher.look()
    assert told == []
    await items.set_texts("b", {"price": "4"}, [])
    await items.set_hidden("a", True)
    await watcher.look()
    assert told == [ItemsChange(frozenset("a"), {"b": {"price": "4"}})]
    watcher.state.forget(told.append)
    assert watcher.state.whole == (
        frozenset("a"),
        {"a": {"price": "3"}, "b": {"price": "4"}},
        (),
    )


async def test_a_job_may_hide_without_an_announcement(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=20_000)
    watcher = CatalogueWatcher(CatalogueStore(store), CatalogueState())
    await watcher.look()
    redis_server.command("SADD", "hidden", "a", "b")
    await watcher.look()
    assert watcher.state.hidden == {"a", "b"}
    redis_server.command("DEL", "hidden")
    await watcher.look()
    assert watcher.state.hidden == frozenset()
    await store.close()


async def test_a_job_writes_a_hash_and_announces_it(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=20_000)
    watcher = CatalogueWatcher(CatalogueStore(store), CatalogueState())
    await watcher.look()
    redis_server.command("HSET", "i:a", "price", "3", "stock", "no")
    redis_server.command("SET", "i:b", "3")
    for item in ("a", "b"):
        redis_server.command("XADD", "items:changes", "MAXLEN", "~", "100000", "*", "item", item)
    await watcher.look()
    assert watcher.state.texts == {"a": {"price": "3", "stock": "no"}}
    assert watcher.unusable == {"b": "the key is no hash"}
    assert "i:b is ignored: the key is no hash" in caplog.text
    redis_server.command("DEL", "items:changes")  # a start knows the item nevertheless
    other = CatalogueWatcher(CatalogueStore(store), CatalogueState())
    await other.look()
    assert other.state.texts == watcher.state.texts
    await store.close()


async def test_the_last_state_is_kept_while_redis_is_away(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = HistoryStore.open(server.url, timeout_ms=20_000)
        items = CatalogueStore(store)
        watcher = CatalogueWatcher(items, CatalogueState())
        await items.set_hidden("a", True)
        await items.set_texts("a", {"price": "3"}, [])
        await watcher.look()
        server.stop()
        with pytest.raises(StoreUnavailable):
            await watcher.look()
        assert watcher.state.whole == (frozenset("a"), {"a": {"price": "3"}}, ())
        server.start()  # empty: it has lost everything
        server.command("SADD", "hidden", "b")
        await watcher.look()
        assert watcher.state.whole == (frozenset("b"), {}, ())
        await store.close()


async def test_the_service_starts_while_redis_is_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    store = HistoryStore.open(server.url, timeout_ms=20_000)
    watcher = CatalogueWatcher(CatalogueStore(store), CatalogueState())
    await watcher.start()
    assert watcher.age_seconds == float("inf")
    with server:
        server.command("SADD", "hidden", "a")
        await until(lambda: watcher.state.hidden)
        await until(lambda: watcher.age_seconds < 60)
        await watcher.close()
        await store.close()


async def test_changed_items_are_bounded(
    items: CatalogueStore,
    watcher: CatalogueWatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("service.catalogue.watcher.MAX_CHANGED", 2)
    for item in ("a", "b"):
        await items.set_texts(item, {"price": "3"}, [])
    await watcher.look()
    await items.set_texts("c", {"price": "3"}, [])
    await items.set_texts("a", {"price": "4"}, [])
    await watcher.look()
    assert watcher.state.texts == {"a": {"price": "4"}, "b": {"price": "3"}}
    assert "more than 2 items have changed attributes" in caplog.text


async def test_too_many_hidden_items_are_told_and_read_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("store", "watcher"):
        monkeypatch.setattr(f"service.catalogue.{module}.MAX_HIDDEN", 10)
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=20_000)
    watcher = CatalogueWatcher(CatalogueStore(store), CatalogueState())
    redis_server.command("SADD", "hidden", *map(str, range(3000)))
    await watcher.look()
    assert "more than 10 items are hidden" in caplog.text
    reads = 0

    async def hidden() -> None:
        nonlocal reads
        reads += 1

    monkeypatch.setattr(watcher._store, "hidden", hidden)
    await watcher.look()
    assert not reads
    await store.close()
