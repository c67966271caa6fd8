"""A worker without a process of its own, for tests of what stands in front of the engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Protocol, cast

import httpx
from fastapi import FastAPI

from service.recall.recaller import Recaller
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult
from service.recall.types import BatchResult, EncodedCandidates, Query, StageSeconds


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Runs an application in this process, and yields a client of it."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


class Answers(Protocol):
    """The part of a Recaller that a worker needs."""

    def recall_json(
        self, queries: Sequence[Query]
    ) -> tuple[list[EncodedCandidates], StageSeconds]: ...


class InProcessWorker:
    """Runs a Recaller, or a stand-in for one, in a thread; one micro-batch at a time.

    It is an `Engine` to the HTTP operations, too.
    """

    ahead = 0

    def __init__(
        self, recaller: Answers, max_batch: int = 16, bundle: ServedBundle | None = None
    ) -> None:
        self.max_batch = max_batch
        self.bundle = bundle
        self._recaller = recaller
        self.arms: dict[str, InProcessWorker] = {}
        self.arm_problems: dict[str, str] = {}
        self.wanted: Collection[str] = ()
        self.version_problem = self.loading = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall")

    @property
    def interests(self) -> int:
        return self.bundle.interests if self.bundle else 1

    @property
    def actions(self) -> Collection[bytes]:
        return self.bundle.actions if self.bundle else ()

    async def start(self) -> None:
        """The thread starts with the first micro-batch."""

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        loop = asyncio.get_running_loop()
        found, seconds = await loop.run_in_executor(
            self._thread, self._recaller.recall_json, queries
        )
        return BatchResult(found, seconds, len(queries), bundle=self.bundle)

    @asynccontextmanager
    async def trials(self) -> AsyncIterator[Callable[[Trial], Awaitable[TrialResult]]]:
        async def make(trial: Trial) -> TrialResult:
            recaller = cast(Recaller, self._recaller)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, recaller.try_index, trial)

        yield make

    async def close(self) -> None:
        self._thread.shutdown()

    @property
    def started(self) -> bool:
        return bool(self.bundle)

    async def look(self) -> bool:
        return True

    def want(self, versions: Collection[str]) -> None:
        self.wanted = versions

    def problem(self) -> str:
        return "" if self.bundle else "the engine is starting"

    def alive(self) -> bool:
        return True
