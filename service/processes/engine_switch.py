"""The engine that a front end asks, which is another one once another version is served.

While versions change both engines live. A recall is asked of one of them, and the answer says which
bundle it is of, so that no answer mixes two versions.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from service.processes.child import EngineAddress, Serving
from service.processes.engine_client import EngineClient
from service.recall.served_bundle import ServedBundle
from service.recall.types import BatchResult, Query

log = logging.getLogger(__name__)


class EngineSwitch:
    """An `Engine` that asks the engine of the served version."""

    def __init__(self, connect: Callable[[EngineAddress], EngineClient], serving: Serving) -> None:
        """Takes how to make a client of the engine at an address, and the first such address."""
        self.on_change: Callable[[EngineAddress], None] = lambda address: None
        """Called when this engine can answer, and is the only one that is still asked."""
        self.on_look: Callable[[], None] = lambda: None
        """Called to have the supervisor look for another version now."""
        self.version_problem = serving.problem
        """The reason why the version that is to be served is not; empty if it is."""
        self._connect = connect
        self._address = serving.engine
        self._client = connect(serving.engine)
        self._client.on_ready = lambda: self.on_change(serving.engine)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Queue[Serving] = asyncio.Queue()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `service.batcher.Worker`."""
        self._loop = asyncio.get_running_loop()
        self._following = asyncio.create_task(self._follow())
        await self._client.start()

    async def close(self) -> None:
        """Ends the connection."""
        if self._following:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._client.close()

    def tell(self, line: bytes) -> None:
        """Takes a message of the supervisor, in any thread, and follows it soon."""
        serving = Serving.model_validate_json(line)
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.put_nowait, serving)
        else:  # before the first turn of the loop
            self._told.put_nowait(serving)

    @property
    def bundle(self) -> ServedBundle | None:
        """The bundle whose items are recalled; None until an engine has loaded one."""
        return self._client.bundle

    @property
    def max_batch(self) -> int:
        """See `service.batcher.Worker`."""
        return self._client.max_batch

    @property
    def ahead(self) -> int:
        """See `service.batcher.Worker`."""
        return self._client.ahead

    @property
    def actions(self) -> Collection[bytes]:
        """See `service.batcher.Worker`."""
        return self._client.actions

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""
        return self._client.started

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """See `EngineClient.recall`."""
        return await self._client.recall(queries)

    def problem(self) -> str:
        """Returns why the engine cannot answer now; empty if it can."""
        return self._client.problem()

    def alive(self) -> bool:
        """Returns whether there is an engine, or will be soon."""
        return self._client.alive()

    def look(self) -> None:
        """Has the supervisor look now whether another version is to be served."""
        self.on_look()

    async def _follow(self) -> None:
        """Follows what the supervisor tells, one change after another."""
        while True:
            serving = await self._told.get()
            self.version_problem = serving.problem
            if serving.engine != self._address:
                await self._change_over(serving.engine)

    async def _change_over(self, address: EngineAddress) -> None:
        """Asks the engine at this address from now on, and waits until the last one is done."""
        successor = self._connect(address)
        await successor.start()
        last, self._client, self._address = self._client, successor, address
        await last.finish()
        await last.close()
        self.on_change(address)
