"""Engines are forked from a process that has their libraries, or start by themselves."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from service.observability.service_status import STATUS_BYTES
from service.processes import engine_starter
from service.processes.child import Child, EngineConfig, TakeOver
from service.processes.engine_starter import EngineStarter, can_fork
from service.processes.forked import UNKNOWN_STATUS, ForkedProcess
from service.settings import ServeSettings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not can_fork("cpu"), reason="engines are not forked on this system"),
]


TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture
async def starter(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineStarter]:
    """A starter of engines that end at once, and say which files they have."""
    monkeypatch.setattr(engine_starter, "ENGINE", "light_engine")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    starter = EngineStarter("cpu")
    yield starter
    await starter.end()


async def start(starter: EngineStarter, artifacts: Path, standby: bool = False) -> Child:
    settings = ServeSettings(artifacts=artifacts, store="")
    with tempfile.TemporaryFile() as status, (artifacts / "listener").open("wb") as listener:
        os.truncate(status.fileno(), STATUS_BYTES)
        files = {"listener": listener.fileno(), "status": status.fileno()}
        config = EngineConfig(settings=settings, artifacts=artifacts, standby=standby, **files)
        return await starter.start(config)


def has_its_files() -> AbstractContextManager[Any]:
    return pytest.raises(ChildProcessError, match=f"listener and {STATUS_BYTES} bytes")


def preloader(starter: EngineStarter) -> psutil.Process:
    assert starter._preloader
    return psutil.Process(starter._preloader.pid)


def zombies() -> set[int]:
    """Orphans of other tests may be among them."""
    children = psutil.Process().children(recursive=True)
    return {one.pid for one in children if one.status() == psutil.STATUS_ZOMBIE}


async def test_a_forked_engine_reports_and_ends_as_any_child(
    starter: EngineStarter, tmp_path: Path
) -> None:
    before = zombies()
    for _ in range(2):
        engine = await start(starter, tmp_path)
        with has_its_files():
            await engine.report()
        assert await engine.ended() == 1
    assert preloader(starter).is_running()
    assert zombies() <= before


async def test_a_signal_is_told_from_a_status(starter: EngineStarter, tmp_path: Path) -> None:
    engine = await start(starter, tmp_path, standby=True)
    engine.kill()
    assert await engine.ended() == -signal.SIGKILL
    engine = await start(starter, tmp_path, standby=True)
    engine.tell(TakeOver())
    assert await engine.ended() == 3


async def test_a_process_of_another_parent_may_have_ended_already() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        process = ForkedProcess(int(parent.stdout.readline()), *unused())
        process.kill()
    process.terminate()
    assert await process.wait() == UNKNOWN_STATUS


async def test_a_process_that_is_killed_before_it_reads_has_failed() -> None:
    ours, theirs = socket.socketpair()
    sleeping = subprocess.Popen(["sleep", "60"])
    with theirs:
        child = Child.begin("a module", await ForkedProcess.at(sleeping.pid, ours), TakeOver())
        assert select.select([theirs], [], [], 30)[0]
    child.kill()
    with pytest.raises(ChildProcessError, match="a module ended with status -9"):
        await child.report()
    sleeping.wait()


def unused() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return cast(tuple[asyncio.StreamReader, asyncio.StreamWriter], (None, None))


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
async def test_without_the_preloader_an_engine_starts_by_itself(
    starter: EngineStarter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: signal.Signals,
) -> None:
    """The next one is forked from another preloader."""
    await (await start(starter, tmp_path)).ended()
    first = preloader(starter)
    first.send_signal(harm)
    monkeypatch.setattr(engine_starter, "FORK_SECONDS", 0.5)
    engine = await start(starter, tmp_path)
    with has_its_files():
        await engine.report()
    assert await engine.ended() == 1
    assert "an engine starts by itself" in caplog.text
    assert not first.is_running()
    caplog.clear()
    await (await start(starter, tmp_path)).ended()
    assert "an engine starts by itself" not in caplog.text
    assert preloader(starter).pid != first.pid


async def test_an_engine_does_not_wait_for_the_imports_of_another_preloader(
    starter: EngineStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor would wait, too, and would not kill an engine that hangs."""
    await (await start(starter, tmp_path)).ended()
    begin = starter._begin

    async def begin_and_stop() -> None:
        await begin()
        preloader(starter).send_signal(signal.SIGSTOP)

    monkeypatch.setattr(starter, "_begin", begin_and_stop)
    monkeypatch.setattr(engine_starter, "FORK_SECONDS", 600)
    monkeypatch.setattr(engine_starter, "IMPORT_SECONDS", 600)
    assert starter._preloader
    starter._preloader.kill()
    await starter._preloader.wait()
    async with asyncio.timeout(120):
        engine = await start(starter, tmp_path)
    with has_its_files():
        await engine.report()
    assert await engine.ended() == 1


def test_where_a_gpu_may_be_used_nothing_is_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not can_fork("cuda:1")
    monkeypatch.setattr(engine_starter, "GPU_DRIVER", tmp_path / "none")
    assert can_fork("auto")
    monkeypatch.setattr(engine_starter, "GPU_DRIVER", tmp_path)
    assert not can_fork("auto")
    assert can_fork("cpu")
