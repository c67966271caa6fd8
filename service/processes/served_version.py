"""The served version, and the change to another one without a restart.

    `current` moves ─► an engine of the new version loads and warms up, beside the old one
                    ─► every front end asks the new one, and waits for what it asked the old one
                    ─► the old engine ends, and gives its memory back to the system

A version that cannot be loaded, or for which memory does not suffice, changes nothing: the old one
goes on, and the reason stands in the log, in `GET /versions` and in a metric.
"""

import asyncio
import logging
import time
from asyncio import FIRST_COMPLETED
from contextlib import suppress
from pathlib import Path

from model.artifact.manifest import ArtifactError
from model.artifact.versions import find_bundle
from service.observability.service_status import LANES, ServiceStatus
from service.processes.child import Serving
from service.processes.engine_keeper import EngineKeeper
from service.processes.front_ends import FrontEnds
from service.settings import ServeSettings

log = logging.getLogger(__name__)

START_SECONDS = 900.0
"""Longest time in which an engine of another version must be able to answer."""
LOOK_SECONDS = 1.0
"""Pause between two looks at `current`."""
LOADED_BYTES = 2
"""Bytes of memory that an engine takes for each byte of a bundle, at most."""
BASE_BYTES = 300 << 20
"""Bytes of memory that an engine takes besides: libraries and compiled code."""


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
        self._folder = folder
        self._status_file = status_file
        self._status = ServiceStatus(status_file)
        self._front_ends = front_ends
        self._engines = 0
        self._engine = self._new_engine(settings.artifacts, 0)
        self._successor: EngineKeeper | None = None
        self._refused: Path | None = None  # the target of `current` that could not be served
        self._look = asyncio.Event()
        self._problem = ""
        self.ready = self._engine.keeper.ready
        """Set when the first engine can answer."""
        self._tell_front_ends()

    def look(self) -> None:
        """Looks now for another version, also one that was refused before."""
        self._refused = None
        self._look.set()

    async def keep(self) -> None:
        """Serves until cancelled. Raises ChildProcessError if the first engine cannot start."""
        keeping = asyncio.create_task(self._engine.keeper.keep())
        try:
            while True:
                looking = asyncio.create_task(self._wait_for_look())
                done, _ = await asyncio.wait([keeping, looking], return_when=FIRST_COMPLETED)
                looking.cancel()
                if keeping in done:
                    await keeping
                    return
                if self._status.started and (bundle := self._other_version()):
                    keeping = await self._change_over(bundle, keeping)
        finally:
            keeping.cancel()

    async def end(self) -> None:
        """Ends all engines."""
        for engine in (self._engine, self._successor):
            if engine:
                await engine.end()

    async def _wait_for_look(self) -> None:
        await self.ready.wait()
        seconds = LOOK_SECONDS if self._settings.watch else None
        try:
            await asyncio.wait_for(self._look.wait(), seconds)
        except TimeoutError:
            return
        self._look.clear()

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

    async def _change_over(self, bundle: Path, keeping: asyncio.Task[None]) -> asyncio.Task[None]:
        """Serves another bundle, if an engine can load it.

        Returns the task that keeps the engine of the served version.
        """
        started = time.monotonic()
        log.info("another version is being loaded", extra={"version": bundle.name})
        if problem := memory_problem(bundle):
            self._refuse(bundle, problem)
            return keeping
        lane = (self._engine.address.lane + 1) % LANES
        successor = self._successor = self._new_engine(bundle, lane)
        starting = asyncio.create_task(successor.keeper.keep())
        if problem := await _start_problem(successor, starting):
            self._successor = None
            await successor.end()
            self._refuse(bundle, problem)
            return keeping
        last, self._engine, self._successor = self._engine, successor, self._engine
        self._problem = ""
        self._tell_front_ends()
        await self._front_ends.all_ask(successor.address)
        await last.end()
        await keeping
        self._successor = None
        self._status.count_change()
        about = {"version": bundle.name, "seconds": round(time.monotonic() - started, 1)}
        log.info("another version is served", extra=about)
        return starting

    def _refuse(self, bundle: Path, problem: str) -> None:
        """Keeps the served version, and says why once."""
        if self._refused == bundle and self._problem:
            return
        self._refused, self._problem = bundle, f"{bundle.name}: {problem}"
        self._status.count_change(failed=True)
        log.error("the old version stays: %s", self._problem)
        self._tell_front_ends()

    def _tell_front_ends(self) -> None:
        self._front_ends.tell(Serving(engine=self._engine.address, problem=self._problem))

    def _new_engine(self, bundle: Path, lane: int) -> EngineKeeper:
        self._engines += 1
        folder = self._folder / str(self._engines)
        return EngineKeeper(self._settings, bundle, folder, self._status_file, lane)


async def _start_problem(engine: EngineKeeper, keeping: asyncio.Task[None]) -> str:
    """Waits until an engine can answer; returns why it never will, or nothing."""
    ready = asyncio.create_task(engine.keeper.ready.wait())
    await asyncio.wait([keeping, ready], timeout=START_SECONDS, return_when=FIRST_COMPLETED)
    if ready.done():
        return ""
    ready.cancel()
    if keeping.done():
        return str(keeping.exception())
    return f"its engine was not ready within {START_SECONDS:g} s"


def memory_problem(bundle: Path) -> str:
    """Returns why memory does not suffice for another engine; empty if it does or nobody knows."""
    needed = BASE_BYTES + LOADED_BYTES * sum(
        file.stat().st_size for file in bundle.iterdir() if file.is_file()
    )
    available = _available_bytes()
    if available is None or needed <= available:
        return ""
    return (
        f"it may need {needed / 1e9:.1f} GB of memory beside the served version, and "
        f"{available / 1e9:.1f} GB are available: give the service more, or restart it"
    )


def _available_bytes() -> int | None:
    """Returns the memory that is free on the machine, or in this container if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    found = [int(line.split()[1]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        reclaimable = int(stat["active_file"]) + int(stat["inactive_file"])
        found.append(limit - int((group / "memory.current").read_text()) + reclaimable)
    return max(min(found), 0)
