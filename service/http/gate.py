"""The gate of a front end: it refuses what there is no room for, before a body is read.

A refused client may ask again at once, and thousands of them would leave the event loop no time for
the recalls that were accepted. So a refusal is a few bytes that no application has a part in, and
only a few refusals are sent at once, with a pause behind them: accepted recalls come first,
refusals get the time that is left. Health and metrics are never refused.
"""

import asyncio
import ctypes
import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from service.batcher import Batcher
from service.http.access import Headers, key_of
from service.http.api_keys import ApiKey
from service.http.problems import prepared_problem
from service.observability.metrics import QUIET_ROUTES, ROUTES, Metrics

log = logging.getLogger(__name__)

REFUSALS_AT_ONCE = 16
"""Refusals that are sent before a pause."""
PAUSE_SECONDS = 0.001
"""Pause between them: without it, clients that ask again at once would take a core of its own,
which the engine may need."""
FLOOD = 512
"""Connections that are many: when half of them have ended, their memory is given back."""
FLOOD_SECONDS = 1.0
"""Time after which that is done, so that the end of a flood is no moment to wait for it."""
LOG_SECONDS = 10.0
"""Time between two log lines that count refusals."""

RECALLS = ("/recall", "/recall/batch")
REFUSALS = {
    "QueueFull": prepared_problem(
        429, "more recalls arrive than can be answered in time: try again later", retry_after=1
    ),
    "TooManyConnections": prepared_problem(
        429, "this process has as many connections as it may: try again later", retry_after=1
    ),
}
"""The answers by the reason of a refusal; see `prepared_problem`."""


class Gate:
    """Decides which requests of a front end's connections are served, and which are refused."""

    def __init__(
        self,
        batcher: Batcher,
        metrics: Metrics,
        max_connections: int,
        leaving: Callable[[], bool] = lambda: False,
        keys: Sequence[ApiKey] = (),
    ) -> None:
        """Takes what the connections share; `leaving` is whether clients should go elsewhere."""
        self._keys = keys
        self.max_connections = max_connections
        self.leaving = leaving
        self.metrics = metrics
        self._batcher = batcher
        self._arriving = 0  # recalls that were let in and have not reached the batcher
        self._waiting: deque[Callable[[], None]] = deque()
        self._refused, self._logged_at = 0, -LOG_SECONDS  # since then
        self._most = 0  # connections since memory was given back

    def reason_to_refuse(self, path: str, headers: Headers, excess: bool) -> str:
        """Returns why the request is refused, a key of `REFUSALS`; empty if it is not.

        `excess` is whether its connection is one too many.
        """
        if path in QUIET_ROUTES:
            return ""
        if excess:
            return "TooManyConnections"
        if path not in RECALLS:
            return ""
        if not self._batcher.has_room(self._arriving) and not self._is_below_share(headers):
            return "QueueFull"
        if not self._arriving:  # all that arrive in this turn of the loop reach the batcher in it
            asyncio.get_running_loop().call_soon(self._have_arrived)
        self._arriving += 1
        return ""

    def refuse(self, path: str, reason: str, send: Callable[[], None]) -> None:
        """Counts a refusal, and has it sent as soon as there is time."""
        route = path if path in ROUTES else "other"
        self.metrics.refused(route, 429, reason)
        self._log(reason)
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send_some)
        self._waiting.append(send)

    def connection_ended(self, left: int) -> None:
        """Notes the number of connections that are left, and gives memory back after a flood."""
        self._most = max(self._most, left + 1)
        if self._most > FLOOD and 2 * left < self._most:
            self._most = left
            asyncio.get_running_loop().call_later(FLOOD_SECONDS, give_memory_back)

    def _is_below_share(self, headers: Headers) -> bool:
        """Returns whether the request's key has so little under way that it is let in."""
        key = key_of(self._keys, headers)
        return key is not None and self._batcher.has_room(self._arriving, key.name)

    def _send_some(self) -> None:
        if len(self._waiting) > REFUSALS_AT_ONCE:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._send_some)
        for _ in range(min(REFUSALS_AT_ONCE, len(self._waiting))):
            try:
                self._waiting.popleft()()
            except Exception:  # of one connection, and the others wait for their refusals
                log.exception("a refusal was not sent because of a bug")

    def _have_arrived(self) -> None:
        self._arriving = 0

    def _log(self, reason: str) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning("requests are refused", extra={"reason": reason, "count": self._refused})
            self._refused, self._logged_at = 0, now


def give_memory_back() -> None:
    """Collects the cycles that ended connections leave, and returns free memory to the system.

    Collections are rare in a front end, which would keep what thousands of connections took.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # the C library is another than glibc
        ctypes.CDLL(None).malloc_trim(0)
