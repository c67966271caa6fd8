"""The engine of one version: started, watched, and replaced if it ends or hangs."""

import asyncio
import logging
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.observability.service_status import ServiceStatus
from service.processes.child import Child, EngineAddress, EngineConfig, Report, TakeOver
from service.processes.engine_starter import EngineStarter
from service.processes.keeper import Keeper
from service.processes.memory import memory_problem
from service.settings import ServeSettings

log = logging.getLogger(__name__)

LOOKS = 8
"""Looks at the heartbeat within the time in which an engine must beat."""
SUSPICIOUS_LOOKS = 3
"""Looks without a heartbeat after which another engine loads, to be ready if this one hangs."""
STANDBY_PAUSE_SECONDS = 10.0
"""Time after the start of an engine before another is put on standby; and time after one that
loaded in a hurry was not needed, before another does."""
LATE_SECONDS, LATE_LOADS = 10.0, 2
"""Bound on the wait for an engine that loads in a hurry: seconds, and multiples of the time of a
load."""


@dataclass(frozen=True, slots=True)
class Standby:
    """An engine that loads, or has loaded, and waits until it is told to take over."""

    engine: Child
    loading: asyncio.Task[Report]
    hurried: bool
    """Whether it loads as fast as it can, because the engine that answers seems to hang."""

    @property
    def has_loaded(self) -> bool:
        """Whether it can take over at once."""
        return self.loading.done() and not self.loading.exception() and not self.engine.has_ended


class EngineKeeper:
    """Keeps an engine of one version running on a socket of its own.

    The socket outlives the engine: front ends that connect while the engine is replaced wait for
    the next one.
    """

    def __init__(
        self,
        settings: ServeSettings,
        starter: EngineStarter,
        bundle: Path,
        folder: Path,
        status_file: int,
        lane: int,
    ) -> None:
        """Serves the bundle, or the served version of the store, on a socket in a new folder.

        Raises ValueError if the path of the folder is too long for a socket.
        """
        self._settings = settings
        self._starter = starter
        self._status_file = status_file
        self._status = ServiceStatus(status_file, lane)
        self._status.clear_engine()
        self._lane = lane
        self._folder = folder
        self._listener = _listen(folder)
        self._started = 0.0
        self._standby: Standby | None = None
        self._standby_started = 0.0
        self._false_alarm = float("-inf")  # time of the last one
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
        if standby:
            standby.loading.cancel()
            await standby.engine.end()

    async def _start(self) -> Child:
        if self._started:
            self._status.count_restart()
        self._started = time.monotonic()
        if self._standby and self._standby.hurried:
            seconds = LATE_SECONDS + LATE_LOADS * self._status.load_seconds
            await asyncio.wait([self._standby.loading], timeout=seconds)
        standby, self._standby = self._standby, None
        if standby and standby.has_loaded:
            standby.engine.tell(TakeOver())
            return standby.engine
        if standby:
            standby.engine.kill()  # it loads with a low priority or not at all: a new one is faster
        return await self._launch()

    async def _launch(self, standby: bool = False, hurried: bool = False) -> Child:
        is_other_version = self._status.started and not self.keeper.ready.is_set()
        config = EngineConfig(
            settings=self._settings,
            artifacts=self.bundle if self.bundle.exists() else self._settings.artifacts,
            listener=self._listener.fileno(),
            status=self._status_file,
            lane=self._lane,
            beside_another=is_other_version or (standby and not hurried),
            standby=standby,
        )
        return await self._starter.start(config)

    async def _keep_standby(self) -> None:
        """Puts an engine on standby if there is to be one, some time after the last start."""
        now = time.monotonic()
        if now - max(self._started, self._standby_started) > STANDBY_PAUSE_SECONDS:
            self._standby_started = now
            await self._put_on_standby()
            if not self.has_standby:  # meanwhile
                await self.drop_standby()

    async def _put_on_standby(self, hurried: bool = False) -> None:
        try:
            engine = await self._launch(standby=True, hurried=hurried)
        except OSError as error:  # the system has no room for a process, and one answers anyway
            log.warning("no engine is put on standby: %s", error)
            return
        loading = asyncio.create_task(engine.report())
        loading.add_done_callback(_forget_failure)
        self._standby = Standby(engine, loading, hurried)

    async def _prepare_for(self, looks: int) -> None:
        """Keeps the engine on standby that there is to be, after looks without a heartbeat.

        The beginning of a hang is time in which another engine can load. If there was none, that
        one is ended again, and for some time no other one disturbs an engine that is only slow. An
        engine that is told to end does not beat either, and needs none.
        """
        if self.keeper.is_draining:
            return
        now = time.monotonic()
        standby = self._standby if self._standby and not self._standby.engine.has_ended else None
        if standby and standby.hurried and not looks and not self.has_standby:
            standby.engine.kill()
            self._standby, self._false_alarm = None, now
        elif (
            not standby
            and looks == SUSPICIOUS_LOOKS
            and now - self._false_alarm > STANDBY_PAUSE_SECONDS
            and not _memory_problem(self.bundle)
        ):
            log.warning("the engine seems to hang: another one loads, to take over if it does")
            await self._put_on_standby(hurried=True)
        elif not standby and self.has_standby:
            await self._keep_standby()

    async def _watch(self, engine: Child, report: Report) -> str:
        """Waits until the engine ends, or kills it if its loop has not turned for the patience.

        Looks at which the heartbeat had not moved are counted, rather than seconds, because the
        clock goes on while a machine or container is paused, in which nobody looks either.
        """
        assert report.bundle
        self.bundle = report.bundle  # an engine that replaces it serves the same version
        # One that was on standby answers at once, which says nothing of the load of the next one.
        seconds = time.monotonic() - self._started
        self._status.set_load_seconds(max(seconds, self._status.load_seconds))
        patience_seconds = self._settings.engine_patience_ms / 1000
        looks, seen = 0, 0.0
        while looks < LOOKS:
            try:
                status = await asyncio.wait_for(engine.ended(), patience_seconds / LOOKS)
                return f"it ended with status {status}"
            except TimeoutError:
                beat = self._status.last_beat
                looks, seen = (looks + 1 if beat == seen else 0), beat
                await self._prepare_for(looks)
        engine.kill()
        await engine.ended()
        return f"it hung for {patience_seconds:g} s and was killed"


def _forget_failure(loading: asyncio.Task[Report]) -> None:
    """Lets an engine on standby fail: its log says why, and another is started later."""
    if not loading.cancelled():
        loading.exception()


def _memory_problem(bundle: Path) -> str:
    """Returns why there is no room for another engine; empty if there is, or nobody knows."""
    with suppress(OSError):
        return memory_problem(bundle)
    return ""


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
