"""Micro-batching: what waits when the worker gets free is the next batch, with no delay.

    recall() ─► waiting ─► one store pipeline ─► worker ─► answers

The event loop never runs torch: the worker is a thread of this process, or another process.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from service.errors import DeadlinePassed, NotReady, QueueFull, ServiceError
from service.history import HistoryStore, StoreUnavailable
from service.metrics import Metrics
from service.queries import Candidates, Query, StageSeconds
from service.schemas import DegradedReason, RecallRequest
from service.settings import ServeSettings

log = logging.getLogger(__name__)

STORE_PAUSE = 0.5  # seconds between two looks whether a store that failed is back


class Worker(Protocol):
    """What computes a batch."""

    async def start(self) -> None:
        """Batches are going to come; called on the event loop."""

    async def recall(self, queries: Sequence[Query]) -> tuple[list[Candidates], StageSeconds]:
        """Answer in order; called again only after it has returned. May raise anything."""

    async def close(self) -> None:
        """Nothing more will be asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a recall came to."""

    candidates: Candidates
    degraded_reason: DegradedReason | None
    seconds: StageSeconds


@dataclass(slots=True, eq=False)
class _Waiting:
    """A recall on its way."""

    request: RecallRequest
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)
    history: Sequence[str] = ()
    store_failed: bool = False
    seconds: StageSeconds = field(default_factory=dict)

    def query(self) -> Query:
        request = self.request
        return Query(request.user_id, self.history, request.exclude, request.k, request.interests)


class Engine:
    """Answers recalls in batches. `start` and `drain` bracket its life."""

    def __init__(
        self, worker: Worker, store: HistoryStore, metrics: Metrics, settings: ServeSettings
    ) -> None:
        self._worker = worker
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._waiting: OrderedDict[_Waiting, None] = OrderedDict()  # first come, first served
        self._unanswered: OrderedDict[_Waiting, None] = OrderedDict()  # those, and the batch
        self._arrived = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None  # of the oldest that is unanswered
        self._running: asyncio.Task[None] | None = None
        self._absence: asyncio.Task[None] | None = None  # runs while the store fails
        self.draining = False

    def start(self) -> None:
        """Begin to answer; call it on the event loop."""
        self._running = asyncio.create_task(self._run())

    async def recall(self, request: RecallRequest) -> Answer:
        """Wait in the queue and be answered.

        Raises QueueFull, DeadlinePassed, NotReady, or ServiceError where the recall itself failed.
        """
        if self.draining:
            raise NotReady("the service is going down: ask another instance")
        if len(self._waiting) >= self._settings.queue_limit:
            raise QueueFull("too many recalls are waiting: try again later")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future())
        self._waiting[waiting] = self._unanswered[waiting] = None
        self._metrics.queue_length.set(len(self._waiting))
        self._arrived.set()
        if not self._deadline:
            self._deadline = loop.call_later(self._settings.deadline_ms / 1000, self._expire)
        try:
            return await waiting.answer
        finally:  # whoever gave up leaves the queue at once, and makes room for another
            self._unanswered.pop(waiting, None)
            self._waiting.pop(waiting, None)

    def alive(self) -> bool:
        """Whether it can still answer: false when its task has died of a bug."""
        return self._running is not None and not self._running.done()

    def queue_length(self) -> int:
        """Recalls that no batch has taken yet."""
        return len(self._waiting)

    async def drain(self) -> None:
        """Answer what was accepted, accept nothing more, and stop."""
        self.draining = True
        if self._unanswered:
            await asyncio.wait([waiting.answer for waiting in self._unanswered])
        if self._deadline:
            self._deadline.cancel()
        tasks = [task for task in (self._running, self._absence) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.close()

    def _expire(self) -> None:
        """Give up what is past its deadline, and look again when the next one may be."""
        patience = self._settings.deadline_ms / 1000
        now = time.perf_counter()
        self._deadline = None
        while self._unanswered:
            waiting = next(iter(self._unanswered))
            left = waiting.since + patience - now
            if left > 0:
                self._deadline = asyncio.get_running_loop().call_later(left, self._expire)
                return
            del self._unanswered[waiting]
            self._waiting.pop(waiting, None)
            detail = f"not answered within {self._settings.deadline_ms} ms"
            _fail(waiting, DeadlinePassed(f"{detail}: the service is overloaded"))

    async def _run(self) -> None:
        """One batch after another. Preparing one ahead was measured: smaller batches, slower."""
        while True:
            while not (batch := self._take()):
                self._arrived.clear()
                await self._arrived.wait()
            await self._read_histories(batch)
            await self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """What waits, up to the largest batch, without what was given up meanwhile."""
        batch: list[_Waiting] = []
        now = time.perf_counter()
        while self._waiting and len(batch) < self._settings.max_batch:
            waiting, _ = self._waiting.popitem(last=False)
            if not waiting.answer.done():
                waiting.seconds["queue"] = now - waiting.since
                batch.append(waiting)
        self._metrics.queue_length.set(len(self._waiting))
        return batch

    async def _read_histories(self, batch: Sequence[_Waiting]) -> None:
        """Fill in histories: the request's own, else the store's, read in one pipeline."""
        absent = [waiting for waiting in batch if waiting.request.history is None]
        started = time.perf_counter()
        found: Sequence[Sequence[str]] = []
        if absent and (self._absence is None or self._absence.done()):
            try:
                found = await self._store.read([w.request.user_id for w in absent])
            except Exception as error:  # whatever it is, it must not end the engine
                bug = not isinstance(error, StoreUnavailable)
                log.warning("store failed, popular items are given: %s", error, exc_info=bug)
                self._absence = asyncio.create_task(self._until_store_is_back())
        for waiting, history in zip(absent, found, strict=False):
            waiting.history = history
        for waiting in batch:
            waiting.history = waiting.request.history or waiting.history
            waiting.store_failed = waiting.request.history is None and not found
            waiting.seconds["store"] = time.perf_counter() - started

    async def _until_store_is_back(self) -> None:
        """Ask the store in place of the recalls, so that none but the first waits for it."""
        while True:
            await asyncio.sleep(STORE_PAUSE)
            with suppress(Exception):
                await self._store.ping()
                log.info("the store is back")
                return

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            found, seconds = await self._worker.recall([waiting.query() for waiting in batch])
        except Exception:
            log.exception("a batch of %d failed", len(batch))
            if len(batch) > 1:  # one bad query must not fail its neighbours
                for waiting in batch:
                    await self._answer([waiting])
            else:
                _fail(batch[0], ServiceError("the recall failed: the log has the details"))
            return
        self._count(batch, found, seconds)
        for waiting, candidates in zip(batch, found, strict=True):
            if not waiting.answer.done():
                taken = waiting.seconds | seconds
                answer = Answer(candidates, _reason(waiting, candidates), taken)
                waiting.answer.set_result(answer)

    def _count(
        self, batch: Sequence[_Waiting], found: Sequence[Candidates], seconds: StageSeconds
    ) -> None:
        metrics = self._metrics
        for stage, taken in seconds.items():
            metrics.stage_seconds[stage].observe(taken)
        metrics.stage_seconds["store"].observe(batch[0].seconds["store"])
        metrics.batch_size.observe(len(batch))
        for waiting, candidates in zip(batch, found, strict=True):
            metrics.stage_seconds["queue"].observe(waiting.seconds["queue"])
            if reason := _reason(waiting, candidates):
                metrics.fallbacks.inc(reason)
            if candidates.unknown:
                metrics.unknown_items.inc(by=candidates.unknown)


def _reason(waiting: _Waiting, found: Candidates) -> DegradedReason | None:
    if not found.cold:
        return None
    if waiting.store_failed:
        return "store_unavailable"
    return "unknown_items" if found.unknown else "no_history"


def _fail(waiting: _Waiting, error: ServiceError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
