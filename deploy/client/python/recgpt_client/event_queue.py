"""Events, and those of them that wait to be sent: bounded, and without I/O."""

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from recgpt_client.answers import Accepted, FieldProblem
from recgpt_client.errors import DeadlineExceeded, RecGPTError, ServiceError, is_passing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """An interaction of a user with an item.

    It always has a time, in seconds since 1970, so that the service knows it if it comes twice.
    """

    user_id: str
    item_id: str
    type: str = "click"
    timestamp: float = field(default_factory=time.time)
    request_id: str | None = None
    value: float | None = None
    watch_seconds: float | None = None

    def body(self) -> dict[str, Any]:
        """Returns the event as it is sent."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


class EventQueue:
    """Events that wait, oldest first, up to a bound; counts those that were lost."""

    def __init__(self, max_waiting: int, max_batch: int) -> None:
        """Raises ValueError for bounds that the service does not take."""
        if not 1 <= max_batch <= 1000:
            raise ValueError(f"max_batch: {max_batch} is not from 1 to 1000")
        if max_waiting < max_batch:
            raise ValueError(f"max_waiting: {max_waiting} is below max_batch ({max_batch})")
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._waiting: deque[Event] = deque()
        self._again: set[Event] = set()  # that the service refused once, and may take next time
        self.dropped = 0
        """Events that found no room."""
        self.failed = 0
        """Events that the service did not take."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_batch(self) -> bool:
        """Whether a whole batch waits."""
        return len(self._waiting) >= self._max_batch

    def put(self, event: Event) -> bool:
        """Appends an event; returns False, and counts it, if there is no room."""
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            return False
        self._waiting.append(event)
        return True

    def take(self) -> list[Event]:
        """Removes and returns the oldest events, up to a batch."""
        count = min(self._max_batch, len(self._waiting))
        return [self._waiting.popleft() for _ in range(count)]

    def settle(self, batch: Sequence[Event], outcome: Accepted | RecGPTError) -> bool:
        """Takes back what is to be sent again, and counts what the service did not take.

        Returns whether the next batch should wait, because the service cannot take one now.
        """
        if isinstance(outcome, Accepted):
            refused = _positions(outcome.errors, len(batch))
            self._take_back([batch[i] for i in refused if batch[i] not in self._again])
            self._fail([batch[i] for i in refused if batch[i] in self._again], outcome.errors)
            self._again = {batch[i] for i in refused} - self._again
            return bool(refused)
        if isinstance(outcome, DeadlineExceeded) or is_passing(outcome):
            self._take_back(batch)
            return True
        errors = outcome.errors if isinstance(outcome, ServiceError) else ()
        wrong = _positions(errors, len(batch)) or range(len(batch))
        self._take_back([event for i, event in enumerate(batch) if i not in wrong])
        self._fail([batch[i] for i in wrong], errors or [FieldProblem("events", str(outcome))])
        return False

    def _take_back(self, events: Sequence[Event]) -> None:
        self._waiting.extendleft(reversed(events))

    def _fail(self, events: Sequence[Event], errors: Sequence[FieldProblem]) -> None:
        if events:
            self.failed += len(events)
            first = f"{errors[0].where}: {errors[0].problem}"
            log.error("%d events were not stored: %s", len(events), first)


def _positions(errors: Iterable[FieldProblem], count: int) -> list[int]:
    """Returns the places of the events that the errors name (`events.3`, `events.3.item_id`)."""
    words = (error.where.split(".") for error in errors)
    named = {int(w[1]) for w in words if w[0] == "events" and len(w) > 1 and w[1].isdigit()}
    return sorted(position for position in named if position < count)
