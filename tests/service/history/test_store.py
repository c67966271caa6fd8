import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from redis._parsers import _AsyncRESP2Parser
from redis_server import RedisServer

from service.history.events import MAX_EVENTS, RETRY_SECONDS, HistoryEvent
from service.history.health import Health
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable, _problem

PATIENT = 10_000  # milliseconds: machines that run tests are busy

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["redis", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryStore]:
    """An empty store: every test runs over Redis and over the embedded store."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        url = server.url
    else:
        url = f"embedded:{tmp_path / 'histories'}"
    opened = HistoryStore.open(url, limit=4, timeout_ms=PATIENT)
    yield opened
    await opened.close()


async def append(
    store: HistoryStore, events: Sequence[tuple[str, str]]
) -> list[StoreProblem | None]:
    """Appends (user, item) events."""
    return await store.append([HistoryEvent(user, item) for user, item in events])


async def test_unknown_users_have_empty_histories(store: HistoryStore) -> None:
    assert await store.read(["ann", "bob"]) == [[], []]


async def test_events_are_appended_in_order(store: HistoryStore) -> None:
    await append(store, [("ann", "a"), ("bob", "x"), ("ann", "b")])
    await append(store, [("ann", "c")])
    assert await store.read(["bob", "ann"]) == [["x"], ["a", "b", "c"]]


async def test_only_the_newest_are_kept(store: HistoryStore) -> None:
    await append(store, [("ann", str(i)) for i in range(7)])
    await append(store, [("ann", "z")])
    assert await store.read(["ann"]) == [["4", "5", "6", "z"]]


async def test_any_text_is_an_id(store: HistoryStore) -> None:
    odd = ["a b", "ünï", "\n", "{}", "日本", "x" * 256]
    for item in odd:
        await append(store, [(item, item)])
    assert await store.read(odd) == [[item] for item in odd]


async def test_load_keeps_or_overwrites(store: HistoryStore) -> None:
    await append(store, [("ann", "a")])
    histories = [("ann", ["b", "c"]), ("bob", ["1", "2", "3", "4", "5"]), ("cy", [])]
    assert await store.load(histories) == 1
    assert await store.read(["ann", "bob", "cy"]) == [["a"], ["2", "3", "4", "5"], []]
    assert await store.load(histories, overwrite=True) == 2
    assert await store.read(["ann"]) == [["b", "c"]]


async def test_loads_more_users_than_one_pipeline_holds(store: HistoryStore) -> None:
    assert await store.load((f"u{i}", [str(i)]) for i in range(1201)) == 1201
    assert await store.read(["u0", "u1200"]) == [["0"], ["1200"]]


async def test_a_key_of_another_type_harms_nobody_else(
    store: HistoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store._client.set("h:ann", "not a list")
    await append(store, [("bob", "x")])
    for _ in range(3):
        assert await store.read(["ann", "bob"]) == [StoreProblem.WRONG_TYPE, ["x"]]
        assert await store.read(["ann"]) == [StoreProblem.WRONG_TYPE]
    await store.ping()
    assert caplog.text.count("not lists") == 1
    assert "ann" not in caplog.text
    assert "unavailable" not in caplog.text


async def test_a_key_of_another_type_fails_no_other_users_events(
    store: HistoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store._client.set("h:ann", "not a list")
    events = [("bob", "x"), ("ann", "a"), ("cy", "y"), ("bob", "z")]
    for times in (1, 2):
        assert await append(store, events) == [None, StoreProblem.WRONG_TYPE, None, None]
        assert await store.read(["bob", "cy"]) == [["x", "z"] * times, ["y"] * times]
    assert caplog.text.count("not lists") == 1
    assert "ann" not in caplog.text
    assert "unavailable" not in caplog.text
    await store._client.delete("h:ann")
    assert await append(store, [("ann", "a")]) == [None]
    assert await store.read(["ann"]) == [["a"]]


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
    assert await store.read(["ann"]) == [["a"]]
    for _ in range(2):
        assert await store.append([first, others[3], first]) == [None] * 3
    assert await store.read(["ann", "bob"]) == [["a", "a"], ["a"]]  # twice in one call is two
    for other in others:
        await store.append([first, other])
    assert await store.read(["ann", "bob"]) == [["a", "a", "b", "a"], ["a"]]


async def test_tries_of_an_event_that_meet_store_it_once(store: HistoryStore) -> None:
    events = [HistoryEvent(user, "a", timestamp=1.0) for user in ("ann", "bob")]
    await asyncio.gather(*(store.append(events) for _ in range(20)))
    assert await store.read(["ann", "bob"]) == [["a"], ["a"]]


async def test_an_event_without_a_time_may_happen_twice(store: HistoryStore) -> None:
    for _ in range(2):
        await append(store, [("ann", "a"), ("ann", "b")])
    assert await store.read(["ann"]) == [["a", "b", "a", "b"]]


async def test_nothing_to_append_is_fine(store: HistoryStore) -> None:
    assert await store.append([]) == []
    await store.ping()


async def test_redis_is_written_as_documented(redis_server: RedisServer) -> None:
    """Any job in any language can write histories by LPUSH and LTRIM."""
    redis_server.flush()
    redis_server.command("LPUSH", "h:ann", "a", "b")
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    assert await store.read(["ann"]) == [["a", "b"]]
    await append(store, [("ann", "c")])
    assert redis_server.command("LRANGE", "h:ann", "0", "-1").split() == ["c", "b", "a"]
    await store.close()


async def test_a_redis_that_comes_and_goes(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    store = HistoryStore.open(server.url, timeout_ms=PATIENT)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    for item in ("a", "b"):
        server.start()
        await append(store, [("ann", item)])
        assert await store.read(["ann"]) == [[item]]  # nothing is persisted by this server
        server.stop()
        for failing in (store.ping(), store.read(["ann"]), append(store, [("ann", "x")])):
            with pytest.raises(StoreUnavailable):
                await failing
    await store.close()


async def test_a_redis_that_hangs_is_not_waited_for(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    await append(store, [("ann", "a"), ("bob", "b")])
    assert await store.read(["ann"]) == [["a"]]
    store._seconds = 0.3
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await store.read(["ann"])
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)
    store._seconds = PATIENT / 1000
    assert await store.read(["bob"]) == [["b"]]  # not the late reply to the former command
    await store.close()


class Trouble(NamedTuple):
    """Commands that make Redis refuse reads or writes and end that, and its words."""

    begin: list[str]
    end: list[str]
    words: str


TROUBLES = {
    "no permission": Trouble(
        ["ACL SETUSER default -lrange"], ["ACL SETUSER default +@all"], "NoPermissionError: "
    ),
    "no permission for this key": Trouble(
        ["ACL SETUSER default resetkeys ~x:*"], ["ACL SETUSER default ~*"], "NoPermissionError: "
    ),
    "a replica that was cut off": Trouble(
        ["CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"],
        ["REPLICAOF NO ONE", "CONFIG SET replica-serve-stale-data yes"],
        "MasterDownError: ",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_errors_of_redis_are_not_taken_for_no_history(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The store is unavailable until the trouble ends, and the log has Redis' words once."""
    caplog.set_level(logging.INFO)
    redis_server.flush()
    trouble = TROUBLES[name]
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    await append(store, [("ann", "a")])
    try:
        for command in trouble.begin:
            redis_server.command(*command.split())
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=trouble.words):
                await store.read(["ann", "bob"])
            with pytest.raises(StoreUnavailable, match=trouble.words):
                await store.ping()
    finally:
        for command in trouble.end:
            redis_server.command(*command.split())
    assert caplog.text.count(trouble.words) == 1
    assert "ann" not in caplog.text
    assert await store.read(["ann", "bob"]) == [["a"], []]
    assert caplog.text.count("available again") == 1
    await store.close()


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
            assert await store.read(["ann"]) == [[]]
    finally:
        for command in trouble.end:
            redis_server.command(*command.split())
    assert caplog.text.count(trouble.words) == 1
    assert "ann" not in caplog.text
    assert await append(store, events) == [None, None]
    assert await store.read(["ann", "bob"]) == [["a"], ["b"]]
    assert caplog.text.count("available again for writing") == 1
    await store.close()


async def test_a_long_script_is_trouble_with_the_store(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = HistoryStore.open(server.url, timeout_ms=PATIENT)
        await append(store, [("ann", "a")])
        server.command("CONFIG", "SET", "busy-reply-threshold", "1")
        words = ("redis-cli", "-u", server.url, "EVAL", "while true do end", "0")
        script = subprocess.Popen(words, stdout=subprocess.DEVNULL)

        async def until_busy() -> None:
            while True:
                await store.ping()

        with pytest.raises(StoreUnavailable, match="BUSY"):
            await asyncio.wait_for(until_busy(), PATIENT / 1000)
        with pytest.raises(StoreUnavailable, match="BUSY"):
            await store.read(["ann"])
        server.command("SCRIPT", "KILL")
        script.wait(timeout=10)
        assert await store.read(["ann"]) == [["a"]]
        await store.close()


async def test_keys_that_redis_refuses_harm_no_other_user(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    await append(store, [("ann", "a"), ("bob", "b")])
    redis_server.command("ACL", "SETUSER", "default", "resetkeys", "~h:a*")
    try:
        for _ in range(3):
            found = await store.read(["ann", "bob"])
            assert found == [["a"], StoreProblem.UNAVAILABLE]
    finally:
        redis_server.command("ACL", "SETUSER", "default", "~*")
    assert caplog.text.count("refused for some users: NoPermissionError") == 1
    await store.close()


async def test_a_wrong_password_is_told_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path) as server:
        server.command("CONFIG", "SET", "requirepass", "right-one")
        url = server.url.replace("redis://", "redis://:wrong-one@")
        store = HistoryStore.open(url, timeout_ms=PATIENT)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="password"):
                await store.ping()
        assert caplog.text.count("invalid username-password") == 1
        assert "wrong-one" not in caplog.text
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
    assert await store.read(["ann", "bob"]) == [["0", "a", "a"], ["a"]]
    if timestamp is None:  # an event that is sent after that is new
        await store.append(events[1:2])
        assert await store.read(["bob"]) == [["a", "a"]]
    await store.close()


async def test_a_retry_may_come_to_another_process(redis_server: RedisServer) -> None:
    redis_server.flush()
    event = HistoryEvent("ann", "a", request_id="r1")
    for _ in range(2):
        store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
        await store.append([event])
        await store.close()
    assert redis_server.command("LRANGE", "h:ann", "0", "-1").split() == ["a"]
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


async def test_connections_that_redis_closed_are_opened_again(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    for item in ("a", "b"):
        await append(store, [("ann", item)])
        assert (await store.read(["ann"]))[0][-1] == item
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
    await store.close()


async def test_reads_at_the_same_time_get_their_own_answers(store: HistoryStore) -> None:
    await append(store, [(f"u{i}", f"i{i}") for i in range(20)])
    found = await asyncio.gather(*(store.read([f"u{i}", f"u{19 - i}"]) for i in range(20)))
    assert found == [[[f"i{i}"], [f"i{19 - i}"]] for i in range(20)]


async def test_the_embedded_store_persists(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'deep' / 'histories'}"
    store = HistoryStore.open(url)
    await asyncio.gather(*(append(store, [(f"u{i}", str(i))]) for i in range(20)))
    await store.close()
    store = HistoryStore.open(url)
    assert await store.read([f"u{i}" for i in range(20)]) == [[str(i)] for i in range(20)]
    await store.close()


APPENDER = """
import asyncio, sys
from service.history.events import HistoryEvent
from service.history.store import HistoryStore

async def main():
    store = HistoryStore.open(sys.argv[1])
    for i in range(100000):
        await store.append([HistoryEvent("ann", str(i))])
        print(i, flush=True)

asyncio.run(main())
"""


async def test_acknowledged_events_of_the_embedded_store_survive_kill_9(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'histories'}"
    child = subprocess.Popen(
        [sys.executable, "-c", APPENDER, url], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(30)]
    child.kill()
    rest, _ = child.communicate()
    acknowledged += rest.split()
    store = HistoryStore.open(url, limit=100_000)
    (history,) = await store.read(["ann"])
    assert history[: len(acknowledged)] == acknowledged
    await store.close()
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".part")}
    assert left == {"histories", "histories.lock"}


async def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    store = HistoryStore.open("embedded:~/recgpt/histories")
    await append(store, [("ann", "a")])
    await store.close()
    assert (tmp_path / "home" / "recgpt" / "histories").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with pytest.raises(ValueError, match="home directory"):
        HistoryStore.open("embedded:~no-such-user/histories")


async def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'histories'}"
    store = HistoryStore.open(url)
    with pytest.raises(ValueError, match="another process uses this embedded store"):
        HistoryStore.open(url)
    await store.close()
    await HistoryStore.open(url).close()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
async def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "histories"
    store = HistoryStore.open(f"embedded:{file}")
    await append(store, [("ann", "a")])
    await store.close()
    whole = file.read_bytes()
    content = {
        "cut": whole[:-5],
        "flip": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],
        "empty": b"",
        "foreign": b"hello\n",
    }[damage]
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a store"):
        HistoryStore.open(f"embedded:{file}")
    time.sleep(0.1)
    assert file.read_bytes() == content


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
    assert await store.read(["ünï"]) == [["日本"]]
    await store.close()


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "wrong_type"),
        ("ERR Error running script: @user_script:7: WRONGTYPE Operation against", "wrong_type"),
        ("ERR unknown command", "unavailable"),
        ("NOPERM No permissions to access a key", "unavailable"),
        ("NOAUTH Authentication required.", "unavailable"),
        ("MOVED 3999 127.0.0.1:6381", "unavailable"),
        ("ASK 3999 127.0.0.1:6381", "unavailable"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "unavailable"),
        ("CLUSTERDOWN Hash slot not served", "unavailable"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "unavailable"),
        ("MASTERDOWN Link with MASTER is down", "unavailable"),
        ("READONLY You can't write against a read only replica.", "unavailable"),
        ("LOADING Redis is loading the dataset in memory", "unavailable"),
        ("BUSY Redis is busy running a script.", "unavailable"),
        ("NOSCRIPT No matching script.", "unavailable"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "unavailable"),
        ("MISCONF Redis is configured to save RDB snapshots", "unavailable"),
    ],
)
def test_every_error_of_redis_is_sorted(reply: str, problem: str) -> None:
    error = _AsyncRESP2Parser.parse_error(reply)
    assert _problem(error, Health("testing")) is StoreProblem(problem)
