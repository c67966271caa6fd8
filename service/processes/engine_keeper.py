"""The engine of one version: started, watched, and replaced if it ends or hangs."""

import asyncio
import shutil
import socket
import time
from pathlib import Path

from service.observability.service_status import ServiceStatus
from service.processes.child import Child, EngineAddress, EngineConfig, Report, TakeOver
from service.processes.keeper import Keeper
from service.settings import ServeSettings

ENGINE = "service.processes.engine_process"

LOOKS = 8
"""Looks at the heartbeat within the time in which an engine must beat."""
STANDBY_PAUSE_SECONDS = 10.0
"""Time after the start of an engine before another is put on standby."""


class EngineKeeper:
    """Keeps an engine of one version running on a socket of its own.

    The socket outlives the engine: front ends that connect while the engine is replaced wait for
    the next one.
    """

    def __init__(
        self, settings: ServeSettings, bundle: Path, folder: Path, status_file: int, lane: int
    ) -> None:
        """Serves the bundle, or the served version of the store, on a socket in a new folder.

        Raises ValueError if the path of the folder is too long for a socket.
        """
        self._settings = settings
        self._status_file = status_file
        self._status = ServiceStatus(status_file, lane)
        self._status.clear_engine()
        self._lane = lane
        self._folder = folder
        self._listener = _listen(folder)
        self._started = 0.0
        self._standby: Child | None = None
        self._standby_loading: asyncio.Task[Report] | None = None
        self._standby_started = 0.0
        self.has_standby = False
        """Whether another engine of this version is kept on standby."""
        self.bundle = bundle
        """The bundle, or until the first engine has loaded it the store that it is looked up in."""
        self.address = EngineAddress(path=self._listener.getsockname(), lane=lane)
        self.keeper = Keeper("the engine", self._start, self._watch)

    async def end(self) -> None:
        """Ends the engine, closes its socket, and removes the folder."""
        self.keeper.drain()
        await self.keeper.end()
        await self.drop_standby()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def drop_standby(self) -> None:
        """Ends the engine on standby, and starts no other one."""
        self.has_standby = False
        standby, self._standby = self._standby, None
        if standby and self._standby_loading:
            self._standby_loading.cancel()
            await standby.end()

    async def _start(self) -> Child:
        if self._started:
            self._status.count_restart()
        self._started = time.monotonic()
        standby, self._standby = self._standby, None
        if not standby or not self._standby_loading:
            return await self._launch()
        if self._standby_loading.done() and not standby.has_ended:
            standby.tell(TakeOver())
            return standby
        standby.kill()  # it loads with a low priority, so that a new one is faster
        return await self._launch()

    async def _launch(self, standby: bool = False) -> Child:
        config = EngineConfig(
            settings=self._settings,
            artifacts=self.bundle if self.bundle.exists() else self._settings.artifacts,
            listener=self._listener.fileno(),
            status=self._status_file,
            lane=self._lane,
            beside_another=standby or (self._status.started and not self.keeper.ready.is_set()),
            standby=standby,
        )
        return await Child.start(ENGINE, config, (config.listener, config.status))

    async def _keep_standby(self) -> None:
        """Puts an engine on standby if there is to be one, some time after the last start."""
        if not self.has_standby or (self._standby and not self._standby.has_ended):
            return
        now = time.monotonic()
        if now - max(self._started, self._standby_started) > STANDBY_PAUSE_SECONDS:
            self._standby_started = now
            standby = await self._launch(standby=True)
            if not self.has_standby:  # meanwhile
                standby.kill()
                return
            self._standby = standby
            self._standby_loading = asyncio.create_task(self._standby.report())
            self._standby_loading.add_done_callback(_forget_failure)

    async def _watch(self, engine: Child, report: Report) -> str:
        """Waits until the engine ends, or kills it if its loop has not turned for the patience.

        Looks at which the heartbeat had not moved are counted, rather than seconds, because the
        clock goes on while a machine or container is paused, in which nobody looks either.
        """
        assert report.bundle
        self.bundle = report.bundle  # an engine that replaces it serves the same version
        self._status.set_load_seconds(time.monotonic() - self._started)
        patience_seconds = self._settings.engine_patience_ms / 1000
        looks, seen = 0, 0.0
        while looks < LOOKS:
            try:
                status = await asyncio.wait_for(engine.ended(), patience_seconds / LOOKS)
                return f"it ended with status {status}"
            except TimeoutError:
                beat = self._status.last_beat
                looks, seen = (looks + 1 if beat == seen else 0), beat
                await self._keep_standby()
        engine.kill()
        await engine.ended()
        return f"it hung for {patience_seconds:g} s and was killed"


def _forget_failure(loading: asyncio.Task[Report]) -> None:
    """Lets an engine on standby fail: its log says why, and another is started later."""
    if not loading.cancelled():
        loading.exception()


def _listen(folder: Path) -> socket.socket:
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"{folder}/engine")
    except OSError as error:
        listener.close()
        raise ValueError(f"no socket in {folder} ({error}): set TMPDIR to a short path") from error
    listener.listen()
    return listener
