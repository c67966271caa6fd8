"""The engine process as a front end sees it; `engine_process` is the other side."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.batcher import WorkerLost
from service.catalogue.state import CatalogueState, ItemsChange
from service.observability.service_status import ServiceStatus
from service.processes.child import freeze_loaded
from service.processes.messages import (
    LENGTH,
    Greeting,
    body_length,
    decode_greeting,
    decode_result,
    decode_trial_result,
    encode_question,
    encode_trial,
    encode_updates,
)
from service.recall.served_bundle import ServedBundle
from service.recall.trials import Trial, TrialResult
from service.recall.types import BatchResult, Query

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.1
"""Pause after an attempt to connect that failed."""
MAX_SENDS = 2
"""Engines that are asked the same question; one that ended two of them might end the third."""
DEAD_SECONDS = 30.0
"""Time without an engine, beyond that of a start, after which the service counts as dead."""


@dataclass(slots=True, eq=False)
class Question:
    """A micro-batch that the engine has not answered yet."""

    frame: bytes
    answer: asyncio.Future[bytes]
    sends: int = 0


class EngineClient:
    """A connection to the engine, which outlives the engine.

    The supervisor keeps the listening socket open while it replaces an engine. So a connection is
    accepted at once by the kernel, and its first bytes are the greeting of the next engine, which
    is then asked again what the last one has not answered.
    """

    def __init__(
        self,
        path: str,
        status: ServiceStatus,
        patience_seconds: float,
        catalogue: CatalogueState | None = None,
    ) -> None:
        """Takes the path of the engine's socket, its status, how long a heartbeat is good, and the
        state of the items that the engine is told of.
        """
        self.bundle: ServedBundle | None = None
        """The bundle that the engine serves; None until it has loaded one."""
        self.max_batch = 1
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when the bundle is known and questions can be answered."""
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called if the connection is given up, because of an error of this process."""
        self._path = path
        self._status = status
        self._patience_seconds = patience_seconds
        self._catalogue = catalogue or CatalogueState()
        self._writer: asyncio.StreamWriter | None = None  # None: not connected, or not greeted yet
        self._unanswered: deque[Question] = deque()  # in the order in which they were sent
        self._running: asyncio.Task[None]
        self._started = asyncio.Event()  # set when the bundle is known, or never will be

    @property
    def ahead(self) -> int:
        """See `service.batcher.Worker`."""
        return 2 * self.max_batch

    async def start(self) -> None:
        """Begins to connect, and waits for the bundle unless the service as a whole is starting.

        So a front end that replaces another accepts no connection before it can answer, and one
        that starts together with the engine can say why it does not answer.
        """
        self._catalogue.listen(self._tell)
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._ended)
        if self._status.started:
            await self._started.wait()

    async def recall(self, queries: Sequence[Query]) -> BatchResult:
        """Asks the engine, or the next one if it ends before it answers.

        Raises RecallFailed if the batch failed, WorkerLost if too many engines ended over it.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        question = Question(encode_question(queries), answer)
        self._unanswered.append(question)
        if self._writer:
            self._send(self._writer, question)
        return decode_result(await answer, self.bundle)

    @asynccontextmanager
    async def trials(self) -> AsyncIterator[Callable[[Trial], Awaitable[TrialResult]]]:
        """Connects once more, and yields a function that has the engine try its index.

        Raises WorkerLost, also within, if the engine is gone; RecallFailed if a trial fails.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError as error:
            raise WorkerLost("its engine is gone") from error

        async def receive() -> bytes:
            try:
                return await _read_body(reader)
            except (OSError, EOFError) as error:
                raise WorkerLost("its engine is gone") from error

        async def make(trial: Trial) -> TrialResult:
            writer.write(encode_trial(trial))
            return decode_trial_result(await receive())

        try:
            await receive()  # the greeting
            yield make
        finally:
            writer.close()

    async def finish(self, seconds: float) -> None:
        """Waits until all that was asked is answered, up to this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while waiting := [one.answer for one in self._unanswered if not one.answer.done()]:
                    await asyncio.wait(waiting)

    async def close(self) -> None:
        """Ends the connection; what is not answered then never will be."""
        self._catalogue.forget(self._tell)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        for question in self._unanswered:
            if not question.answer.done():
                question.answer.set_exception(WorkerLost("its engine is gone"))

    @property
    def actions(self) -> Collection[bytes]:
        """See `service.batcher.Worker`."""
        return self.bundle.actions if self.bundle else ()

    @property
    def interests(self) -> int:
        """See `Worker`."""
        return self.bundle.interests if self.bundle else 1

    @property
    def started(self) -> bool:
        """Whether the engine and all front ends have been ready once."""
        return bool(self.bundle) and self._status.started

    def problem(self) -> str:
        """Returns why the engine cannot answer now; empty if it can."""
        if not self.started:
            return "the service is starting: ask again in a moment"
        if not self._writer or self._status.beat_age > self._patience_seconds:
            return "the engine is being replaced: recalls wait for the next one"
        return ""

    def alive(self) -> bool:
        """Returns whether there is an engine, or will be soon.

        A first start may take any time: if it fails, the supervisor ends the service. After that,
        there must be a heartbeat within the time that a start takes, and some more.
        """
        bound = DEAD_SECONDS + self._status.load_seconds
        return not self._status.started or self._status.beat_age < bound

    async def _run(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError:  # the service is about to end
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            try:
                await self._greeted(decode_greeting(await _read_body(reader)))
                self._writer = writer
                self._tell(self._catalogue.whole)  # before it is asked anything
                self._ask_again(writer)
                while True:
                    self._answered(await _read_body(reader))
            except (OSError, EOFError):
                log.warning("the engine is gone: recalls wait for the next one")
            finally:
                self._writer = None
                writer.close()

    async def _greeted(self, greeting: Greeting) -> None:
        if self.bundle:
            if self.bundle.version != greeting.version:  # item rows and metadata would not agree
                raise ValueError(f"the engine serves {greeting.version} now: starting again")
            return
        self.max_batch = greeting.max_batch
        self.bundle = await asyncio.to_thread(
            ServedBundle.load,
            Path(greeting.metadata),
            Path(greeting.ids),
            greeting.version,
            greeting.max_interests,
            greeting.kinds,
            greeting.actions,
            greeting.outcomes,
            Path(greeting.folder) if greeting.folder else None,
            greeting.interests,
        )
        freeze_loaded()
        log.info("ready to serve", extra={"version": greeting.version})
        self._started.set()
        self.on_ready()

    def _tell(self, change: ItemsChange) -> None:
        """Tells the engine of items, if there is one; the next one is told of all of them."""
        if not self.bundle:
            return
        update = self.bundle.items.take(*change)
        if self._writer and not self._writer.is_closing():
            self._writer.write(encode_updates(update))

    def _ask_again(self, writer: asyncio.StreamWriter) -> None:
        """Sends what the last engine has not answered and somebody still waits for."""
        waiting = [question for question in self._unanswered if not question.answer.done()]
        self._unanswered.clear()
        for question in waiting:
            if question.sends == MAX_SENDS:
                question.answer.set_exception(WorkerLost("two engines ended over this batch"))
                continue
            self._unanswered.append(question)
            self._send(writer, question)

    def _send(self, writer: asyncio.StreamWriter, question: Question) -> None:
        if writer.is_closing():  # the next engine is asked
            return
        question.sends += 1
        writer.write(question.frame)

    def _answered(self, body: bytes) -> None:
        """Gives the oldest question its answer: an engine answers in order."""
        question = self._unanswered.popleft()
        if not question.answer.done():
            question.answer.set_result(body)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._started.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("this front end cannot use the engine and ends", exc_info=error)
            self.on_failure(error)


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(body_length(await reader.readexactly(LENGTH.size)))
