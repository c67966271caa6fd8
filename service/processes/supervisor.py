"""The supervisor: the parent of all processes of the service, which replaces them if need be.

    supervisor              listening sockets, signals, shared memory
    ├── front end 1 … N     HTTP, parsing, Redis; hold their clients while an engine is replaced
    ├── preloader           has the libraries of engines imported, and forks them
    └── engine              network, vectors, index; beats with every turn of its loop
        (engine)            a second one for a moment, while another version is taken up, and
                            one for each other version that an arm of an experiment names

It does no work of theirs and loads no library that does, so that it has little that can fail. The
sockets are its own, so that a child that is replaced leaves no connection refused: what arrives
meanwhile waits in the socket for the next child.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from service.observability.service_status import STATUS_BYTES, ServiceStatus
from service.observability.shared_counters import ROW_BYTES
from service.processes.child import END_SECONDS
from service.processes.front_ends import FrontEnds
from service.processes.served_version import ServedVersion
from service.settings import ServeSettings

log = logging.getLogger(__name__)


class Supervisor:
    """Runs the service on sockets that listen already, one for each front end.

    With a port of its own for administration there is another such socket for each.
    """

    def __init__(
        self,
        settings: ServeSettings,
        listeners: Sequence[socket.socket],
        admin_listeners: Sequence[socket.socket] = (),
    ) -> None:
        self._settings = settings
        self._listeners = [*listeners, *admin_listeners]
        self._resources = ExitStack()
        status_file = self._shared_file(STATUS_BYTES)
        counters_file = self._shared_file(settings.http_workers * ROW_BYTES)
        # Other users cannot enter this folder, in which the engines' sockets are.
        folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="recgpt-"))
        self._status = ServiceStatus(status_file)
        self._front_ends = FrontEnds(
            settings, listeners, admin_listeners, status_file, counters_file
        )
        self._version = ServedVersion(settings, Path(folder), status_file, self._front_ends)
        self._front_ends.on_look = self._version.look
        self._front_ends.on_arms = self._version.wake

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, and until the front ends have drained.

        After SIGTERM it serves for some time of grace, which SIGINT or another SIGTERM ends.

        Raises ChildProcessError, with the reason, if the engine or a front end cannot start.
        """
        stop, at_once = asyncio.Event(), asyncio.Event()

        def leave(signal_name: int) -> None:
            if stop.is_set() or signal_name == signal.SIGINT:
                at_once.set()
            stop.set()

        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, leave, name)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, stop)
        front_ends = self._front_ends.keepers
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._note_start())
        serving = asyncio.create_task(self._version.keep())
        keeping = [asyncio.create_task(keeper.keep()) for keeper in front_ends]
        try:
            done, _ = await asyncio.wait(
                [stopping, serving, *keeping], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                await task  # raises the error of a child that could not start
            await self._leave(at_once)
            await self._drain(keeping)
        finally:
            tasks = stopping, starting, serving, *keeping
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(keeper.end() for keeper in front_ends), self._version.end())
            self._resources.close()

    async def _note_start(self) -> None:
        started = time.monotonic()
        await self._version.ready.wait()
        for keeper in self._front_ends.keepers:
            await keeper.ready.wait()
        self._status.set_started()
        self._version.wake()
        log.info("the service is ready", extra={"seconds": round(time.monotonic() - started, 1)})

    async def _leave(self, at_once: asyncio.Event) -> None:
        """Tells balancers that this instance is going, and serves until they have noticed."""
        if not self._status.started:
            return
        self._status.set_leaving()
        log.info("going down", extra={"grace_s": self._settings.grace_seconds})
        with suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), self._settings.grace_seconds)

    async def _drain(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Lets the front ends answer what they have accepted. The engine is kept until then."""
        for listener in self._listeners:
            listener.close()  # an open one would accept connections that nobody serves
        for front_end in self._front_ends.keepers:
            front_end.drain()
        seconds = self._settings.drain_seconds + END_SECONDS
        _, late = await asyncio.wait(keeping, timeout=seconds)
        if late:
            log.error("%d front ends have not drained in %g s and are ended", len(late), seconds)

    def _shared_file(self, size: int) -> int:
        """Returns a file of this size that has no name and lasts as long as this object."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 — the stack closes it
        self._resources.enter_context(file)
        os.truncate(file.fileno(), size)
        return file.fileno()

    def _hang_up(self, stop: asyncio.Event) -> None:
        """Handles SIGHUP, by which a terminal ends its processes and daemons are told to reload."""
        if sys.stderr.isatty():
            stop.set()
        else:
            log.info("SIGHUP: looking for another version")
            self._version.look()
