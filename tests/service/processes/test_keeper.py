"""How children are kept and engines watched, with stand-ins for processes."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.observability.service_status import STATUS_BYTES
from service.processes import engine_keeper
from service.processes.child import EngineConfig, Report, TakeOver
from service.processes.engine_keeper import LOOKS, SUSPICIOUS_LOOKS, EngineKeeper
from service.processes.keeper import Keeper, pause_seconds
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio


class Process:
    """Stands in for a `Child`."""

    def __init__(self, failure: str = "", hangs: bool = False) -> None:
        self._failure = failure
        self._hangs = hangs
        self._gone = asyncio.Event()
        self.signals: list[str] = []
        self.told: list[object] = []
        self.config: EngineConfig | None = None

    async def report(self) -> Report:
        if self._hangs:
            await self._gone.wait()
        if self._failure:
            raise ChildProcessError(self._failure)
        return Report(bundle=Path("bundle"))

    async def ended(self) -> int:
        await self._gone.wait()
        return 7

    @property
    def has_ended(self) -> bool:
        return self._gone.is_set()

    def tell(self, message: object) -> None:
        self.told.append(message)

    async def end(self) -> None:
        self._gone.set()

    def terminate(self) -> None:
        self.signals.append("TERM")
        self._gone.set()

    def kill(self) -> None:
        self.signals.append("KILL")
        self._gone.set()


class Starter:
    """Stands in for an `EngineStarter`."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.hangs = False  # whether processes never load

    async def start(self, config: EngineConfig) -> Process:
        self.started.append(Process(hangs=self.hangs))
        self.started[-1].config = config
        return self.started[-1]


class Kept:
    """A keeper whose children the test hands out."""

    def __init__(self, *children: Process | OSError) -> None:
        """An error is raised in place of a child."""
        self.started: list[Process] = []
        self._children = list(children)
        self.keeper = Keeper("a child", self._start, self._watch)  # type: ignore[arg-type]
        self.running = asyncio.create_task(self.keeper.keep())

    async def _start(self) -> Process:
        child = self._children.pop(0)
        if isinstance(child, OSError):
            raise child
        self.started.append(child)
        return child

    async def _watch(self, child: Process, report: Report) -> str:
        return f"it ended with status {await child.ended()}"

    async def until_started(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.started) < count and not self.running.done():
                await asyncio.sleep(0.001)


async def test_a_child_that_ends_is_started_again_until_it_drains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept(first := Process(), second := Process())
    await kept.until_started(1)
    first.kill()
    await kept.until_started(2)
    kept.keeper.drain()
    await kept.running
    assert second.signals == ["TERM"]
    assert "a child is started again: it ended with status 7" in caplog.text


async def test_the_first_start_must_succeed() -> None:
    kept = Kept(Process(failure="no such bundle"))
    with pytest.raises(ChildProcessError, match="no such bundle"):
        await kept.running


@pytest.mark.parametrize(
    ("failing", "started"),
    [(Process(failure="disk full"), 3), (OSError("too many processes"), 2)],
)
async def test_a_later_start_that_fails_is_tried_again(
    failing: Process | OSError, started: int
) -> None:
    kept = Kept(first := Process(), failing, Process())
    await kept.until_started(1)
    first.kill()
    await kept.until_started(started)
    assert not kept.running.done()
    kept.keeper.drain()
    await kept.running


async def test_without_room_for_a_process_there_is_no_standby(
    engine: EngineKeeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(config: EngineConfig) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(engine._starter, "start", refuse)
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    engine.has_standby = True
    await engine._prepare_for(0)
    assert caplog.text.count("no engine is put on standby: too many processes") == 2


async def test_a_start_that_fails_while_all_drain_is_no_failure() -> None:
    kept = Kept(Process(failure="ended by SIGTERM"))
    kept.keeper.drain()
    await kept.running


def test_pauses_grow_up_to_a_bound() -> None:
    assert [pause_seconds(failures) for failures in (1, 2, 3, 11, 12, 1000)] == [
        *(0, 1, 2),
        *(10, 10, 10),
    ]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EngineKeeper]:
    settings = ServeSettings(artifacts=tmp_path, store="", engine_patience_ms=1000)
    with tempfile.TemporaryFile() as status:
        os.truncate(status.fileno(), STATUS_BYTES)
        files = tmp_path / "0", status.fileno()
        engine = EngineKeeper(settings, Starter(), tmp_path, *files, 0)  # type: ignore[arg-type]
        yield engine
        await engine.end()


async def test_an_engine_whose_heartbeat_stops_is_killed(engine: EngineKeeper) -> None:
    process, status = Process(), engine._status

    async def beating() -> None:
        for _ in range(50):
            status.beat()
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(
        engine._watch(process, Report(bundle=Path("bundle")))  # type: ignore[arg-type]
    )
    await beating()
    assert not process.signals
    assert "hung for 1 s" in await watching
    assert process.signals == ["KILL"]


async def test_the_end_of_an_engine_is_seen_at_once(engine: EngineKeeper) -> None:
    process = Process()
    watching = asyncio.create_task(
        engine._watch(process, Report(bundle=Path("bundle")))  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    process._gone.set()
    assert await watching == "it ended with status 7"
    assert process.signals == []


def started(engine: EngineKeeper) -> list[Process]:
    return engine._starter.started  # type: ignore[attr-defined,no-any-return]


async def test_another_engine_loads_as_soon_as_one_seems_to_hang(engine: EngineKeeper) -> None:
    """It takes over once it has loaded, when the other has been killed."""
    for looks in range(SUSPICIOUS_LOOKS):
        await engine._prepare_for(looks)
        assert not started(engine)
    for looks in range(SUSPICIOUS_LOOKS, LOOKS):
        await engine._prepare_for(looks)
    (successor,) = started(engine)
    assert successor.config
    assert (successor.config.standby, successor.config.beside_another) == (True, False)
    assert await engine._start() is successor  # type: ignore[comparison-overlap]
    assert successor.told == [TakeOver()]
    assert successor.signals == []


async def test_an_engine_that_goes_on_is_not_replaced(engine: EngineKeeper) -> None:
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    await engine._prepare_for(0)
    (successor,) = started(engine)
    assert successor.signals == ["KILL"]
    assert await engine._start() is not successor  # type: ignore[comparison-overlap]


async def test_without_memory_for_two_the_next_engine_loads_after_the_end_of_the_first(
    engine: EngineKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keeper, "memory_problem", lambda bundle: "too little")
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    assert not started(engine)


async def test_an_engine_that_ends_needs_no_successor(engine: EngineKeeper) -> None:
    """It does not beat any more, and may take its time."""
    engine.keeper.drain()
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    assert not started(engine)


async def test_an_engine_that_is_only_slow_is_not_disturbed_again_and_again(
    engine: EngineKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await engine._prepare_for(SUSPICIOUS_LOOKS)
        await engine._prepare_for(0)
    assert len(started(engine)) == 1
    monkeypatch.setattr(engine_keeper, "STANDBY_PAUSE_SECONDS", 0)
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    assert len(started(engine)) == 2


async def test_a_successor_that_never_loads_is_given_up(
    engine: EngineKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keeper, "LATE_SECONDS", 0.01)
    engine._starter.hangs = True  # type: ignore[attr-defined]
    await engine._prepare_for(SUSPICIOUS_LOOKS)
    async with asyncio.timeout(30):
        successor = await engine._start()
    late, another = started(engine)
    assert late.signals == ["KILL"]
    assert successor is another  # type: ignore[comparison-overlap]
    assert another.config
    assert not another.config.standby


async def test_an_engine_that_took_over_does_not_shorten_the_time_of_a_load(
    engine: EngineKeeper,
) -> None:
    """`/healthz` waits for this time longer before it says that no engine will come."""
    engine._started = time.monotonic() - 60
    for _ in range(2):
        process = Process()
        process.kill()
        await engine._watch(process, Report(bundle=Path("bundle")))  # type: ignore[arg-type]
        assert 60 <= engine._status.load_seconds < 90
        await engine._start()
