"""The front ends: started, replaced if they end, and told which engine to ask."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial

from service.processes.child import Child, EngineAddress, FrontEndConfig, Report, Serving
from service.processes.keeper import Keeper
from service.settings import ServeSettings

FRONT_END = "service.processes.frontend"


class FrontEnds:
    """Keeps a front end running on each of the service's sockets."""

    def __init__(
        self,
        settings: ServeSettings,
        listeners: Sequence[socket.socket],
        status_file: int,
        counters_file: int,
    ) -> None:
        """Takes the sockets, and the files that all front ends share."""
        self.on_look: Callable[[], None] = lambda: None
        """Called when a front end is asked to look for another version."""
        self._settings = settings
        self._listeners = listeners
        self._status_file = status_file
        self._counters_file = counters_file
        self._serving: Serving | None = None
        self._asked = [""] * len(listeners)  # path of the only engine that each front end asks
        self._changed = asyncio.Condition()
        self.keepers = [
            Keeper("a front end", partial(self._start, row), partial(self._watch, row))
            for row in range(len(listeners))
        ]

    def tell(self, serving: Serving) -> None:
        """Sets the engine that all front ends ask; it must be called before the first start."""
        self._serving = serving
        for keeper in self.keepers:
            keeper.tell(serving)

    async def all_ask(self, engine: EngineAddress) -> None:
        """Waits until every front end asks this engine, and no other one any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(path == engine.path for path in self._asked))

    async def _start(self, row: int) -> Child:
        assert self._serving
        config = FrontEndConfig(
            settings=self._settings,
            listener=self._listeners[row].fileno(),
            serving=self._serving,
            status=self._status_file,
            counters=self._counters_file,
            row=row,
        )
        return await Child.start(
            FRONT_END, config, (config.listener, config.status, config.counters)
        )

    async def _watch(self, row: int, front_end: Child, ready: Report) -> str:
        """Takes the reports of a front end until it ends."""
        report: Report | None = ready
        while report:
            if report.engine:
                async with self._changed:
                    self._asked[row] = report.engine
                    self._changed.notify_all()
            if report.look:
                self.on_look()
            report = await front_end.next_report()
        return f"it ended with status {await front_end.ended()}"
