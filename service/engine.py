"""Micro-batching: what waits when the worker gets free is the next batch. There is no timer.

    recall() ─► waiting ─► one store pipeline ─► worker thread ─► answers

One thread owns model and index; the event loop never runs torch.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from service.errors import DeadlinePassed, NotReady, QueueFull, ServiceError
from service.history import HistoryStore, StoreUnavailable
from service.metrics import Metrics
from service.queries import Candidates, Query, StageSeconds
from service.recall import Recaller
from service.schemas import DegradedReason, RecallRequest
from service.settings import ServeSettings

log = logging.getLogger(__name__)

STORE_PAUSE = 0.5  # seconds between two looks whether a store that failed is back


@dataclass(frozen=True, slots=True)
class Answer:
    """What a recall came to."""

    candidates: Candidates
    version: str
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
        self, recaller: Recaller, store: HistoryStore, metrics: Metrics, settings: ServeSettings
    ) -> None:
        self.recaller = recaller  # read once a batch: it may be replaced between batches
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._waiting: OrderedDict[_Waiting, None] = OrderedDict()  # first come, first served
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recall")
        self._unanswered: set[asyncio.Future[Answer]] = set()
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
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        answer.add_done_callback(self._unanswered.discard)
        waiting = _Waiting(request, answer)
        self._waiting[waiting] = None
        # Whoever gave up leaves the queue at once, and makes room for another.
        answer.add_done_callback(lambda _: self._waiting.pop(waiting, None))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._settings.deadline_ms / 1000):
                return await answer
        except TimeoutError:
            raise DeadlinePassed(
                f"not answered within {self._settings.deadline_ms} ms: the service is overloaded"
            ) from None

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
            await asyncio.wait(set(self._unanswered))
        tasks = [task for task in (self._running, self._absence) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._worker.shutdown()

    async def _run(self) -> None:
        """One batch after another. Preparing one ahead was measured: smaller batches, slower."""
        loop = asyncio.get_running_loop()
        while True:
            while not (batch := self._take()):
                self._arrived.clear()
                await self._arrived.wait()
            await self._read_histories(batch)
            await loop.run_in_executor(self._worker, self._answer, batch, loop)

    def _take(self) -> list[_Waiting]:
        """What waits, up to the largest batch, without what was given up meanwhile."""
        batch: list[_Waiting] = []
        now = time.perf_counter()
        while self._waiting and len(batch) < self._settings.max_batch:
            waiting, _ = self._waiting.popitem(last=False)
            if not waiting.answer.done():
                waiting.seconds["queue"] = now - waiting.since
                batch.append(waiting)
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

    def _answer(self, batch: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """In the worker thread: recall, and hand the answers back to the loop."""
        recaller = self.recaller
        try:
            candidates, seconds = recaller.recall([waiting.query() for waiting in batch])
        except Exception:
            log.exception("a batch of %d failed", len(batch))
            if len(batch) > 1:  # one bad query must not fail its neighbours
                for waiting in batch:
                    self._answer([waiting], loop)
            else:
                error = ServiceError("the recall failed: the log has the details")
                loop.call_soon_threadsafe(_fail, batch[0], error)
            return
        answers = [
            Answer(found, recaller.version, _reason(waiting, found), waiting.seconds | seconds)
            for waiting, found in zip(batch, candidates, strict=True)
        ]
        loop.call_soon_threadsafe(self._deliver, batch, answers, seconds)

    def _deliver(
        self, batch: Sequence[_Waiting], answers: Sequence[Answer], seconds: StageSeconds
    ) -> None:
        for stage, taken in seconds.items():
            self._metrics.stage_seconds[stage].observe(taken)
        self._metrics.stage_seconds["store"].observe(batch[0].seconds["store"])
        self._metrics.batch_size.observe(len(batch))
        for waiting, answer in zip(batch, answers, strict=True):
            self._metrics.stage_seconds["queue"].observe(waiting.seconds["queue"])
            if answer.degraded_reason:
                self._metrics.fallbacks[answer.degraded_reason].inc()
            if answer.candidates.unknown:
                self._metrics.unknown_items.inc(answer.candidates.unknown)
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def _reason(waiting: _Waiting, found: Candidates) -> DegradedReason | None:
    if not found.cold:
        return None
    if waiting.store_failed:
        return "store_unavailable"
    return "unknown_items" if found.unknown else "no_history"


def _fail(waiting: _Waiting, error: ServiceError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
