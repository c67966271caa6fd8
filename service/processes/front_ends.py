"""The front ends: started, replaced if they end, and told which engine to ask."""

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial

from service.observability.service_status import ServiceStatus
from service.processes.child import Child, EngineAddress, FrontEndConfig, Report, Serving
from service.processes.keeper import Keeper
from service.settings import ServeSettings

FRONT_END = "service.processes.frontend"
PATIENCE_SECONDS = 10.0
"""Time without a turn of its event loop after which a front end is killed."""
LOOKS = 20
"""Looks at its heartbeat within that time."""


class FrontEnds:
    """Keeps a front end running on each of the service's sockets."""

    def __init__(
        self,
        settings: ServeSettings,
        listeners: Sequence[socket.socket],
        admin_listeners: Sequence[socket.socket],
        status_file: int,
        counters_file: int,
    ) -> None:
        """Takes the sockets, those of the port for administration if there is one, and the files
        that all front ends share.
        """
        self.on_look: Callable[[], None] = lambda: None
        """Called when a front end is asked to look for another version."""
        self.on_arms: Callable[[], None] = lambda: None
        """Called when a front end has learnt which versions arms of experiments name."""
        self._settings = settings
        self._listeners = listeners
        self._admin_listeners = admin_listeners
        self._status_file = status_file
        self._status = ServiceStatus(status_file)
        self._counters_file = counters_file
        self._serving: Serving | None = None
        self._asked: list[frozenset[str]] = [frozenset()] * len(listeners)  # paths of engines
        self._wanted: list[frozenset[str]] = [frozenset()] * len(listeners)
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

    async def only_ask(self, engines: Collection[EngineAddress]) -> None:
        """Waits until no front end asks any other engine than these."""
        paths = {engine.path for engine in engines}
        async with self._changed:
            await self._changed.wait_for(lambda: all(asked <= paths for asked in self._asked))

    @property
    def wanted_versions(self) -> frozenset[str]:
        """The versions that arms of experiments name, as any front end has read the file."""
        return frozenset().union(*self._wanted)

    async def _start(self, row: int) -> Child:
        assert self._serving
        admin = self._admin_listeners[row].fileno() if self._admin_listeners else None
        addresses = self._serving.engine, *self._serving.arms.values()
        self._asked[row] = frozenset(address.path for address in addresses)
        config = FrontEndConfig(
            settings=self._settings,
            listener=self._listeners[row].fileno(),
            admin_listener=admin,
            serving=self._serving,
            status=self._status_file,
            counters=self._counters_file,
            row=row,
        )
        files = [config.listener, config.status, config.counters]
        files = files if admin is None else [*files, admin]
        front_end = await Child.start(FRONT_END, config, files)
        if self._serving != config.serving:  # meanwhile, when no keeper had this child yet
            front_end.tell(self._serving)
        return front_end

    async def _watch(self, row: int, front_end: Child, ready: Report) -> str:
        """Takes the reports of a front end until it ends, or hangs and is killed."""
        hang = asyncio.create_task(self._kill_if_it_hangs(row, front_end))
        await self._take_reports(row, front_end, ready)
        status = await front_end.ended()
        if hang.done():
            return f"it hung for {PATIENCE_SECONDS:g} s and was killed"
        hang.cancel()
        return f"it ended with status {status}"

    async def _kill_if_it_hangs(self, row: int, front_end: Child) -> None:
        """Counts looks rather than seconds, as `EngineKeeper` does, and for its reason."""
        looks, seen = 0, 0.0
        while looks < LOOKS:
            await asyncio.sleep(PATIENCE_SECONDS / LOOKS)
            beat = self._status.last_front_end_beat(row)
            looks, seen = (looks + 1 if beat == seen else 0), beat
        front_end.kill()

    async def _take_reports(self, row: int, front_end: Child, ready: Report) -> None:
        report: Report | None = ready
        while report:
            if report.engines:
                self._wanted[row] = frozenset(report.versions)
                self.on_arms()
                async with self._changed:
                    self._asked[row] = frozenset(report.engines)
                    self._changed.notify_all()
            if report.look:
                self.on_look()
            report = await front_end.next_report()
