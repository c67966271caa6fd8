"""Micro-batching: everything that is ready when the worker takes more is the next micro-batch.

    recall() ─► unread ─► store, one trip for all that wait ─► ready ─► worker ─► answers

There is no timer: micro-batches are small under low load and large under high load. Histories are
read while the worker computes, and the event loop itself never computes. The worker is the engine
process, which is sent the next micro-batches while it computes, so that it never waits for this
process; this process keeps back the rest, where a recall can still expire or be abandoned.
`Admission` decides which recalls are accepted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol

from service.admission import Admission, BatchSizes
from service.errors import NotReady, QueueFull, ServiceError
from service.history.entries import Entries
from service.history.event_types import DEFAULT_TYPES, EventTypes
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable
from service.observability.metrics import Metrics
from service.recall.types import BatchResult, Query
from service.settings import ServeSettings
from service.waiting import Answer, Queue, Waiting

log = logging.getLogger(__name__)

STORE_PAUSE = 0.5  # seconds between two attempts to reach a store that failed


class WorkerLost(Exception):
    """A worker ended while it computed a micro-batch, and so did the one that was asked again."""


class Worker(BatchSizes, Protocol):
    """Computes micro-batches."""

    @property
    def actions(self) -> Collection[bytes]:
        """The types of events that the network reads as feedback; none if it reads none."""

    @property
    def interests(self) -> int:
        """Interests of a recall that names no number."""

    async def start(self) -> None:
        """Prepares for micro-batches; called on the event loop."""

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """Answers the queries, in order. Raises WorkerLost, or any other exception."""

    async def close(self) -> None:
        """Releases what it holds; no further call comes."""


class Batcher:
    """Answers recalls in micro-batches, from `start` until `drain`."""

    def __init__(
        self,
        worker: Worker,
        store: HistoryStore,
        metrics: Metrics,
        settings: ServeSettings,
        event_types: EventTypes = DEFAULT_TYPES,
    ) -> None:
        self._worker = worker
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._event_types = event_types
        self._unread = Queue()  # recalls whose history has to be read
        self._ready = Queue()
        self._unanswered: set[Waiting] = set()
        self._admission = Admission(worker)
        self._running: list[asyncio.Task[None]] = []
        self._absence: asyncio.Task[None] | None = None  # runs while the store fails
        self._answering: set[asyncio.Task[None]] = set()
        self._told_length = 0  # of the queue
        self._outstanding = 0  # recalls that the worker has not answered yet
        self._returned = asyncio.Event()  # set when the worker has returned a micro-batch
        self.draining = False
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called if a bug has ended one of the tasks without which nothing is answered."""

    def start(self) -> None:
        """Begins to answer; to be called on the event loop."""
        self._running = [asyncio.create_task(self._read()), asyncio.create_task(self._run())]
        for task in self._running:
            task.add_done_callback(self._ended)

    def has_room(self, arriving: int = 0, client: str = "") -> bool:
        """Returns whether another recall would be accepted that has the default deadline.

        `arriving` recalls are about to be asked for. The name of the client matters only where
        there are several: see `Admission`.
        """
        return self._has_room(self._patience(None), arriving, client)

    async def recall(
        self,
        query: Query,
        read_history: bool = False,
        patience: float | None = None,
        client: str = "",
    ) -> Answer:
        """Returns the answer to a query, whose history is read from the store if so asked.

        The answer must come within `patience` seconds, the default deadline if it is None. Raises
        QueueFull, DeadlinePassed, NotReady, or another ServiceError if the recall failed.
        """
        patience = self._patience(patience)
        self._check_room(patience, client)
        return await self._recall(query, read_history, patience, client)

    async def recall_all(
        self,
        queries: Sequence[tuple[Query, bool]],
        patience: float | None = None,
        client: str = "",
    ) -> list[Answer]:
        """Returns the answers to several queries, in order and of one version; see `recall`.

        They are accepted or refused together. If one fails, the others are cancelled.
        """
        patience = self._patience(patience)
        self._check_room(patience, client)
        while True:
            recalls = [
                asyncio.create_task(self._recall(query, read_history, patience, client))
                for query, read_history in queries
            ]
            try:
                answers = await asyncio.gather(*recalls)
            finally:
                for recall in recalls:
                    recall.cancel()
            if all(answer.bundle is answers[0].bundle for answer in answers):
                return answers  # else another version was taken up in between

    def alive(self) -> bool:
        """Whether it can still answer: false once a bug has ended one of its tasks."""
        return bool(self._running) and not any(task.done() for task in self._running)

    def skips_store(self) -> bool:
        """Whether recalls go without histories, because the store failed and is not back yet."""
        return self._absence is not None and not self._absence.done()

    def queue_length(self) -> int:
        """The number of recalls that are in no micro-batch yet."""
        return len(self._unread) + len(self._ready)

    async def drain(self) -> None:
        """Answers the recalls that were accepted, accepts no more, and stops."""
        self.draining = True
        if self._unanswered:
            await asyncio.wait([waiting.answer for waiting in self._unanswered])
        absence = [self._absence] if self._absence else []
        tasks = [*self._running, *self._answering, *absence]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.close()

    def _patience(self, asked: float | None) -> float:
        return self._settings.deadline_ms / 1000 if asked is None else asked

    def _has_room(self, patience: float, arriving: int, client: str) -> bool:
        waiting = self.queue_length() + arriving
        return waiting < self._settings.queue_limit and self._admission.has_room(
            patience, arriving, client
        )

    def _check_room(self, patience: float, client: str) -> None:
        """Raises NotReady or QueueFull if no recall is accepted."""
        if self.draining:
            raise NotReady("the service is going down: ask another instance")
        if not self._has_room(patience, 0, client):
            raise QueueFull("more recalls arrive than can be answered in time: try again later")

    async def _recall(
        self, query: Query, read_history: bool, patience: float, client: str
    ) -> Answer:
        loop = asyncio.get_running_loop()
        waiting = Waiting(query, loop.create_future(), patience)
        deadline = loop.call_later(patience, waiting.expire)
        self._admission.enter(client)
        try:
            self._unanswered.add(waiting)
            (self._unread if read_history else self._ready).put(waiting)
            self._tell_length()
            return await waiting.answer
        finally:  # a caller that gave up makes room for another
            deadline.cancel()
            self._admission.leave(client)
            self._unanswered.discard(waiting)
            self._unread.drop(waiting)
            self._ready.drop(waiting)

    def _tell_length(self) -> None:
        """Tells the metrics how long the queue is, to which other batchers add theirs."""
        length = self.queue_length()
        self._metrics.queue_length.add(length - self._told_length)
        self._told_length = length

    async def _read(self) -> None:
        """Reads histories in one trip after another, each for all recalls that wait by then."""
        while True:
            batch = await self._unread.take(self._worker.max_batch)
            started = time.perf_counter()
            found: Sequence[Entries | StoreProblem] = [StoreProblem.UNAVAILABLE] * len(batch)
            offers: dict[int, Sequence[bytes]] = {}
            if not self.skips_store():
                try:
                    found, offers = await self._read_all([waiting.query for waiting in batch])
                except Exception as error:  # no error of the store may end this task
                    if not isinstance(error, StoreUnavailable):  # that one the store has logged
                        log.exception("histories were not read because of a bug")
                    self._absence = asyncio.create_task(self._until_store_is_back())
            seconds, now = time.perf_counter() - started, time.time()
            self._metrics.stage_seconds["store"].observe(seconds)
            for number, (waiting, history) in enumerate(zip(batch, found, strict=True)):
                waiting.seconds["store"] = seconds
                try:
                    self._take_history(waiting, history, offers.get(number, ()), now)
                except Exception:  # of one history, and all others are read after it
                    log.exception("a history was not taken because of a bug")
                    waiting.fail(ServiceError("the recall failed: the log has the details"))
                self._ready.put(waiting)

    async def _read_all(
        self, queries: Sequence[Query]
    ) -> tuple[list[Entries | StoreProblem], dict[int, Sequence[bytes]]]:
        """Returns the histories of queries, and the offers of those whose recall makes some."""
        users = [query.user_id for query in queries]
        if not self._event_types.has_offers:
            return await self._store.read(users), {}
        default = self._worker.interests
        of = [i for i, query in enumerate(queries) if (query.interests or default) > 1]
        found, offers = await self._store.read_with_offers(users, of)
        return found, dict(zip(of, offers, strict=True))

    def _take_history(
        self,
        waiting: Waiting,
        history: Entries | StoreProblem,
        offers: Sequence[bytes],
        now: float,
    ) -> None:
        if isinstance(history, StoreProblem):
            self._metrics.unreadable_histories.inc(history.value)
            waiting.store_problem = history
        else:
            waiting.set_history(history, self._event_types, now, self._worker.actions, offers)

    async def _until_store_is_back(self) -> None:
        """Probes the store in place of the recalls, so that only the first waits for it."""
        while True:
            await asyncio.sleep(STORE_PAUSE)
            with suppress(Exception):
                await self._store.ping()
                return

    async def _run(self) -> None:
        """Sends the recalls that are ready to the worker as soon as it takes more."""
        while True:
            while self._outstanding > self._worker.ahead:
                self._returned.clear()
                await self._returned.wait()
            taken = await self._ready.take(self._worker.max_batch)
            batch = [waiting for waiting in taken if not waiting.answer.done()]
            if not batch:
                continue
            now = time.perf_counter()
            for waiting in batch:
                waiting.seconds["queue"] = now - waiting.since - waiting.seconds["store"]
            self._tell_length()
            self._outstanding += len(batch)
            task = asyncio.create_task(self._answer_all(batch))
            self._answering.add(task)
            task.add_done_callback(self._answered)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()):
            log.critical("recalls are answered no more because of a bug", exc_info=bug)
            self.on_failure(bug)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled() and (bug := task.exception()):
            log.error("recalls were not answered because of a bug", exc_info=bug)
            self._running.append(task)  # `alive` reports it

    async def _answer_all(self, batch: Sequence[Waiting]) -> None:
        try:
            await self._answer(batch)
        finally:
            self._outstanding -= len(batch)
            self._returned.set()

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        sent = time.perf_counter()
        try:
            computed = await self._worker.recall([waiting.query for waiting in batch])
        except WorkerLost as error:  # each query may be the cause: none is asked once more
            self._metrics.failed_batches.inc()
            log.error("a batch of %d failed: %s", len(batch), error)
            for waiting in batch:
                waiting.fail(ServiceError(f"the recall failed: {error}"))
            return
        except Exception:
            self._metrics.failed_batches.inc()
            log.exception("a batch of %d failed", len(batch))
            if len(batch) > 1:  # one bad query must not fail its neighbours
                for waiting in batch:
                    await self._answer([waiting])
            else:
                batch[0].fail(ServiceError("the recall failed: the log has the details"))
            return
        if computed.batch_size:  # of the engine's batch, told with the first micro-batch in it
            self._admission.answered(sent)
            for stage, taken in computed.seconds.items():
                self._metrics.stage_seconds[stage].observe(taken)
            self._metrics.batch_size.observe(computed.batch_size)
        # All that is not spent on computing: most of it is the wait in the engine's socket.
        waited = time.perf_counter() - sent - sum(computed.seconds.values())
        for waiting, found in zip(batch, computed.answers, strict=True):
            waiting.seconds["queue"] += max(0.0, waited)
            self._metrics.stage_seconds["queue"].observe(waiting.seconds["queue"])
            answer = waiting.resolve(found, computed)
            if answer.degraded_reason:
                self._metrics.fallbacks.inc(answer.degraded_reason)
            if found.unknown_items:
                self._metrics.unknown_items.inc(by=found.unknown_items)
            if found.filter:
                self._metrics.filtered(found.filter)
