"""A front end whose event loop hangs is ended, as one that has ended is replaced."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

from service.observability.service_status import STATUS_BYTES, ServiceStatus
from service.processes import front_ends
from service.processes.child import Child, EngineAddress, FrontEndConfig, Report, Serving
from service.processes.front_ends import FrontEnds
from service.settings import ServeSettings

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 0.4


class Process:
    """Stands in for a `Child` that never reports again."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.signals: list[str] = []

    async def next_report(self) -> None:
        await self.gone.wait()

    async def ended(self) -> int:
        await self.gone.wait()
        return 7

    def kill(self) -> None:
        self.signals.append("KILL")
        self.gone.set()


class Starting(Process):
    """Stands in for a `Child` that is told what changes while it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[BaseModel] = []

    def tell(self, message: BaseModel) -> None:
        self.told.append(message)


async def test_a_change_during_the_start_of_a_front_end_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper does not know the new process yet, and cannot tell it."""
    settings = ServeSettings(artifacts=tmp_path, store="")
    old, new = (Serving(engine=EngineAddress(path=version)) for version in ("old", "new"))
    child = Starting()

    async def start(module: str, config: FrontEndConfig, files: Sequence[int]) -> Starting:
        assert config.serving == old
        kept.tell(new)
        return child

    monkeypatch.setattr(Child, "start", start)
    with tempfile.TemporaryFile() as status, socket.socket() as listener:
        os.truncate(status.fileno(), STATUS_BYTES)
        kept = FrontEnds(settings, [listener], [], status.fileno(), 0)
        kept.tell(old)
        await kept._start(0)
    assert child.told == [new]


@pytest.fixture
async def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Process, ServiceStatus, "asyncio.Task[str]"]]:
    """The second of two front ends, its heartbeat, and the task that watches it."""
    monkeypatch.setattr(front_ends, "PATIENCE_SECONDS", PATIENCE_SECONDS)
    settings = ServeSettings(artifacts=tmp_path, store="")
    with tempfile.TemporaryFile() as status, socket.socket() as listener:
        os.truncate(status.fileno(), STATUS_BYTES)
        kept = FrontEnds(settings, [listener] * 2, [], status.fileno(), 0)
        process = Process()
        watching = asyncio.create_task(kept._watch(1, process, Report()))  # type: ignore[arg-type]
        yield process, ServiceStatus(status.fileno()), watching
        watching.cancel()


Watched = tuple[Process, ServiceStatus, "asyncio.Task[str]"]


async def test_a_front_end_that_hangs_is_killed(watched: Watched) -> None:
    process, status, watching = watched
    for _ in range(40):
        status.beat_front_end(1)
        await asyncio.sleep(PATIENCE_SECONDS / 20)
    assert not process.signals
    while not watching.done():
        status.beat_front_end(0)  # of another one
        await asyncio.sleep(PATIENCE_SECONDS / 20)
    assert "it hung for 0.4 s and was killed" in watching.result()
    assert process.signals == ["KILL"]


async def test_the_end_of_a_front_end_is_told_with_its_status(watched: Watched) -> None:
    process, _, watching = watched
    await asyncio.sleep(0)
    process.gone.set()
    assert await watching == "it ended with status 7"
    assert not process.signals
