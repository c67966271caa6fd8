"""Micro-batching: what is ready when the worker gets free is the next batch, with no delay.

    recall() ─► unread ─► store, one trip for all that wait ─► ready ─► worker ─► answers

A worker in another process is told of recalls while it computes and makes its batches itself, so
that it never waits for this process; this one keeps back what is more than the next batch.

The store is read while the worker computes. The event loop never runs torch: the worker is a
thread of this process, or another process.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from service.errors import DeadlinePassed, NotReady, QueueFull, ServiceError
from service.history.store import HistoryStore, ReadProblem, StoreUnavailable
from service.http.schemas import RecallRequest
from service.observability.metrics import Metrics
from service.recall.types import BatchResult, Query
from service.settings import ServeSettings
from service.waiting import Answer, Queue, Waiting

log = logging.getLogger(__name__)

STORE_PAUSE = 0.5  # seconds between two looks whether a store that failed is back


class Worker(Protocol):
    """What computes a batch."""

    ahead: int
    """Recalls that it may still be busy with when it is asked for more."""

    async def start(self) -> None:
        """Batches are going to come; called on the event loop."""

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """Answer in order. May raise anything."""

    async def close(self) -> None:
        """Nothing more will be asked."""


class Engine:
    """Answers recalls in batches. `start` and `drain` bracket its life."""

    def __init__(
        self, worker: Worker, store: HistoryStore, metrics: Metrics, settings: ServeSettings
    ) -> None:
        self._worker = worker
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._unread = Queue()  # their histories are to be read
        self._ready = Queue()
        self._unanswered: OrderedDict[Waiting, None] = OrderedDict()  # oldest first
        self._deadline: asyncio.TimerHandle | None = None  # of the oldest
        self._running: list[asyncio.Task[None]] = []
        self._absence: asyncio.Task[None] | None = None  # runs while the store fails
        self._answering: set[asyncio.Task[None]] = set()
        self._asked = 0  # recalls that the worker is busy with
        self._fewer = asyncio.Event()  # set when an answer has come
        self.draining = False

    def start(self) -> None:
        """Begin to answer; call it on the event loop."""
        self._running = [asyncio.create_task(self._read()), asyncio.create_task(self._run())]

    async def recall(self, request: RecallRequest) -> Answer:
        """Wait in the queues and be answered.

        Raises QueueFull, DeadlinePassed, NotReady, or ServiceError where the recall itself failed.
        """
        if self.draining:
            raise NotReady("the service is going down: ask another instance")
        if self.queue_length() >= self._settings.queue_limit:
            raise QueueFull("too many recalls are waiting: try again later")
        loop = asyncio.get_running_loop()
        waiting = Waiting(request, loop.create_future())
        self._unanswered[waiting] = None
        if not self._deadline:
            self._deadline = loop.call_later(self._settings.deadline_ms / 1000, self._expire)
        if request.history is None:
            self._unread.put(waiting)
        else:
            self._set_history(waiting, request.history, 0.0)
        self._metrics.queue_length.set(self.queue_length())
        try:
            return await waiting.answer
        finally:  # whoever gave up makes room for another
            self._forget(waiting)

    def alive(self) -> bool:
        """Whether it can still answer: false when a task of it has died of a bug."""
        return bool(self._running) and not any(task.done() for task in self._running)

    def queue_length(self) -> int:
        """Recalls that no batch has taken yet."""
        return len(self._unread) + len(self._ready)

    async def drain(self) -> None:
        """Answer what was accepted, accept nothing more, and stop."""
        self.draining = True
        if self._unanswered:
            await asyncio.wait([waiting.answer for waiting in self._unanswered])
        if self._deadline:
            self._deadline.cancel()
        absence = [self._absence] if self._absence else []
        tasks = [*self._running, *self._answering, *absence]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.close()

    def _forget(self, waiting: Waiting) -> None:
        self._unanswered.pop(waiting, None)
        self._unread.drop(waiting)
        self._ready.drop(waiting)

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
            self._forget(waiting)
            detail = f"not answered within {self._settings.deadline_ms} ms"
            waiting.fail(DeadlinePassed(f"{detail}: the service is overloaded"))

    async def _read(self) -> None:
        """Histories from the store: one trip after another, each for all that wait by then."""
        while True:
            batch = await self._unread.take(self._settings.max_batch)
            started = time.perf_counter()
            found: Sequence[Sequence[str] | ReadProblem] = [ReadProblem.UNAVAILABLE] * len(batch)
            if self._absence is None or self._absence.done():
                try:
                    found = await self._store.read([w.request.user_id for w in batch])
                except Exception as error:  # whatever it is, it must not end the engine
                    if not isinstance(error, StoreUnavailable):  # that one the store has logged
                        log.exception("histories were not read because of a bug")
                    self._absence = asyncio.create_task(self._until_store_is_back())
            seconds = time.perf_counter() - started
            self._metrics.stage_seconds["store"].observe(seconds)
            for waiting, history in zip(batch, found, strict=True):
                if isinstance(history, ReadProblem):
                    self._metrics.unreadable_histories.inc(history.value)
                    waiting.store_failed = history is ReadProblem.UNAVAILABLE
                    history = ()
                self._set_history(waiting, history, seconds)

    def _set_history(self, waiting: Waiting, history: Sequence[str], seconds: float) -> None:
        waiting.history = history
        waiting.seconds["store"] = seconds
        self._ready.put(waiting)

    async def _until_store_is_back(self) -> None:
        """Ask the store in place of the recalls, so that none but the first waits for it."""
        while True:
            await asyncio.sleep(STORE_PAUSE)
            with suppress(Exception):
                await self._store.ping()
                return

    async def _run(self) -> None:
        """What is ready goes to the worker as soon as it takes more."""
        while True:
            while self._asked > self._worker.ahead:
                self._fewer.clear()
                await self._fewer.wait()
            batch = await self._ready.take(self._settings.max_batch)
            now = time.perf_counter()
            for waiting in batch:
                waiting.seconds["queue"] = now - waiting.since - waiting.seconds["store"]
            self._metrics.queue_length.set(self.queue_length())
            self._asked += len(batch)
            task = asyncio.create_task(self._answer_all(batch))
            self._answering.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled() and (bug := task.exception()):
            log.error("recalls were not answered because of a bug", exc_info=bug)
            self._running.append(task)  # `alive` tells of it

    async def _answer_all(self, batch: Sequence[Waiting]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._asked -= len(batch)
            self._fewer.set()

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        try:
            computed = await self._worker.recall([waiting.query() for waiting in batch])
        except Exception:
            log.exception("a batch of %d failed", len(batch))
            if len(batch) > 1:  # one bad query must not fail its neighbours
                for waiting in batch:
                    await self._answer([waiting])
            else:
                batch[0].fail(ServiceError("the recall failed: the log has the details"))
            return
        if computed.batch_size:
            for stage, taken in computed.seconds.items():
                self._metrics.stage_seconds[stage].observe(taken)
            self._metrics.batch_size.observe(computed.batch_size)
        for waiting, found in zip(batch, computed.answers, strict=True):
            waiting.seconds["queue"] += computed.queue_seconds
            self._metrics.stage_seconds["queue"].observe(waiting.seconds["queue"])
            answer = waiting.resolve(found, computed.seconds)
            if answer.degraded_reason:
                self._metrics.fallbacks.inc(answer.degraded_reason)
            if found.unknown_items:
                self._metrics.unknown_items.inc(by=found.unknown_items)
