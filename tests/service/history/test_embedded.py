import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from appending import append
from stored import items_of

from service.history.store import HistoryStore

pytestmark = pytest.mark.anyio


async def test_the_embedded_store_persists(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'deep' / 'histories'}"
    store = HistoryStore.open(url)
    await asyncio.gather(*(append(store, [(f"u{i}", str(i))]) for i in range(20)))
    await store.close()
    store = HistoryStore.open(url)
    assert await items_of(store, [f"u{i}" for i in range(20)]) == [[str(i)] for i in range(20)]
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
    (history,) = await items_of(store, ["ann"])
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
