"""The log of experiments in a real Redis and in the embedded store, and its export."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import polars as pl
import pytest
from redis_server import RedisServer

from service.experiments import export
from service.experiments.assignment import Assignment
from service.experiments.config import Arm
from service.experiments.export import export_log, parts
from service.experiments.log import EXPOSURES, MAX_WAITING, ExperimentLog
from service.history.events import HistoryEvent
from service.history.health import Health
from service.history.store import Command, HistoryStore, StoreUnavailable

pytestmark = pytest.mark.anyio

ARMS = [Assignment("e", "a", Arm())]


@pytest.fixture(params=["redis", "embedded"])
async def store(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[HistoryStore]:
    url = redis_server.url if request.param == "redis" else f"embedded:{tmp_path / 'store'}"
    store = HistoryStore.open(url, timeout_ms=10_000)
    if request.param == "redis":
        await store._client.flushall()
    yield store
    await store.close()


class Losses(dict[str, int]):
    def __call__(self, stream: str, count: int) -> None:
        self[stream] = self.get(stream, 0) + count


def expose(log: ExperimentLog, *requests: str) -> None:
    for request in requests:
        log.expose(ARMS, "ann", request, "v1", degraded=False)


def exported(out: Path, stream: str, column: str) -> list[object]:
    return [value for part in parts(out / stream) for value in pl.read_parquet(part)[column]]


async def test_an_export_goes_on_behind_the_last_part(store: HistoryStore, tmp_path: Path) -> None:
    log, out = ExperimentLog(store, Losses()), tmp_path / "out"
    expose(log, "r1", "r2")
    await log.flush()
    assert await export_log(store, out) == {"exposures": 2, "events": 0}
    assert await export_log(store, out) == {"exposures": 0, "events": 0}
    expose(log, "r3")
    await log.flush()
    assert await export_log(store, out) == {"exposures": 1, "events": 0}
    assert exported(out, EXPOSURES, "request_id") == ["r1", "r2", "r3"]
    assert exported(out, EXPOSURES, "degraded") == [False] * 3


async def test_exports_at_the_same_time_write_each_entry_once(
    store: HistoryStore, tmp_path: Path
) -> None:
    log, out = ExperimentLog(store, Losses()), tmp_path / "out"
    requests = [f"r{number}" for number in range(50)]
    expose(log, *requests)
    await log.flush()
    counts = await asyncio.gather(*(export_log(store, out) for _ in range(3)))
    assert sorted(one["exposures"] for one in counts) == [0, 0, 50]
    assert exported(out, EXPOSURES, "request_id") == requests


async def test_entries_that_were_dropped_before_an_export_are_told(
    store: HistoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, out = ExperimentLog(store, Losses()), tmp_path / "out"
    expose(log, "r1", "r2")
    await log.flush()
    await export_log(store, out)
    expose(log, "r3")
    await log.flush()
    await store._client.xtrim(EXPOSURES, maxlen=2, approximate=False)
    await export_log(store, out)
    assert "missing" not in caplog.text  # nothing is: r2 was exported
    expose(log, "r4", "r5", "r6")
    await log.flush()
    await store._client.xtrim(EXPOSURES, maxlen=2, approximate=False)
    await export_log(store, out)
    assert exported(out, EXPOSURES, "request_id") == ["r1", "r2", "r3", "r5", "r6"]
    assert "exposures: entries between" in caplog.text


async def test_a_part_that_a_crash_cut_short_is_written_again(
    store: HistoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = ExperimentLog(store, Losses()), tmp_path / "out"
    monkeypatch.setattr(export, "MAX_PART", 2)
    monkeypatch.setattr(export, "CHUNK", 1)
    expose(log, *(f"r{number}" for number in range(5)))
    await log.flush()
    write, written = pl.DataFrame.write_parquet, []

    def crash_in_the_second(frame: pl.DataFrame, file: Path) -> None:
        write(frame, file)
        written.append(file)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", crash_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            await export_log(store, out)
    assert exported(out, EXPOSURES, "request_id") == ["r0", "r1"]
    await export_log(store, out)
    assert exported(out, EXPOSURES, "request_id") == [f"r{number}" for number in range(5)]


async def test_values_come_back_as_they_were(store: HistoryStore, tmp_path: Path) -> None:
    log, out = ExperimentLog(store, Losses()), tmp_path / "out"
    odd = 'ü "\n\t\0'
    await log.write_events(
        [
            HistoryEvent(odd, odd, "watch", 1_780_000_000.25, odd, value=0.1),
            HistoryEvent("bob", "i1"),
        ]
    )
    await export_log(store, out)
    (first, second) = pl.read_parquet(parts(out / "events")[0]).to_dicts()
    assert (first["user_id"], first["item_id"], first["request_id"]) == (odd, odd, odd)
    assert first["at"].timestamp() == 1_780_000_000.25
    assert first["value"] == 0.1
    assert first["id"]
    assert (second["id"], second["request_id"], second["value"]) == (None, None, None)


async def test_a_stream_of_another_type_loses_entries_and_counts_them(store: HistoryStore) -> None:
    losses = Losses()
    log = ExperimentLog(store, losses)
    await store._client.lpush(EXPOSURES, "x")
    expose(log, "r1", "r2")
    await log.flush()
    assert losses == {EXPOSURES: 2}


async def test_without_a_store_exposures_are_dropped_and_counted(tmp_path: Path) -> None:
    store, losses = HistoryStore.open("redis://127.0.0.1:1", timeout_ms=100), Losses()
    log = ExperimentLog(store, losses)
    expose(log, *["r"] * (MAX_WAITING + 5))
    assert losses == {EXPOSURES: 5}
    with pytest.raises(StoreUnavailable):
        await log.flush()
    assert losses[EXPOSURES] > 5
    await store.close()


class SlowStore:
    """A store that takes entries when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.requests: list[str] = []

    async def run(self, commands: Sequence[Command], health: Health) -> list[bytes]:
        self.asked.set()
        await self.answers.wait()
        self.requests += [arguments[1]["request"] for _, arguments, _ in commands]
        return [b"1-0"] * len(commands)


async def test_the_end_loses_no_exposure_that_is_being_written() -> None:
    store, losses = SlowStore(), Losses()
    log = ExperimentLog(cast(HistoryStore, store), losses)
    expose(log, "r1", "r2")
    following = asyncio.create_task(log.follow())
    await store.asked.wait()
    expose(log, "r3")
    following.cancel()
    await asyncio.wait([following])
    ending = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    store.answers.set()
    await ending
    assert store.requests == ["r1", "r2", "r3"]
    assert not losses


async def test_the_end_counts_exposures_that_the_store_refuses() -> None:
    store, losses = HistoryStore.open("redis://127.0.0.1:1", timeout_ms=100), Losses()
    log = ExperimentLog(store, losses)
    expose(log, *["r"] * MAX_WAITING)
    await log.close()
    assert losses == {EXPOSURES: MAX_WAITING}
    await store.close()
