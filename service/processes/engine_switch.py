"""The engines that a front end asks: that of the served version, and those of arms of experiments.

While versions change both engines live. A recall is asked of one of them, and the answer says which
bundle it is of, so that no answer mixes two versions.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from service.batcher import WorkerLost
from service.processes.child import EngineAddress, Serving
from service.processes.engine_client import EngineClient
from service.processes.messages import RecallFailed
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult
from service.recall.types import BatchResult, Query

log = logging.getLogger(__name__)

RECENT = 32
"""Queries that are kept, to warm up new engines; each takes time from the engine that answers."""
WARM_SECONDS = 5.0
"""Longest time for that."""
FINISH_SECONDS = 60.0
"""Longest wait for the answers of an engine that is not asked any more: the longest deadline."""
LOOK_SECONDS = 5.0
"""Longest wait for the supervisor to look at `current`."""


class AsksClient:
    """The parts of a `Worker` that are those of the client that it asks."""

    _client: EngineClient

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
    def interests(self) -> int:
        """See `Worker`."""
        return self._client.interests

    def problem(self) -> str:
        """Returns why the engine cannot answer now; empty if it can."""
        return self._client.problem()

    def trials(self) -> AbstractAsyncContextManager[Callable[[Trial], Awaitable[TrialResult]]]:
        """See `EngineClient.trials`."""
        return self._client.trials()


class ArmEngine(AsksClient):
    """A `Worker` that asks the engine of a version that an arm names."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def start(self) -> None:
        """The client has started."""

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """See `EngineClient.recall`."""
        return await self._client.recall(queries)

    async def close(self) -> None:
        """Leaves the client to the switch: it may be that of the served version now."""


async def _nothing(version: str) -> None:
    pass


class EngineSwitch(AsksClient):
    """An `Engine` that asks the engine of the served version, and has those of arms beside it."""

    def __init__(self, connect: Callable[[EngineAddress], EngineClient], serving: Serving) -> None:
        """Takes how to make a client of the engine at an address, and which engines there are."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when engines are asked, or versions are wanted, that were not before, and when
        some are no more."""
        self.on_look: Callable[[], None] = lambda: None
        """Called to have the supervisor look for another version now."""
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called if a bug keeps this process from following what the supervisor tells."""
        self.on_arm_gone: Callable[[str], Awaitable[None]] = _nothing
        """Awaited before the engine of an arm's version ends; it is in `arms` no more."""
        self.arms: dict[str, ArmEngine] = {}
        """The engines of versions that arms name, by version; not the served version's."""
        self.wanted: frozenset[str] = frozenset()
        """The versions that arms name."""
        self._connect = connect
        self._recent: deque[Query] = deque(maxlen=RECENT)
        self._serving = serving  # the newest that the supervisor told
        self._changed = asyncio.Event()
        self._address = serving.engine
        self._client = connect(serving.engine)
        self._client.on_ready = self._ready
        self._clients = {serving.engine: self._client}
        self._joining: dict[str, asyncio.Task[None]] = {}  # arms' engines that are not asked yet
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: asyncio.Queue[Serving] = asyncio.Queue()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `service.batcher.Worker`."""
        self._loop = asyncio.get_running_loop()
        self._follow_arms(self._serving)
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(self._ended)
        await self._client.start()

    async def close(self) -> None:
        """Ends the connections."""
        tasks = [*self._joining.values(), *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def tell(self, line: bytes) -> None:
        """Takes a message of the supervisor, in any thread, and follows it soon."""
        serving = Serving.model_validate_json(line)
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, serving)
        else:  # before the first turn of the loop
            self._take(serving)

    @property
    def asked(self) -> list[str]:
        """The paths of all engines that are asked."""
        return [address.path for address in self._clients]

    @property
    def version_problem(self) -> str:
        """The reason why the version that is to be served is not; empty if it is."""
        return self._serving.problem

    @property
    def loading(self) -> str:
        """The version that is being taken up in place of the served one; empty if none is."""
        return self._serving.loading

    @property
    def arm_problems(self) -> Mapping[str, str]:
        """The reason why a version that an arm names is not loaded, by version."""
        return self._serving.arm_problems

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""
        return self._client.started

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """See `EngineClient.recall`."""
        self._recent.extend(queries)
        return await self._client.recall(queries)

    def alive(self) -> bool:
        """Returns whether there is an engine, or will be soon."""
        return self._client.alive()

    async def look(self) -> bool:
        """Has the supervisor look now whether another version is to be served.

        Returns whether it has; it may have to load another version first.
        """
        before = self._serving.looks
        self.on_look()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                while self._serving.looks == before:
                    self._changed.clear()
                    await self._changed.wait()
        return self._serving.looks != before

    def want(self, versions: Collection[str]) -> None:
        """Has the supervisor keep engines of these versions beside the served one."""
        self.wanted = frozenset(versions)
        if self.bundle:  # else it is told when that is there
            self.on_change()

    def _ready(self) -> None:
        self.on_change()

    def _take(self, serving: Serving) -> None:
        self._serving = serving
        self._changed.set()
        self._told.put_nowait(serving)

    async def _follow(self) -> None:
        """Follows what the supervisor tells, one change after another."""
        while True:
            serving = await self._told.get()
            if serving.engine != self._address:
                await self._change_over(serving.engine)
            self._follow_arms(serving)
            await self._leave_others(serving)

    async def _change_over(self, address: EngineAddress) -> None:
        """Asks the engine at this address from now on."""
        successor = self._clients.get(address)
        if not successor:
            successor = self._clients[address] = self._connect(address)
            await successor.start()
            await self._warm(successor)
        self._client, self._address = successor, address

    async def _warm(self, client: EngineClient) -> None:
        """Asks an engine some of the latest queries, before anybody waits for its answers.

        So the pages of its tables are read, and its filters and buffers are made.
        """
        recent = [one for one in self._recent if not one.explain and one.outcome is None]
        size = max(client.max_batch // 2, 1)  # the engine may answer recalls of others already
        try:
            async with asyncio.timeout(WARM_SECONDS):
                for start in range(0, len(recent), size):
                    await client.recall(recent[start : start + size])
        except (RecallFailed, WorkerLost, TimeoutError) as error:
            log.warning("a new engine was not warmed up with all recent queries: %r", error)

    def _follow_arms(self, serving: Serving) -> None:
        """Begins to ask the engines of arms that are new."""
        for version, address in serving.arms.items():
            if address == serving.engine or version in self.arms or version in self._joining:
                continue
            self._joining[version] = asyncio.create_task(self._join(version, address))
            self._joining[version].add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()):
            log.critical("versions are not followed any more because of a bug", exc_info=bug)
            self.on_failure(bug)

    async def _join(self, version: str, address: EngineAddress) -> None:
        """Asks the engine of an arm from now on, once it has said what it serves."""
        if address not in self._clients:
            client = self._clients[address] = self._connect(address)
            self.on_change()
            await client.start()
            await self._warm(client)
        self.arms[version] = ArmEngine(self._clients[address])
        del self._joining[version]

    async def _leave_others(self, serving: Serving) -> None:
        """Waits for what was asked of engines that are not to be asked any more, and hangs up."""
        needed = {serving.engine, *serving.arms.values()}
        arms = {v for v, address in serving.arms.items() if address != serving.engine}
        for version in self._joining.keys() - arms:
            joining = self._joining.pop(version)
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        for version in self.arms.keys() - arms:
            del self.arms[version]
            await self.on_arm_gone(version)
        for address in self._clients.keys() - needed:
            client = self._clients[address]
            await client.finish(FINISH_SECONDS)
            await client.close()
            del self._clients[address]
        self.on_change()
