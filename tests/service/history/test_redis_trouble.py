import asyncio
import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest
from appending import PATIENT, Trouble, append
from redis._parsers import _AsyncRESP2Parser
from redis_server import RedisServer
from stored import items_of

from service.history.health import Health
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable, _problem

pytestmark = pytest.mark.anyio


async def test_a_redis_that_comes_and_goes(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    store = HistoryStore.open(server.url, timeout_ms=PATIENT)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    for item in ("a", "b"):
        server.start()
        await append(store, [("ann", item)])
        assert await items_of(store, ["ann"]) == [[item]]  # nothing is persisted by this server
        server.stop()
        for failing in (store.ping(), store.read(["ann"]), append(store, [("ann", "x")])):
            with pytest.raises(StoreUnavailable):
                await failing
    await store.close()


async def test_a_redis_that_hangs_is_not_waited_for(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    await append(store, [("ann", "a"), ("bob", "b")])
    assert await items_of(store, ["ann"]) == [["a"]]
    store._seconds = 0.3
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await store.read(["ann"])
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)
    store._seconds = PATIENT / 1000
    assert await items_of(store, ["bob"]) == [["b"]]  # not the late reply to the former command
    await store.close()


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
    assert await items_of(store, ["ann", "bob"]) == [["a"], []]
    assert caplog.text.count("available again") == 1
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
        assert await items_of(store, ["ann"]) == [["a"]]
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
            found = await items_of(store, ["ann", "bob"])
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


async def test_connections_that_redis_closed_are_opened_again(redis_server: RedisServer) -> None:
    redis_server.flush()
    store = HistoryStore.open(redis_server.url, timeout_ms=PATIENT)
    for item in ("a", "b"):
        await append(store, [("ann", item)])
        assert (await items_of(store, ["ann"]))[0][-1] == item
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")
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
