"""Recalls that wait for their answers, and the queues that they wait in."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from model.network.config import MAX_OFFERS
from service.errors import DeadlinePassed
from service.history.entries import Entries, read_history
from service.history.event_types import EventTypes
from service.history.store import StoreProblem
from service.recall.served_bundle import ServedBundle
from service.recall.types import BatchResult, DegradedReason, EncodedCandidates, Query, StageSeconds

DEGRADED: dict[StoreProblem, DegradedReason] = {
    StoreProblem.UNAVAILABLE: "store_unavailable",
    StoreProblem.WRONG_TYPE: "unreadable_history",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a recall."""

    found: EncodedCandidates
    bundle: ServedBundle | None  # that they are of
    degraded_reason: DegradedReason | None
    seconds: StageSeconds

    @property
    def version(self) -> str:
        """The version that answered."""
        return self.bundle.version if self.bundle else ""


@dataclass(slots=True, eq=False)
class Waiting:
    """A recall that waits for its answer."""

    query: Query
    answer: asyncio.Future[Answer]
    patience: float  # seconds after which the answer is of no use
    since: float = field(default_factory=time.perf_counter)
    store_problem: StoreProblem | None = None
    seconds: StageSeconds = field(default_factory=lambda: {"queue": 0.0, "store": 0.0})

    def set_history(
        self,
        entries: Entries,
        types: EventTypes,
        now: float,
        actions: Collection[bytes],
        offers: Sequence[bytes] = (),
    ) -> None:
        """Completes the query: the stored history goes before the items that it has.

        `actions` are the types of events that the network reads as feedback. The stored `offers`
        are older than those of the query, and do not follow the items that it has.
        """
        found = read_history(entries, types, now, self.query.repeat_after_days, actions)
        exclude = self.query.exclude
        if found.excluded:
            exclude = [*exclude, *found.excluded]
        items = found.items
        if self.query.history:
            items, offers = [*items, *self.query.history], ()
        if self.query.offers:
            offers = list(dict.fromkeys([*self.query.offers, *offers]))[:MAX_OFFERS]
        self.query = self.query.with_history(items, exclude, found.actions, offers)
        if self.query.popular:
            self.query = self.query.without_network()

    def resolve(self, found: EncodedCandidates, computed: BatchResult) -> Answer:
        """Sets the answer, unless the caller has given up, and returns it."""
        seconds = self.seconds | computed.seconds
        answer = Answer(found, computed.bundle, self._reason(found), seconds)
        if not self.answer.done():
            self.answer.set_result(answer)
        return answer

    def fail(self, error: Exception) -> None:
        """Sets an error in place of an answer, unless the caller has given up."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self) -> None:
        """Sets the error of a recall that was not answered in time, unless it has an answer."""
        detail = f"not answered within {self.patience * 1000:.0f} ms: the service is overloaded"
        self.fail(DeadlinePassed(detail))

    def _reason(self, found: EncodedCandidates) -> DegradedReason | None:
        if not found.cold:
            return None
        if self.store_problem:
            return DEGRADED[self.store_problem]
        if self.query.popular:  # as it was asked for
            return None
        return "unknown_items" if found.unknown_items else "no_history"


class Queue:
    """Recalls, first come, first served, taken in batches. Any of them can leave at any time."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, waiting: Waiting) -> None:
        """Appends a recall, unless its caller has given up."""
        if not waiting.answer.done():
            self._waiting[waiting] = None
            self._filled.set()

    def drop(self, waiting: Waiting) -> None:
        """Removes a recall if it is in this queue."""
        self._waiting.pop(waiting, None)

    async def take(self, limit: int) -> list[Waiting]:
        """Removes and returns the oldest recalls, up to `limit`; waits while there is none."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return [self._waiting.popitem(last=False)[0] for _ in range(min(limit, len(self)))]
