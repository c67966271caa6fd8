"""The slowest recent requests, with the time of their stages: bounded, and without ids of users."""

import heapq
import itertools
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

KEPT = 32
"""Requests that are kept of each period."""
PERIOD_SECONDS = 300.0


class SlowRequest(NamedTuple):
    """A request that took long."""

    seconds: float
    at: float
    """End of the request, in seconds since 1970."""
    request_id: str
    route: str
    status: int
    stages: Mapping[str, float]
    """Seconds of each stage of a recall; empty for other requests."""
    trace_id: str | None = None
    """The trace that has it, where requests are traced."""


class SlowRequests:
    """The slowest requests of this period and of the one before.

    A request that is not among them costs two comparisons.
    """

    def __init__(self, period_seconds: float = PERIOD_SECONDS) -> None:
        self._period_seconds = period_seconds
        self._current: list[tuple[float, int, SlowRequest]] = []  # a heap: the fastest is first
        self._before: list[tuple[float, int, SlowRequest]] = []
        self._numbers = itertools.count()  # they order requests that took the same time
        self._ends = -math.inf
        self._fastest = -1.0  # seconds that a request must exceed

    def is_slow(self, seconds: float, now: float) -> bool:
        """Returns whether a request that ends now belongs to the slowest.

        `now` is a time of `time.perf_counter`.
        """
        if now >= self._ends:
            self._begin_period(now)
        return seconds > self._fastest

    def add(self, request: SlowRequest) -> None:
        """Takes a request for which `is_slow` was true."""
        entry = request.seconds, next(self._numbers), request
        if len(self._current) < KEPT:
            heapq.heappush(self._current, entry)
        else:
            heapq.heapreplace(self._current, entry)
        if len(self._current) == KEPT:
            self._fastest = self._current[0][0]

    def slowest(self) -> list[SlowRequest]:
        """Returns the slowest requests of the last 5 to 10 minutes, the slowest first."""
        self.is_slow(0.0, time.perf_counter())  # ends a period that is over
        slowest = heapq.nlargest(KEPT, [*self._before, *self._current])
        return [request for _, _, request in slowest]

    def _begin_period(self, now: float) -> None:
        is_next = now < self._ends + self._period_seconds
        self._before = self._current if is_next else []
        self._current = []
        self._ends = now + self._period_seconds
        self._fastest = -1.0
