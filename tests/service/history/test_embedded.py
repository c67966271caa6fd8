import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from appending import append
from burner_redis import BurnerRedis
from stored import items_of

from service.history.embedded.journal import HEAD, read_frames
from service.history.embedded.snapshot import VERSION_1
from service.history.embedded.store import EmbeddedStore
from service.history.store import HistoryStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(file: Path, **options: int) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(str(file), **options)
    try:
        yield store
    finally:
        await store.close()


async def push(file: Path, *values: str) -> None:
    async with opened(file) as store:
        for value in values:
            await store.client.rpush("list", value)


async def elements(file: Path) -> list[str]:
    async with opened(file) as store:
        return [value.decode() for value in await store.client.lrange("list", 0, -1)]


async def test_histories_persist(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'deep' / 'histories'}"
    for number in range(2):
        store = HistoryStore.open(url)
        await asyncio.gather(*(append(store, [(f"u{i}", f"{number}")]) for i in range(20)))
        await store.close()
    store = HistoryStore.open(url)
    assert await items_of(store, [f"u{i}" for i in range(20)]) == [["0", "1"]] * 20
    await store.close()
    names = {path.name for path in (tmp_path / "deep").iterdir()}
    assert names == {"histories", "histories.log.0", "histories.lock"}


async def everything(client: Any) -> list[Any]:
    return [
        await client.hgetall("hash"),
        await client.smembers("set"),
        await client.xrange("stream"),
        await client.zrange("sorted", 0, -1, withscores=True),
        await client.get("string"),
        await client.lrange("list", 0, -1),
        await client.lrange("h:x", 0, -1),
        await client.exists("gone"),
        0 < await client.ttl("passing") <= 100,
    ]


async def test_every_command_that_writes_is_durable(tmp_path: Path) -> None:
    file = tmp_path / "store"
    script = "return redis.call('LPUSH', KEYS[1], ARGV[1])"
    async with opened(file) as store:
        client = store.client
        await client.hset("hash", mapping={"a": "1", "b": b"\xff\x00"})
        await client.hincrby("hash", "n", 3)
        await client.sadd("set", "x", "y", "z")
        await client.srem("set", "z")
        first = await client.xadd("stream", {"f": "v"}, maxlen=10)
        await client.zadd("sorted", {"one": 1.5})
        await client.set("string", "word")
        await client.set("gone", "1")
        await client.delete("gone")
        await client.set("passing", "1", ex=100)
        pipeline = client.pipeline(transaction=False)
        pipeline.rpush("list", "a", 2).xadd("stream", {"f": "w"}).lrange("list", 0, -1)
        pipeline.eval(script, 1, "h:x", "i").eval(script, 1, "h:x", "j").lpush("hash", "wrong")
        results = await pipeline.execute(raise_on_error=False)
        assert results[2] == [b"a", b"2"]
        assert "WRONGTYPE" in str(results[-1])
        expected = await everything(client)
        assert [entry for entry, _ in expected[2]] == [first, results[1]]
        assert expected[5:] == [[b"a", b"2"], [b"j", b"i"], 0, True]
    for compacted in (False, True):
        async with opened(file) as store:
            assert await everything(store.client) == expected
            if compacted:
                await store.compact()
    async with opened(file) as store:
        assert await everything(store.client) == expected
        sha = await store.client.script_load(script)
        await store.client.evalsha(sha, 1, "h:x", "k")
    async with opened(file) as store:
        assert await store.client.lrange("h:x", 0, -1) == [b"k", b"j", b"i"]


async def test_commands_that_cannot_be_repeated_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        with pytest.raises(AttributeError, match="no command blpop"):
            await store.client.blpop("list")
        with pytest.raises(AttributeError, match="no command blpop"):
            await store.client.pipeline().blpop("list").execute()
        with pytest.raises(TypeError):
            await store.client.hset("hash", "a", object())
        assert await store.client.hgetall("hash") == {}


async def test_a_caller_that_left_does_not_part_memory_and_disk(tmp_path: Path) -> None:
    file = tmp_path / "store"
    async with opened(file) as store:
        for delay in range(30):
            task = asyncio.create_task(store.client.rpush("list", str(delay)))
            for _ in range(delay % 10):
                await asyncio.sleep(0)
            task.cancel()
        await store.client.rpush("list", "end")
        held = await store.client.lrange("list", 0, -1)
    assert await elements(file) == [value.decode() for value in held]


async def test_journals_are_compacted_while_the_store_is_used(tmp_path: Path) -> None:
    file = tmp_path / "store"
    async with opened(file, compact_bytes=1000) as store:
        number = 0
        while not (tmp_path / "store.log.3").exists():
            await store.client.rpush("list", str(number))
            number += 1
    journals = {path.name for path in tmp_path.glob("store.log.*")}
    assert "store.log.0" not in journals
    assert await elements(file) == [str(i) for i in range(number)]


async def test_a_failed_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "store"
    async with opened(file, compact_bytes=1) as store:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        await store.client.rpush("list", "a")
        assert store._compaction
        await store._compaction
        await store.client.rpush("list", "b")
        assert "not compacted" in caplog.text
    assert len(list(tmp_path.glob("store.log.*"))) >= 2
    assert await elements(file) == ["a", "b"]
    names = {path.name for path in tmp_path.iterdir() if ".log." not in path.name}
    assert names == {"store", "store.lock"}


APPENDER = """
import asyncio, sys
from service.history.embedded.store import EmbeddedStore

async def main():
    store = EmbeddedStore(sys.argv[1], compact_bytes=500)
    known = await store.client.llen("list")
    async def append(i):
        await store.client.rpush("list", str(i))
        print(i, flush=True)
    for i in range(known, 100_000_000, 4):
        await asyncio.gather(*map(append, range(i, i + 4)))

asyncio.run(main())
"""


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    """Also in the middle of a compaction, one of which nearly always runs here."""
    file = tmp_path / "store"
    for wanted in (1, 10, 100, 300):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(file)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().strip() for _ in range(wanted)]
        child.kill()
        rest, _ = child.communicate()
        acknowledged += rest.split("\n")[:-1]
        stored = await elements(file)
        assert stored == [str(i) for i in range(len(stored))]
        assert set(acknowledged) <= set(stored)


FULL_DISK = """
import asyncio, resource, sys
from service.history.events import HistoryEvent
from service.history.store import HistoryStore, StoreUnavailable

async def main():
    store = HistoryStore.open(sys.argv[1])
    events = [HistoryEvent("ann", str(i), timestamp=1.0) for i in range(100)]
    await store.append(events[:50])
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    refused = 0
    for event in events[50:]:
        try:
            await store.append([event])
        except StoreUnavailable:
            refused += 1
            assert await store.read(["bob"]) == [[]]
    assert 0 < refused < 50, refused
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    await store.append(events[50:])
    print("stored", flush=True)
    sys.stdin.read()  # to be killed

asyncio.run(main())
"""


async def test_a_full_disk_refuses_and_goes_on_once_there_is_space(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: it lets parts of a write through, too."""
    url = f"embedded:{tmp_path / 'store'}"
    child = subprocess.Popen(
        [sys.executable, "-c", FULL_DISK, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "stored\n"
    child.kill()
    child.communicate()
    store = HistoryStore.open(url)
    assert await items_of(store, ["ann"]) == [[str(i) for i in range(100)]]
    await store.close()


async def test_a_journal_that_a_crash_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    file, journal = tmp_path / "store", tmp_path / "store.log.0"
    await push(file, "a", "b", "c")
    whole = journal.read_bytes()
    ends = [frame.end for frame in read_frames(journal)]
    assert len(ends) == 3
    for left in range(ends[1], len(whole)):
        for rest in (b"", bytes(len(whole) - left)):  # a file may have its size and not its data
            journal.write_bytes(whole[:left] + rest)
            assert await elements(file) == ["a", "b"]
            assert journal.stat().st_size == ends[1]
    await push(file, "d")
    assert await elements(file) == ["a", "b", "d"]


@pytest.mark.parametrize("at", ["mark", "length", "content"])
async def test_a_journal_that_the_disk_damaged_is_refused(tmp_path: Path, at: str) -> None:
    file, journal = tmp_path / "store", tmp_path / "store.log.0"
    await push(file, "a", "b", "c")
    data = bytearray(journal.read_bytes())
    begin = next(read_frames(journal)).end
    data[begin + {"mark": 0, "length": 6, "content": HEAD.size}[at]] ^= 1
    journal.write_bytes(data)
    with pytest.raises(ValueError, match=f"damaged at byte {begin}"):
        EmbeddedStore(str(file))
    assert journal.read_bytes() == data


@pytest.mark.parametrize("lost", ["store", "store.log.1"])
async def test_a_missing_file_is_noticed(tmp_path: Path, lost: str) -> None:
    file = tmp_path / "store"
    async with opened(file) as store:
        await store.client.rpush("list", "a")
        await store.compact()
        await store.client.rpush("list", "b")
    (tmp_path / "store.log.1").rename(tmp_path / "store.log.2")
    (tmp_path / lost).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="store"):
        EmbeddedStore(str(file))


async def test_a_file_of_version_1_is_opened(tmp_path: Path) -> None:
    redis = BurnerRedis()
    await redis.rpush("list", "a", "b")
    await redis.save(str(tmp_path / "saved"))
    content = (tmp_path / "saved").read_bytes()
    file = tmp_path / "store"
    file.write_bytes(VERSION_1 + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert await elements(file) == ["a", "b"]
    await push(file, "c")
    assert await elements(file) == ["a", "b", "c"]


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


async def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "store", tmp_path / "folder"):
        with pytest.raises(ValueError, match=r"--store: .* cannot be used: .*Give the service"):
            EmbeddedStore(str(path))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
async def test_a_damaged_snapshot_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "store"
    await push(file, "a")
    async with opened(file) as store:
        await store.compact()
    whole = file.read_bytes()
    content = {
        "cut": whole[:-5],
        "flip": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],
        "empty": b"",
        "foreign": b"hello\n",
    }[damage]
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a store"):
        EmbeddedStore(str(file))
    assert file.read_bytes() == content
