"""The engines that run at the same time, each of a version of its own."""

import asyncio
import logging
from asyncio import FIRST_COMPLETED
from collections.abc import Collection
from pathlib import Path

from service.observability.service_status import LANES
from service.processes.engine_keeper import EngineKeeper
from service.processes.engine_starter import EngineStarter
from service.processes.memory import memory_problem
from service.settings import ServeSettings

log = logging.getLogger(__name__)

START_SECONDS = 900.0
"""Longest time in which an engine of another version must be able to answer."""


class VersionUnusable(Exception):
    """A version for which no engine can be started; the message says why."""


class EnginePool:
    """Starts engines beside each other, and ends them."""

    def __init__(self, settings: ServeSettings, folder: Path, status_file: int) -> None:
        """Makes the sockets of engines in a folder of the service's own."""
        self._settings = settings
        self._starter = EngineStarter(settings.device)
        self._folder = folder
        self._status_file = status_file
        self._made = 0
        self._engines: list[EngineKeeper] = []
        self._keeping: dict[EngineKeeper, asyncio.Task[None]] = {}

    def new(self, bundle: Path) -> EngineKeeper:
        """Returns an engine that does not run yet, in a lane that no other engine uses."""
        self._made += 1
        used = {engine.address.lane for engine in self._engines}
        lane = min(set(range(LANES)) - used)
        folder = self._folder / str(self._made)
        engine = EngineKeeper(
            self._settings, self._starter, bundle, folder, self._status_file, lane
        )
        self._engines.append(engine)
        return engine

    def begin(self, engine: EngineKeeper) -> None:
        """Has an engine run from now on."""
        self._keeping[engine] = asyncio.create_task(engine.keeper.keep())

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """The tasks that keep the engines; one that is done has failed."""
        return self._keeping.values()

    def find(self, version: str) -> EngineKeeper | None:
        """Returns the engine of a version, if there is one."""
        return next((one for one in self._engines if one.bundle.name == version), None)

    def check(self, bundle: Path) -> None:
        """Raises VersionUnusable if there is no room for an engine of this bundle."""
        try:
            problem = memory_problem(bundle)
        except OSError as error:
            problem = str(error)
        if not problem and len(self._engines) == LANES:
            problem = f"{LANES} versions are loaded, and no more can be"
        if problem:
            raise VersionUnusable(problem)

    async def load(self, bundle: Path) -> EngineKeeper:
        """Returns an engine that has loaded a bundle. Raises VersionUnusable if none can."""
        self.check(bundle)
        log.info("another version is being loaded", extra={"version": bundle.name})
        engine = self.new(bundle)
        self.begin(engine)
        if problem := await self._start_problem(engine):
            await self.end(engine)
            raise VersionUnusable(problem)
        return engine

    async def end(self, engine: EngineKeeper) -> None:
        """Ends an engine, and gives its memory back to the system."""
        await engine.end()
        self._engines.remove(engine)
        if keeping := self._keeping.pop(engine, None):
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def end_all(self) -> None:
        """Ends all engines, and the process that starts them."""
        await self.end_others(())
        await self._starter.end()

    async def end_others(self, needed: Collection[EngineKeeper]) -> None:
        """Ends all engines but these."""
        await asyncio.gather(*(self.end(one) for one in self._engines if one not in needed))

    async def _start_problem(self, engine: EngineKeeper) -> str:
        """Waits until an engine can answer; returns why it never will, or nothing."""
        keeping = self._keeping[engine]
        ready = asyncio.create_task(engine.keeper.ready.wait())
        try:
            await asyncio.wait([keeping, ready], timeout=START_SECONDS, return_when=FIRST_COMPLETED)
            if ready.done():
                return ""
        finally:
            ready.cancel()
        if keeping.done():
            return str(keeping.exception())
        return f"its engine was not ready within {START_SECONDS:g} s"
