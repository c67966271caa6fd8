"""The supervisor: the parent of all processes of the service, which replaces them if need be.

    supervisor              listening sockets, signals, shared memory
    ├── front end 1 … N     HTTP, parsing, Redis; hold their clients while an engine is replaced
    └── engine              network, vectors, index; beats with every turn of its loop

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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from service.observability.service_status import STATUS_BYTES, ServiceStatus
from service.observability.shared_counters import ROW_BYTES
from service.processes.child import END_SECONDS, Child, EngineConfig, FrontEndConfig, Report
from service.settings import ServeSettings

log = logging.getLogger(__name__)

ENGINE = "service.processes.engine_process"
FRONT_END = "service.processes.frontend"

LOOKS = 8
"""Looks at the heartbeat within the time in which an engine must beat."""
STABLE_SECONDS = 60.0
"""Life of a child after which its end is not counted together with those before."""
MAX_PAUSE_SECONDS = 10


def pause_seconds(failures: int) -> int:
    """Returns the pause before a start, after this number of failures in a row."""
    return min(max(failures - 1, 0), MAX_PAUSE_SECONDS)


class Keeper:
    """Keeps one child running: it starts the child, and another one whenever the last has ended."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Child]],
        watch: Callable[[Child, Report], Awaitable[str]],
    ) -> None:
        """Takes how to start a child, and how to wait for its end, which returns the reason."""
        self._name = name
        self._start = start
        self._watch = watch
        self._child: Child | None = None
        self._last = asyncio.Event()  # set when no other child is to be started
        self.ready = asyncio.Event()
        """Set when the first child is ready."""

    async def keep(self) -> None:
        """Returns after `drain`. Raises ChildProcessError if the first child cannot start."""
        failures = 0
        while not self._last.is_set():
            started = time.monotonic()
            self._child = await self._start()
            if self._last.is_set():  # meanwhile
                self._child.terminate()
            try:
                report = await self._child.report()
            except ChildProcessError as error:
                if not self.ready.is_set() and not self._last.is_set():
                    raise
                reason = str(error)
            else:
                self.ready.set()
                reason = await self._watch(self._child, report)
            if self._last.is_set():
                return
            failures = 0 if time.monotonic() - started > STABLE_SECONDS else failures + 1
            pause = pause_seconds(failures)
            log.error("%s is started again: %s", self._name, reason, extra={"pause_s": pause})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._last.wait(), pause)

    def drain(self) -> None:
        """Asks the child to finish its work and end; it is not replaced any more."""
        self._last.set()
        if self._child:
            self._child.terminate()

    async def end(self) -> None:
        """Ends the child."""
        if self._child:
            await self._child.end()


class Supervisor:
    """Runs the service on sockets that listen already, one for each front end."""

    def __init__(self, settings: ServeSettings, listeners: Sequence[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._artifacts = settings.artifacts
        self._engine_started = 0.0
        self._resources = ExitStack()
        self._counters = self._shared_file(settings.http_workers * ROW_BYTES)
        self._status_file = self._shared_file(STATUS_BYTES)
        self._status = ServiceStatus(self._status_file)
        self._engine_listener = self._resources.enter_context(_engine_listener(self._resources))

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, and until the front ends have drained.

        Raises ChildProcessError, with the reason, if the engine or a front end cannot start.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        loop.add_signal_handler(signal.SIGHUP, _hang_up, stop)
        engine = Keeper("the engine", self._start_engine, self._watch_engine)
        front_ends = [
            Keeper("a front end", partial(self._start_front_end, row), _watch_front_end)
            for row in range(self._settings.http_workers)
        ]
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._note_start([engine, *front_ends]))
        keeping = [asyncio.create_task(keeper.keep()) for keeper in (engine, *front_ends)]
        try:
            done, _ = await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # raises the error of a child that could not start
            await self._drain(front_ends, keeping[1:])
        finally:
            for task in (stopping, starting, *keeping):
                task.cancel()
            await asyncio.gather(stopping, starting, *keeping, return_exceptions=True)
            await asyncio.gather(*(keeper.end() for keeper in (*front_ends, engine)))
            self._resources.close()

    async def _note_start(self, keepers: Sequence[Keeper]) -> None:
        started = time.monotonic()
        for keeper in keepers:
            await keeper.ready.wait()
        self._status.set_started()
        log.info("the service is ready", extra={"seconds": round(time.monotonic() - started, 1)})

    async def _drain(
        self, front_ends: Sequence[Keeper], keeping: Sequence[asyncio.Task[None]]
    ) -> None:
        """Lets the front ends answer what they have accepted. The engine is kept until then."""
        for listener in self._listeners:
            listener.close()  # an open one would accept connections that nobody serves
        for front_end in front_ends:
            front_end.drain()
        seconds = self._settings.drain_seconds + END_SECONDS
        _, late = await asyncio.wait(keeping, timeout=seconds)
        if late:
            log.error("%d front ends have not drained in %g s and are ended", len(late), seconds)

    async def _start_engine(self) -> Child:
        if self._engine_started:
            self._status.count_restart()
        self._engine_started = time.monotonic()
        config = EngineConfig(
            settings=self._settings,
            artifacts=self._artifacts,
            listener=self._engine_listener.fileno(),
            status=self._status_file,
        )
        return await Child.start(ENGINE, config, (config.listener, config.status))

    async def _watch_engine(self, engine: Child, report: Report) -> str:
        """Waits until the engine ends, or kills it if its loop has not turned for the patience.

        Looks at which the heartbeat had not moved are counted, rather than seconds, because the
        clock goes on while a machine or container is paused, in which nobody looks either.
        """
        assert report.bundle
        self._artifacts = report.bundle  # an engine that replaces it serves the same version
        self._status.set_load_seconds(time.monotonic() - self._engine_started)
        patience_seconds = self._settings.engine_patience_ms / 1000
        looks, seen = 0, 0.0
        while looks < LOOKS:
            try:
                status = await asyncio.wait_for(engine.ended(), patience_seconds / LOOKS)
                return f"it ended with status {status}"
            except TimeoutError:
                beat = self._status.last_beat
                looks, seen = (looks + 1 if beat == seen else 0), beat
        engine.kill()
        await engine.ended()
        return f"it hung for {patience_seconds:g} s and was killed"

    async def _start_front_end(self, row: int) -> Child:
        config = FrontEndConfig(
            settings=self._settings,
            listener=self._listeners[row].fileno(),
            engine=self._engine_listener.getsockname(),
            status=self._status_file,
            counters=self._counters,
            row=row,
        )
        return await Child.start(
            FRONT_END, config, (config.listener, config.status, config.counters)
        )

    def _shared_file(self, size: int) -> int:
        """Returns a file of this size that has no name and lasts as long as this object."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 — the stack closes it
        self._resources.enter_context(file)
        os.truncate(file.fileno(), size)
        return file.fileno()


def _hang_up(stop: asyncio.Event) -> None:
    """Handles SIGHUP, which says that the terminal was closed, or asks a daemon to read again."""
    if sys.stderr.isatty():
        stop.set()
    else:
        log.warning("SIGHUP has no effect: restart the service to serve another version")


async def _watch_front_end(front_end: Child, _: Report) -> str:
    return f"it ended with status {await front_end.ended()}"


def _engine_listener(resources: ExitStack) -> socket.socket:
    """Returns a socket that listens in a new folder, which other users cannot enter.

    Raises ValueError if the path of the folder is too long for a socket.
    """
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="recgpt-"))
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"{folder}/engine")
    except OSError as error:
        raise ValueError(f"no socket in {folder} ({error}): set TMPDIR to a short path") from error
    listener.listen()
    return listener
