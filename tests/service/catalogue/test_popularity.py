"""Counts that decay, over Redis and over the embedded store."""

import time
from pathlib import Path

import pytest

from service.catalogue import popularity as module
from service.catalogue.popularity import RecentPopularity
from service.catalogue.state import CatalogueState, ItemsChange
from service.history.event_types import DEFAULT_TYPES
from service.history.events import DAY_SECONDS, HistoryEvent
from service.history.store import HistoryStore, StoreUnavailable

pytestmark = pytest.mark.anyio
NOW = time.time()


def event(item: str, days_ago: float = 0, kind: str = "click") -> HistoryEvent:
    return HistoryEvent("ann", item, kind, NOW - days_ago * DAY_SECONDS)


def counts(store: HistoryStore, half_life: float = 7) -> RecentPopularity:
    return RecentPopularity(store, DEFAULT_TYPES, half_life, CatalogueState())


async def order(popularity: RecentPopularity) -> list[str]:
    await popularity.read()
    return list(popularity._state.popular)


async def test_an_event_counts_half_after_a_half_life(store: HistoryStore) -> None:
    popularity = counts(store)
    assert await order(popularity) == []
    await popularity.count([event("old", 7)] * 5 + [event("new")] * 2 + [event("older", 14)] * 9)
    assert await order(popularity) == ["old", "older", "new"]  # 2.5, 2.25, 2
    await popularity.count([event("new")])
    assert await order(popularity) == ["new", "old", "older"]


async def test_types_count_by_their_weights(store: HistoryStore) -> None:
    popularity = counts(store)
    await popularity.count(
        [
            *[event("clicked")] * 3,
            event("bought", kind="purchase"),
            *[event("seen", kind="view")] * 5,
            *[event("shown", kind="impression")] * 9,
            *[event("disliked", kind="dislike")] * 9,
        ]
    )
    assert await order(popularity) == ["bought", "clicked", "seen"]


async def test_a_time_in_the_future_counts_as_now(store: HistoryStore) -> None:
    popularity = counts(store)
    await popularity.count([event("future", -10_000), event("now"), event("now")])
    assert await order(popularity) == ["now", "future"]


async def test_instances_share_counts_and_a_half_life_has_its_own(store: HistoryStore) -> None:
    await counts(store).count([event("a")])
    await counts(store).count([event("b"), event("b")])
    assert await order(counts(store)) == ["b", "a"]
    assert await order(counts(store, 8)) == []


@pytest.mark.parametrize("half_life", [0.01, 36_500])
async def test_counts_overflow_for_no_half_life(store: HistoryStore, half_life: float) -> None:
    popularity = counts(store, half_life)
    await popularity.count([event("a"), event("b"), event("b"), event("c", 0.02)])
    assert (await order(popularity))[0] == "b"


async def test_the_lowest_counts_are_dropped(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POPULAR", 3)
    popularity = counts(store)
    await popularity.count([event(f"i{days}", days) for days in range(10)])
    assert await order(popularity) == ["i0", "i1", "i2"]
    await popularity.count([event("i9")])
    assert set(await order(popularity)) == {"i9", "i0", "i1"}


async def test_counts_survive_a_restart(tmp_path: Path) -> None:
    for expected in (["a"], ["a"]):
        store = HistoryStore.open(f"embedded:{tmp_path / 'histories'}")
        await counts(store).count([event("a")])
        assert await order(counts(store)) == expected
        await store.close()


async def test_listeners_are_told_of_another_order_only(store: HistoryStore) -> None:
    popularity = counts(store)
    told: list[ItemsChange] = []
    popularity._state.listen(told.append)
    await popularity.count([event("a")])
    await popularity.read()
    await popularity.count([event("a")])
    await popularity.read()
    assert told == [ItemsChange(None, {}, ["a"])]
    assert popularity._state.whole.popular == ["a"]


async def test_a_store_that_fails_costs_only_the_counts(redis_server: object) -> None:
    store = HistoryStore.open("redis://127.0.0.1:1/0", timeout_ms=50)
    popularity = counts(store)
    await popularity.count([event("a")])
    with pytest.raises(StoreUnavailable):
        await popularity.read()
    await store.close()


async def test_a_key_of_another_type_changes_nothing(store: HistoryStore) -> None:
    await store.run([("hset", ("popular:7", "a", "b"), {})], popularity_health())
    popularity = counts(store)
    await popularity.count([event("a")])
    assert await order(popularity) == []


def popularity_health() -> module.Health:
    return module.Health("testing")
