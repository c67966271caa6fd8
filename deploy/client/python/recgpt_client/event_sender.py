"""Events sent in the background, in batches.

Events wait in a bounded queue and go out together, every `interval` seconds or as soon as a batch
is full. A batch that the service cannot take now is sent again and again, so a restart of the
service loses nothing until the queue is full. What the service refuses for good is counted in
`failed` and logged. An event that it refused beside others (207) is sent once more.
"""

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from recgpt_client.answers import Accepted
from recgpt_client.asynchronous import AsyncClient
from recgpt_client.errors import RecGPTError
from recgpt_client.event_queue import Event, EventQueue
from recgpt_client.synchronous import Client

PAUSE = 0.5  # seconds after a batch that could not be sent
SEND_SECONDS = 10.0  # for a batch, all tries together


class EventSender:
    """Sends events from a thread of its own, until it is closed."""

    def __init__(
        self,
        client: Client,
        max_waiting: int = 10_000,
        max_batch: int = 500,
        interval: float = 0.5,
    ) -> None:
        """Raises ValueError for bounds that the service does not take."""
        self._client = client
        self._interval = interval
        self._queue = EventQueue(max_waiting, max_batch)
        self._changed = threading.Condition()
        self._sending = 0
        self._flushing = 0  # callers that wait in `flush`
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="recgpt-events", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events that found no room in the queue."""
        return self._queue.dropped

    @property
    def failed(self) -> int:
        """Events that the service did not take."""
        return self._queue.failed

    def add(self, event: Event) -> bool:
        """Takes an event without waiting; returns False if the queue is full or closed."""
        with self._changed:
            if self._closed:
                return False
            added = self._queue.put(event)
            if self._queue.has_batch or len(self._queue) == 1:
                self._changed.notify_all()
            return added

    def flush(self, timeout: float = 10.0) -> bool:
        """Waits until all events have been sent; returns False if that takes longer."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(self._is_empty, timeout)
            finally:
                self._flushing -= 1

    def close(self, timeout: float = 10.0) -> bool:
        """Sends what waits and ends; returns False if events are left after this time."""
        sent = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_empty(self) -> bool:
        return not self._queue and not self._sending

    def _run(self) -> None:
        while batch := self._take():
            outcome: Accepted | RecGPTError
            try:
                outcome = self._client.send_events(batch, timeout=SEND_SECONDS)
            except RecGPTError as error:
                outcome = error
            with self._changed:
                must_wait = self._queue.settle(batch, outcome)
                self._sending = 0
                self._changed.notify_all()
                if must_wait:
                    self._changed.wait_for(lambda: self._closed, PAUSE)

    def _take(self) -> list[Event]:
        """Returns the next batch; waits for it. Empty once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._queue))
            self._changed.wait_for(self._is_due, self._interval)
            if self._closed:
                return []  # what `close` could not send
            batch = self._queue.take()
            self._sending = len(batch)
            return batch

    def _is_due(self) -> bool:
        return self._closed or bool(self._flushing) or self._queue.has_batch


class AsyncEventSender:
    """Sends events from a task of its own: `async with AsyncEventSender(client) as events: …`."""

    def __init__(
        self,
        client: AsyncClient,
        max_waiting: int = 10_000,
        max_batch: int = 500,
        interval: float = 0.5,
    ) -> None:
        """Raises ValueError for bounds that the service does not take."""
        self._client = client
        self._interval = interval
        self._queue = EventQueue(max_waiting, max_batch)
        self._filled = asyncio.Event()
        self._due = asyncio.Event()  # a batch is full, or somebody waits in `flush`
        self._empty = asyncio.Event()
        self._empty.set()
        self._flushing = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def dropped(self) -> int:
        """Events that found no room in the queue."""
        return self._queue.dropped

    @property
    def failed(self) -> int:
        """Events that the service did not take."""
        return self._queue.failed

    def add(self, event: Event) -> bool:
        """Takes an event without waiting; returns False if the queue is full or closed."""
        if self._task is None:
            return False
        added = self._queue.put(event)
        self._empty.clear()
        self._filled.set()
        self._set_due()
        return added

    async def flush(self, timeout: float = 10.0) -> bool:
        """Waits until all events have been sent; returns False if that takes longer."""
        self._flushing += 1
        self._set_due()
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        finally:
            self._flushing -= 1
            self._set_due()
        return True

    async def close(self, timeout: float = 10.0) -> bool:
        """Sends what waits and ends; returns False if events are left after this time."""
        sent = await self.flush(timeout)
        if task := self._task:
            self._task = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return sent

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _set_due(self) -> None:
        if self._flushing or self._queue.has_batch:
            self._due.set()
        else:
            self._due.clear()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()
            batch = self._queue.take()
            outcome: Accepted | RecGPTError
            try:
                outcome = await self._client.send_events(batch, timeout=SEND_SECONDS)
            except RecGPTError as error:
                outcome = error
            must_wait = self._queue.settle(batch, outcome)
            self._set_due()
            if not self._queue:
                self._filled.clear()
                self._empty.set()
            if must_wait:
                await asyncio.sleep(PAUSE)
