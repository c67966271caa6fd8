import asyncio
import logging
import os
import signal

import pytest
from appending import PATIENT, Trouble, append
from redis_server import RedisServer
from stored import items_of

from service.history.events import MAX_EVENTS, RETRY_SECONDS, HistoryEvent
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable

pytestmark = pytest.mark.anyio


async def test_a_key_of_another_type_fails_no_other_users_events(
    store: HistoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store._client.set("h:ann", "not a list")
    events = [("bob", "x"), ("ann", "a"), ("cy", "y"), ("bob", "z")]
    for times in (1, 2):
        assert await append(store, events) == [None, StoreProblem.WRONG_TYPE, None, None]
        assert await items_of(store, ["bob", "cy"]) == [["x", "z"] * times, ["y"] * times]
    assert caplog.text.count("not lists") == 1
    assert "ann" not in caplog.text
    assert "unavailable" not in caplog.text
    await store._client.delete("h:ann")
    assert await append(store, [("ann", "a")]) == [None]
    assert await items_of(store, ["ann"]) == [["a"]]


async def test_an_event_that_is_sent_again_is_stored_once(store: HistoryStore) -> None:
    first = HistoryEvent("ann", "a", timestamp=1.7e9)
    others = [
        first._replace(timestamp=1.7e9 + 1),
        first._replace(type="view"),
        first._replace(item_id="b"),
        first._replace(user_id="bob"),
        first._replace(timestamp=None, request_id="r"),
    ]
    for _ in range(2):
        assert await store.append([first]) == [None]
    assert await items_of(store, ["ann"]) == [["a"]]
    for _ in range(2):
        assert await store.append([first, others[3], first]) == [None] * 3
    assert await items_of(store, ["ann", "bob"]) == [["a", "a"], ["a"]]  # twice in one call is two
    for other in others:
        await store.append([first, other])
    assert await items_of(store, ["ann", "bob"]) == [["a", "a", "b", "a"], ["a"]]


async def test_tries_of_an_event_that_meet_store_it_once(store: HistoryStore) -> None:
    events = [HistoryEvent(user, "a", timestamp=1.0) for user in ("ann", "bob")]
    await asyncio.gather(*(store.append(events) for _ in range(20)))
    assert await items_of(store, ["ann", "bob"]) == [["a"], ["a"]]


async def test_an_event_without_a_time_may_happen_twice(store: HistoryStore) -> None:
    for _ in range(2):
        await append(store, [("ann", "a"), ("ann", "b")])
    assert await items_of(store, ["ann"]) == [["a", "b", "a", "b"]]


WRITE_TROUBLES = {
    "a replica": Trouble(["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"], "ReadOnlyError: "),
    "no memory": Trouble(
        ["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"], "OutOfMemoryError: "
    ),
    "no permission for scripts": Trouble(
        ["ACL SETUSER default -eval -evalsha"],
        ["ACL SETUSER default +@all"],
        "NoPermissionError: ",
    ),
}


@pytest.mark.parametrize("name", WRITE_TROUBLES)
async def test_events_that_redis_refuses_are_stored_once_afterwards(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.INFO)
    redis_server.flush()
    trouble = WRITE_TROUBLES[name]
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    events = [("ann", "a"), ("bob", "b")]
    try:
        for command in trouble.begin:
            redis_server.command(*command.split())
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=trouble.words):
                await append(store, events)
            assert await items_of(store, ["ann"]) == [[]]
    finally:
        for command in trouble.end:
            redis_server.command(*command.split())
    assert caplog.text.count(trouble.words) == 1
    assert "ann" not in caplog.text
    assert await append(store, events) == [None, None]
    assert await items_of(store, ["ann", "bob"]) == [["a"], ["b"]]
    assert caplog.text.count("available again for writing") == 1
    await store.close()


@pytest.mark.parametrize("timestamp", [None, 1.7e9])
async def test_events_whose_outcome_was_unknown_are_stored_once(
    redis_server: RedisServer, timestamp: float | None
) -> None:
    """Redis hangs, and executes the commands of the first tries later."""
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    events = [HistoryEvent(user, "a", timestamp=timestamp) for user in ("ann", "bob", "ann")]
    await store.append([HistoryEvent("ann", "0")])
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    store._seconds = 0.1
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="no answer within"):
                await store.append(events)
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)
    store._seconds = PATIENT / 1000
    await store.append(events)
    assert await items_of(store, ["ann", "bob"]) == [["0", "a", "a"], ["a"]]
    if timestamp is None:  # an event that is sent after that is new
        await store.append(events[1:2])
        assert await items_of(store, ["bob"]) == [["a", "a"]]
    await store.close()


async def test_a_retry_may_come_to_another_process(redis_server: RedisServer) -> None:
    redis_server.flush()
    event = HistoryEvent("ann", "a", request_id="r1")
    for _ in range(2):
        store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
        await store.append([event])
        await store.close()
    assert redis_server.command("LLEN", "h:ann") == "1"
    assert 0 < int(redis_server.command("TTL", "e:{h:ann}")) <= RETRY_SECONDS


async def test_the_ids_of_events_are_bounded(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    events = [HistoryEvent("ann", "a", timestamp=float(i)) for i in range(MAX_EVENTS)]
    await store.append(events)
    await store.append(events)
    await store.append([HistoryEvent("ann", "b")])
    assert redis_server.command("LLEN", "h:ann") == str(MAX_EVENTS)
    assert redis_server.command("LLEN", "e:{h:ann}") == str(MAX_EVENTS)
    await store.close()


async def test_a_bare_click_is_stored_as_its_item_alone(redis_server: RedisServer) -> None:
    """So that jobs find what they would have written themselves."""
    redis_server.flush()
    for days, expected in ((None, b"i1"), (30.0, b"i1\tclick\t")):
        store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT, days=days)
        await store.append([HistoryEvent("ann", "i1")])
        (found, *_) = (await store.read(["ann"]))[0]  # type: ignore[misc]
        assert found.startswith(expected)
        assert (found == b"i1") is (days is None)
        await store.append([HistoryEvent("ann", "i2", "like")])
        (liked, *_) = (await store.read(["ann"]))[0]  # type: ignore[misc]
        assert liked.startswith(b"i2\tlike\t1")
        await store.close()
