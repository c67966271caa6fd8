"""Recalls on their way through the engine, and the queues in which they wait."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.http.schemas import RecallRequest
from service.recall.types import DegradedReason, EncodedCandidates, Query, StageSeconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What a recall came to."""

    found: EncodedCandidates
    degraded_reason: DegradedReason | None
    seconds: StageSeconds


@dataclass(slots=True, eq=False)
class Waiting:
    """A recall on its way."""

    request: RecallRequest
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)
    history: Sequence[str] = ()
    store_failed: bool = False
    seconds: StageSeconds = field(default_factory=lambda: {"queue": 0.0, "store": 0.0})

    def query(self) -> Query:
        """What is asked of the worker."""
        request = self.request
        return Query(request.user_id, self.history, request.exclude, request.k, request.interests)

    def resolve(self, found: EncodedCandidates, seconds: StageSeconds) -> Answer:
        """Give the answer to whoever still waits for it."""
        answer = Answer(found, self._reason(found), self.seconds | seconds)
        if not self.answer.done():
            self.answer.set_result(answer)
        return answer

    def fail(self, error: Exception) -> None:
        """Give an error to whoever still waits for the answer."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def _reason(self, found: EncodedCandidates) -> DegradedReason | None:
        if not found.cold:
            return None
        if self.store_failed:
            return "store_unavailable"
        return "unknown_items" if found.unknown_items else "no_history"


class Queue:
    """First come, first served, in batches. Whoever gives up leaves at once."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, waiting: Waiting) -> None:
        """Join the end, unless it has been answered meanwhile."""
        if not waiting.answer.done():
            self._waiting[waiting] = None
            self._filled.set()

    def drop(self, waiting: Waiting) -> None:
        """Leave, where it is in here."""
        self._waiting.pop(waiting, None)

    async def take(self, most: int) -> list[Waiting]:
        """All that wait, but `most` at the most; waits while nobody does."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return [self._waiting.popitem(last=False)[0] for _ in range(min(most, len(self)))]
