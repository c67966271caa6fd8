"""The served version and those of experiments' arms, and their change without a restart.

    `current` moves ─► an engine of the new version loads and warms up, beside the old one
                    ─► every front end asks the new one, and waits for what it asked the old one
                    ─► the old engine ends, and gives its memory back to the system

A version that cannot be loaded, or for which memory does not suffice, changes nothing: the old one
goes on, and the reason stands in the log, in `GET /versions` and in a metric. An engine that an arm
of an experiment needs, too, is not loaded twice, and goes on after such a change.
"""

import asyncio
import logging
import time
from asyncio import FIRST_COMPLETED
from contextlib import suppress
from pathlib import Path

from model.artifact.manifest import ArtifactError
from model.artifact.versions import find_bundle
from service.observability.service_status import ServiceStatus
from service.processes.arm_versions import ArmVersions
from service.processes.child import Serving
from service.processes.engine_keeper import EngineKeeper
from service.processes.engine_pool import EnginePool, VersionUnusable
from service.processes.front_ends import FrontEnds
from service.settings import ServeSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Pause between two looks at `current`."""


class ServedVersion:
    """Keeps an engine of the served version running, whichever version that is."""

    def __init__(
        self,
        settings: ServeSettings,
        folder: Path,
        status_file: int,
        front_ends: FrontEnds,
    ) -> None:
        """Makes the sockets of engines in a folder of the service's own."""
        self._settings = settings
        self._status = ServiceStatus(status_file)
        self._front_ends = front_ends
        self._pool = EnginePool(settings, folder, status_file)
        self._engine = self._pool.new(settings.artifacts)
        self._engine.has_standby = settings.standby
        self._arms = ArmVersions(settings.artifacts, self._pool)
        self._refused: Path | None = None  # the target of `current` that could not be served
        self._asked_to_look = False
        self._wake = asyncio.Event()
        self._problem = self._loading = ""
        self._looks = 0
        self.ready = self._engine.keeper.ready
        """Set when the first engine can answer."""
        self._tell_front_ends()

    def look(self) -> None:
        """Looks now for another version, also one that was refused before."""
        self._asked_to_look = True
        self._wake.set()

    def wake(self) -> None:
        """Looks now which versions arms name."""
        self._wake.set()

    async def keep(self) -> None:
        """Serves until cancelled. Raises ChildProcessError if the first engine cannot start."""
        self._pool.begin(self._engine)
        while True:
            waking = asyncio.create_task(self._wait_for_wake())
            try:
                done, _ = await asyncio.wait(
                    [waking, *self._pool.tasks], return_when=FIRST_COMPLETED
                )
            finally:
                waking.cancel()
            if failed := done - {waking}:
                await failed.pop()
                return
            if self._status.started:
                await self._follow()

    async def end(self) -> None:
        """Ends all engines."""
        await self._pool.end_all()

    async def _wait_for_wake(self) -> None:
        await self.ready.wait()
        seconds = LOOK_SECONDS if self._settings.watch else None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _follow(self) -> None:
        """Serves what `current` and the arms of experiments name now."""
        asked, self._asked_to_look = self._asked_to_look, False
        if asked:
            self._looks += 1
            self._refused = None
            self._arms.retry()
        if (asked or self._settings.watch) and (bundle := self._other_version()):
            await self._change_over(bundle)
        elif asked:
            self._tell_front_ends()
        if self._arms.want(self._front_ends.wanted_versions):
            await self._end_unneeded()
        if version := self._arms.next_missing():
            await self._arms.load(version)
            self._tell_front_ends()
            self._wake.set()  # another may be missing; a publication goes first

    def _other_version(self) -> Path | None:
        """Returns the bundle that is to be served, if it is neither served nor refused."""
        try:
            wanted = find_bundle(self._settings.artifacts).absolute()
        except (ArtifactError, OSError, RuntimeError) as error:
            self._refuse(self._settings.artifacts, str(error))
            return None
        if wanted == self._engine.bundle:
            self._refused = None
            if self._problem:  # `current` went back to the served version
                self._problem = ""
                self._tell_front_ends()
            return None
        return None if wanted == self._refused else wanted

    async def _change_over(self, bundle: Path) -> None:
        """Serves another bundle, if an engine can load it."""
        started = time.monotonic()
        try:
            engine = await self._engine_of(bundle)
        except VersionUnusable as error:
            self._loading = ""
            self._refuse(bundle, str(error))
            return
        await self._engine.drop_standby()
        self._engine, self._problem = engine, ""
        self._engine.has_standby = self._settings.standby
        await self._end_unneeded()
        self._loading = ""
        self._tell_front_ends()
        self._arms.retry()  # there may be more memory now
        self._status.count_change()
        about = {"version": bundle.name, "seconds": round(time.monotonic() - started, 1)}
        log.info("another version is served", extra=about)

    async def _engine_of(self, bundle: Path) -> EngineKeeper:
        """Returns an engine of another version, and says at once that there will be one.

        Raises VersionUnusable.
        """
        engine = self._pool.find(bundle.name)
        if not engine:
            self._pool.check(bundle)
        self._loading = bundle.name
        self._tell_front_ends()
        return engine or await self._pool.load(bundle)

    async def _end_unneeded(self) -> None:
        """Has front ends ask the engines that are needed, and ends the others."""
        self._tell_front_ends()
        needed = {self._engine, *self._arms.engines.values()}
        await self._front_ends.only_ask({engine.address for engine in needed})
        await self._pool.end_others(needed)

    def _refuse(self, bundle: Path, problem: str) -> None:
        """Keeps the served version, and says why once."""
        if self._refused == bundle and self._problem:
            return
        self._refused, self._problem = bundle, f"{bundle.name}: {problem}"
        self._status.count_change(failed=True)
        log.error("the old version stays: %s", self._problem)
        self._tell_front_ends()

    def _tell_front_ends(self) -> None:
        arms = {version: engine.address for version, engine in self._arms.engines.items()}
        serving = Serving(
            engine=self._engine.address,
            problem=self._problem,
            loading=self._loading,
            looks=self._looks,
            arms=arms,
            arm_problems=self._arms.problems,
        )
        self._front_ends.tell(serving)
