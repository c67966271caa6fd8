"""The keys of items in the store, over Redis and over the embedded store."""

import pytest

from service.catalogue.store import BEGINNING, CHUNK, CatalogueStore, KeyUnusable
from service.history.store import HistoryStore

pytestmark = pytest.mark.anyio


async def test_an_empty_store_hides_and_changes_nothing(items: CatalogueStore) -> None:
    assert await items.hidden() == frozenset()
    look = await items.look(BEGINNING)
    assert (look.position, look.items, look.more) == (BEGINNING, [], False)
    assert [ids async for ids in items.patched() if ids] == []
    assert await items.states(["a"]) == {"a": (False, {}, "")}


async def test_items_are_hidden_and_shown_again(items: CatalogueStore) -> None:
    for item in ("a", "ünï\n"):
        await items.set_hidden(item, True)
    await items.set_hidden("a", True)
    assert await items.hidden() == {"a", "ünï\n"}
    assert (await items.states(["a"]))["a"].hidden is True
    await items.set_hidden("a", False)
    assert await items.hidden() == {"ünï\n"}
    assert (await items.states(["a"]))["a"].hidden is False


async def test_attributes_are_changed_and_removed(items: CatalogueStore) -> None:
    await items.set_texts("a", {"price": "3", "brand": "ünï"}, [])
    await items.set_texts("a", {"stock": "true"}, ["price", "nothing"])
    assert (await items.states(["a", "b"]))["a"].texts == {"brand": "ünï", "stock": "true"}
    await items.set_texts("a", {}, ["brand", "stock"])
    assert (await items.states(["a"]))["a"].texts == {}
    assert [list(ids) async for ids in items.patched()] == [["a"]]


async def test_every_change_is_announced_once_after_a_position(items: CatalogueStore) -> None:
    await items.set_hidden("a", True)
    await items.set_texts("b", {"price": "3"}, [])
    await items.set_hidden("a", False)
    first = await items.look(BEGINNING)
    assert first.items == ["a", "b"]
    assert (await items.look(first.position)).items == []
    await items.set_hidden("c", True)
    assert (await items.look(first.position)).items == ["c"]


async def test_announcements_come_in_parts(items: CatalogueStore, store: HistoryStore) -> None:
    for _ in range(CHUNK + 1):
        await store._client.xadd("items:changes", {"item": "a"})
    await store._client.xadd("items:changes", {"something": "else"})
    first = await items.look(BEGINNING)
    assert first.more
    second = await items.look(first.position)
    assert (second.items, second.more) == (["a"], False)
    assert (await items.look(second.position)).position == second.position


async def test_keys_of_other_types_are_told_and_harm_nothing_else(
    items: CatalogueStore, store: HistoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("hidden", "items:changes", "items:patched", "i:a"):
        await store._client.set(key, "something else")
    await store._client.hset("i:b", "price", "3")
    assert await items.hidden() is None
    assert (await items.look(BEGINNING)).items == []
    assert [list(ids) async for ids in items.patched()] == [[]]
    states = await items.states(["a", "b"])
    assert states["a"] == (None, {}, "the key is no hash")
    assert states["b"] == (None, {"price": "3"}, "")
    for key in ("hidden is no set", "items:changes is no stream", "items:patched is no set"):
        assert f"the key {key}: delete it" in caplog.text
    with pytest.raises(KeyUnusable, match="the key hidden has another type"):
        await items.set_hidden("a", True)
    with pytest.raises(KeyUnusable, match="the key i:a has another type"):
        await items.set_texts("a", {"price": "3"}, [])


async def test_a_hash_with_too_many_fields_is_ignored(
    items: CatalogueStore, store: HistoryStore
) -> None:
    await store._client.hset("i:a", mapping={f"field {n}": "x" for n in range(257)})
    assert (await items.states(["a"]))["a"].problem == "the hash has more than 256 fields"


async def test_more_hidden_items_than_the_limit_are_read_up_to_it(
    items: CatalogueStore, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.catalogue.store.MAX_HIDDEN", 50)
    await store._client.sadd("hidden", *map(str, range(3000)))
    found = await items.hidden()
    assert found is not None
    assert len(found) > 50
