"""A keeper: it keeps one child process running, however often that ends."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pydantic import BaseModel

from service.processes.child import Child, Report

log = logging.getLogger(__name__)

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
        """Returns after `drain`. Raises OSError if the first child cannot start.

        That is ChildProcessError if the child says why.
        """
        failures = 0
        while not self._last.is_set():
            started = time.monotonic()
            try:
                self._child = await self._start()
                if self._last.is_set():  # meanwhile
                    self._child.terminate()
                report = await self._child.report()
            except OSError as error:  # it failed, or the system has no room for a process
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

    @property
    def is_draining(self) -> bool:
        """Whether the child is ending, and no other one is to be started."""
        return self._last.is_set()

    def drain(self) -> None:
        """Asks the child to finish its work and end; it is not replaced any more."""
        self._last.set()
        if self._child:
            self._child.terminate()

    def tell(self, message: BaseModel) -> None:
        """Sends a message to the child if it is ready."""
        if self._child and self.ready.is_set():
            self._child.tell(message)

    async def end(self) -> None:
        """Ends the child."""
        if self._child:
            await self._child.end()
