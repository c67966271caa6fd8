import asyncio
import time

import pytest
from appending import PATIENT, append
from redis_server import RedisServer
from stored import items_of

from service.history.events import HistoryEvent
from service.history.store import HistoryStore, StoreProblem

pytestmark = pytest.mark.anyio


async def test_unknown_users_have_empty_histories(store: HistoryStore) -> None:
    assert await items_of(store, ["ann", "bob"]) == [[], []]


async def test_events_are_appended_in_order(store: HistoryStore) -> None:
    await append(store, [("ann", "a"), ("bob", "x"), ("ann", "b")])
    await append(store, [("ann", "c")])
    assert await items_of(store, ["bob", "ann"]) == [["x"], ["a", "b", "c"]]


async def test_only_the_newest_are_kept(store: HistoryStore) -> None:
    await append(store, [("ann", str(i)) for i in range(7)])
    await append(store, [("ann", "z")])
    assert await items_of(store, ["ann"]) == [["4", "5", "6", "z"]]


async def test_the_list_and_a_read_of_it_are_bounded_each(store: HistoryStore) -> None:
    await append(store, [("ann", str(i)) for i in range(7)])
    assert await store._client.lrange("h:ann", 0, -1) == [b"6", b"5", b"4", b"3"]
    await store._client.rpush("h:ann", "2", "1")  # another program keeps more
    assert await items_of(store, ["ann"]) == [["3", "4", "5", "6"]]


async def test_any_text_is_an_id(store: HistoryStore) -> None:
    odd = ["a b", "ünï", "\n", "{}", "日本", "x" * 256]
    for item in odd:
        await append(store, [(item, item)])
    assert await items_of(store, odd) == [[item] for item in odd]


async def test_load_keeps_or_overwrites(store: HistoryStore) -> None:
    await append(store, [("ann", "a")])
    histories = [("ann", ["b", "c"]), ("bob", ["1", "2", "3", "4", "5"]), ("cy", [])]
    assert await store.load(histories) == 1
    assert await items_of(store, ["ann", "bob", "cy"]) == [["a"], ["2", "3", "4", "5"], []]
    assert await store._client.lrange("h:bob", 0, -1) == [b"5", b"4", b"3", b"2"]
    assert await store.load(histories, overwrite=True) == 2
    assert await items_of(store, ["ann"]) == [["b", "c"]]


async def test_loads_more_users_than_one_pipeline_holds(store: HistoryStore) -> None:
    assert await store.load((f"u{i}", [str(i)]) for i in range(1201)) == 1201
    assert await items_of(store, ["u0", "u1200"]) == [["0"], ["1200"]]


async def test_a_key_of_another_type_harms_nobody_else(
    store: HistoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store._client.set("h:ann", "not a list")
    await append(store, [("bob", "x")])
    for _ in range(3):
        assert await items_of(store, ["ann", "bob"]) == [StoreProblem.WRONG_TYPE, ["x"]]
        assert await items_of(store, ["ann"]) == [StoreProblem.WRONG_TYPE]
    await store.ping()
    assert caplog.text.count("not lists") == 1
    assert "ann" not in caplog.text
    assert "unavailable" not in caplog.text


async def test_nothing_to_append_is_fine(store: HistoryStore) -> None:
    assert await store.append([]) == []
    await store.ping()


async def test_redis_is_written_as_documented(redis_server: RedisServer) -> None:
    """Any job in any language can write histories by LPUSH and LTRIM."""
    redis_server.flush()
    redis_server.command("LPUSH", "h:ann", "a", "b")
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    assert await items_of(store, ["ann"]) == [["a", "b"]]
    await append(store, [("ann", "c")])
    await store.append([HistoryEvent("ann", "d", "like")])
    newest, *others = redis_server.command("LRANGE", "h:ann", "0", "-1").split("\n")
    assert others == ["c", "b", "a"]
    item, kind, moment = newest.split("\t")
    assert (item, kind) == ("d", "like")
    assert abs(float(moment) - time.time()) < 60
    await store.close()


async def test_reads_at_the_same_time_get_their_own_answers(store: HistoryStore) -> None:
    await append(store, [(f"u{i}", f"i{i}") for i in range(20)])
    found = await asyncio.gather(*(items_of(store, [f"u{i}", f"u{19 - i}"]) for i in range(20)))
    assert found == [[[f"i{i}"], [f"i{19 - i}"]] for i in range(20)]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memcached://x",
        "localhost:6379",
        "embedded:",
        "redis://:secret@h/0?foo=1",
        "redis://:secret/more@h:1/0",
        "redis://:secret@h:port/0",
        "redis://:secret@h:99999/0",
        "redis://:secret@[::1/0",
        "redis://:secret@h/zero",
        "redis://:secret@h/0?socket_timeout=soon",
    ],
)
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="--store") as refused:
        HistoryStore.open(url)
    assert "secret" not in str(refused.value)


async def test_options_of_the_url_that_would_break_reading_have_no_effect(
    redis_server: RedisServer,
) -> None:
    redis_server.flush()
    options = "decode_responses=true&encoding=latin-1"
    store = HistoryStore.open(f"{redis_server.url}?{options}", timeout_ms=PATIENT)
    await append(store, [("ünï", "日本")])
    assert await items_of(store, ["ünï"]) == [["日本"]]
    await store.close()
