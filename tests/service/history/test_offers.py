"""Impressions as offers: stored beside the history, until an event enters it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from appending import PATIENT, append
from redis_server import RedisServer
from redis_topologies import cluster
from stored import items_of

from service.history.event_types import DEFAULT_TYPES, EventTypes, load_event_types
from service.history.events import DAY_SECONDS, HistoryEvent, offers_key
from service.history.store import HistoryStore, StoreProblem

pytestmark = pytest.mark.anyio

Opener = Callable[..., HistoryStore]


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> EventTypes:
    file = tmp_path_factory.mktemp("types") / "types.toml"
    file.write_text("[impression]\noffer = true\n")
    return load_event_types(file)


@pytest.fixture(params=["redis", "embedded"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, types: EventTypes) -> Opener:
    url = f"embedded:{tmp_path / 'histories'}"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url

    def opened(**options: object) -> HistoryStore:
        return HistoryStore.open(url, **{"timeout_ms": PATIENT, "types": types} | options)

    return opened


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[HistoryStore]:
    opened = opener()
    yield opened
    await opened.close()


def shown(*items: str, user: str = "ann") -> list[HistoryEvent]:
    return [HistoryEvent(user, item, "impression") for item in items]


async def offers_of(store: HistoryStore, *users: str) -> list[list[str]]:
    _, offers = await store.read_with_offers(users, range(len(users)))
    return [[item.decode() for item in one] for one in offers]


async def test_impressions_are_offers_until_an_event_enters_the_history(
    store: HistoryStore,
) -> None:
    await append(store, [("ann", "a"), ("bob", "b")])
    await store.append([*shown("x", "y"), *shown("z", user="bob")])
    await store.append(shown("a\tb", "x"))  # shown again: it is the newest now
    assert await offers_of(store, "ann", "bob", "cy") == [["x", "a\tb", "y"], ["z"], []]
    assert await items_of(store, ["ann", "bob"]) == [["a"], ["b"]]
    await store.append([HistoryEvent("ann", "y", "dislike")])  # excludes, and does not enter
    assert await offers_of(store, "ann") == [["x", "a\tb", "y"]]
    await store.append([*shown("v"), HistoryEvent("ann", "w"), *shown("u")])
    assert await offers_of(store, "ann", "bob") == [["u"], ["z"]]
    found, some = await store.read_with_offers(["ann", "bob"], [1])
    assert (len(found), some) == (2, [[b"z"]])


async def test_the_newest_seven_are_kept_behind_a_history_only(store: HistoryStore) -> None:
    await store.append([*shown("early"), HistoryEvent("ann", "a"), *shown(*"123456789")])
    await store.append(shown("x", user="visitor"))
    assert await offers_of(store, "ann", "visitor") == [list("9876543"), []]
    assert await store._client.exists("o:{h:visitor}") == 0


async def test_an_impression_that_is_sent_again_is_no_new_offer(store: HistoryStore) -> None:
    events = [
        HistoryEvent("ann", "a", timestamp=1.0),
        HistoryEvent("ann", "x", "impression", timestamp=2.0),
        HistoryEvent("ann", "b", timestamp=3.0),
    ]
    for _ in range(2):
        assert await store.append(events) == [None] * 3
        assert await items_of(store, ["ann"]) == [["a", "b"]]
        assert await offers_of(store, "ann") == [[]]


async def test_a_user_is_deleted_with_the_offers(store: HistoryStore) -> None:
    await store.append([HistoryEvent("ann", "a"), *shown("x")])
    await store._client.delete("h:ann", "e:{h:ann}")
    assert await store.delete("ann")
    assert await offers_of(store, "ann") == [[]]
    assert not await store.delete("ann")


async def test_a_history_that_is_loaded_anew_has_no_offers(store: HistoryStore) -> None:
    events = [HistoryEvent(user, "a") for user in ("ann", "bob", "cy")]
    await store.append([*events, *shown("x"), *shown("y", user="bob"), *shown("z", user="cy")])
    histories = [("ann", ["b"]), ("bob", []), ("dan", ["d"])]
    assert await store.load(histories) == 1
    assert await offers_of(store, "ann", "bob", "cy") == [["x"], ["y"], ["z"]]
    assert await store.load(histories, overwrite=True) == 2
    assert await items_of(store, ["ann", "bob", "dan"]) == [["b"], ["a"], ["d"]]
    assert await offers_of(store, "ann", "bob", "cy") == [[], ["y"], ["z"]]


async def test_offers_expire_as_histories_do(opener: Opener) -> None:
    store = opener(days=10)
    await store.append([HistoryEvent("ann", "a"), *shown("x")])
    await store._client.expire("o:{h:ann}", DAY_SECONDS)
    await store.append(shown("y"))  # nothing is kept for longer because of newer impressions
    assert 0 < await store._client.ttl("o:{h:ann}") <= DAY_SECONDS
    await store.append([HistoryEvent("ann", "b"), *shown("z")])
    assert 9 * DAY_SECONDS < await store._client.ttl("o:{h:ann}") <= 10 * DAY_SECONDS
    await store.close()


async def test_a_key_of_another_type_stores_nothing_of_its_user(store: HistoryStore) -> None:
    await append(store, [("ann", "a"), ("bob", "b")])
    await store._client.set("o:{h:ann}", "no list")
    events = [*shown("x"), HistoryEvent("ann", "c"), *shown("y", user="bob")]
    problems = await store.append(events)
    assert problems == [StoreProblem.WRONG_TYPE, StoreProblem.WRONG_TYPE, None]
    assert await items_of(store, ["ann", "bob"]) == [["a"], ["b"]]
    assert await offers_of(store, "ann", "bob") == [[], ["y"]]
    await store._client.delete("o:{h:ann}")
    assert await store.append(events[:2]) == [None, None]
    assert await items_of(store, ["ann"]) == [["a", "c"]]


async def test_nothing_is_stored_by_default(opener: Opener) -> None:
    store = opener(types=DEFAULT_TYPES)
    await append(store, [("ann", "a")])
    assert await store._client.exists("o:{h:ann}") == 0
    assert not DEFAULT_TYPES.has_offers
    await store.close()


async def test_offers_are_there_after_the_store_opens_again(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    await store.append([HistoryEvent("ann", "a"), HistoryEvent("bob", "b")])
    await store.append([*shown("x", "y"), *shown("z", user="bob"), HistoryEvent("bob", "c")])
    if store._embedded:
        await store._embedded.compact()
    await store.append(shown("v"))
    if store._embedded:  # what a crash leaves, because nothing was closed yet
        crashed = shutil.copytree(tmp_path, tmp_path / "crashed")
        after = HistoryStore.open(f"embedded:{crashed / 'histories'}")
        assert await offers_of(after, "ann", "bob") == [["v", "y", "x"], []]
        await after.close()
    await store.close()
    again = opener()
    assert await offers_of(again, "ann", "bob") == [["v", "y", "x"], []]
    await again.close()


async def test_a_cluster_has_offers_beside_their_histories(
    tmp_path_factory: pytest.TempPathFactory, types: EventTypes
) -> None:
    users = ["ann", "a{b}c", "{x}", "a{b", "{}", "a}b", *(f"u{n}" for n in range(20))]
    with cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        store = HistoryStore.open(f"redis+cluster://{places}", timeout_ms=PATIENT, types=types)
        await append(store, [(user, "a") for user in users])
        events = [event for user in users for event in shown("x", user, user=user)]
        assert await store.append(events) == [None] * len(events)
        assert await offers_of(store, *users) == [[user, "x"] for user in users]
        slots = store._client.keyslot
        assert all(slots(f"h:{user}") == slots(offers_key(f"h:{user}")) for user in users)
        assert await store.delete("a}b")
        assert await offers_of(store, "a}b", "ann") == [[], ["ann", "x"]]
        await store.close()


async def test_without_the_right_to_offers_users_are_deleted_and_loaded(
    redis_server: RedisServer,
) -> None:
    redis_server.flush()
    redis_server.command("ACL", "SETUSER", "limited", "on", ">word", "~h:*", "~e:*", "+@all")
    try:
        url = redis_server.url.replace("redis://", "redis://limited:word@")
        store = HistoryStore.open(url, timeout_ms=PATIENT)
        await append(store, [("ann", "a")])
        assert await store.delete("ann")
        assert await items_of(store, ["ann"]) == [[]]
        assert await offers_of(store, "ann") == [[]]
        assert await store.load([("ann", ["b"])], overwrite=True) == 1
        assert await items_of(store, ["ann"]) == [["b"]]
        await store.close()
    finally:
        redis_server.command("ACL", "DELUSER", "limited")


async def test_offers_are_written_and_cleared_by_calls_that_meet(store: HistoryStore) -> None:
    await append(store, [("ann", "a")])
    calls = [store.append([*shown(f"x{n}"), HistoryEvent("ann", f"c{n}")]) for n in range(20)]
    await asyncio.gather(*calls)
    assert await offers_of(store, "ann") == [[]]
