"""Items that are popular now: a count of recent events that decays, in the store.

key              type        content
`popular:DAYS`   sorted set  the items with the highest counts, for this half-life

An event counts with the weight of its type, and half of that after every half-life. If all counts
halve alike, their order stays, so nothing is ever rewritten: an event at time t counts
weight * 2 ** (t / half-life), and the set holds the base-2 logarithms of the sums, which never
overflow. All instances add to the same set, and read it from time to time.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress

from service.catalogue.state import CatalogueState
from service.history.event_types import EventTypes
from service.history.events import DAY_SECONDS, HistoryEvent
from service.history.health import Health, words_of
from service.history.store import HistoryStore, StoreUnavailable

log = logging.getLogger(__name__)

MAX_POPULAR = 10_000
"""Items whose counts are kept; those with the lowest ones are dropped."""
KEPT_HALF_LIVES = 30
"""Half-lives without an event after which the store drops all counts."""
READ_SECONDS = 10.0
"""Pause between two looks at the counts."""

COUNT = """
local key, limit, seconds = KEYS[1], tonumber(ARGV[1]), ARGV[2]
for i = 3, #ARGV, 2 do
  local sum = tonumber(ARGV[i + 1])
  local before = redis.call('ZSCORE', key, ARGV[i])
  if before then
    local high, low = math.max(sum, tonumber(before)), math.min(sum, tonumber(before))
    sum = high + math.log(1 + 2 ^ (low - high)) / math.log(2)
  end
  redis.call('ZADD', key, string.format('%.17g', sum), ARGV[i])
end
local over = redis.call('ZCARD', key) - limit
if over > 0 then redis.call('ZREM', key, unpack(redis.call('ZRANGE', key, 0, over - 1))) end
redis.call('EXPIRE', key, seconds)
return 1
"""
"""Adds to counts. ARGV: limit of the items, seconds until the key expires; then item, count, …"""


class RecentPopularity:
    """Counts events, and keeps the order of the items in a `CatalogueState`."""

    def __init__(
        self, store: HistoryStore, types: EventTypes, half_life_days: float, state: CatalogueState
    ) -> None:
        """Takes the time after which an event counts half."""
        self._store = store
        self._types = types
        self._half_life = half_life_days * DAY_SECONDS
        self._key = f"popular:{half_life_days:g}"
        self._expiry = str(math.ceil(max(KEPT_HALF_LIVES * self._half_life, DAY_SECONDS)))
        self._state = state
        self._health = Health("counting popular items")

    async def count(self, events: Sequence[HistoryEvent]) -> None:
        """Counts events. Those that the store does not take are lost, and the log says so."""
        now = time.time()
        counts: list[str] = []
        for event in events:
            if weight := self._types.of(event.type).weight:
                at = now if event.timestamp is None else min(event.timestamp, now)
                counts += [event.item_id, repr(math.log2(weight) + at / self._half_life)]
        if not counts:
            return
        arguments = COUNT, 1, self._key, str(MAX_POPULAR), self._expiry, *counts
        with suppress(StoreUnavailable):  # the health has logged it
            (reply,) = await self._store.run([("eval", arguments, {})], self._health)
            if isinstance(reply, Exception):
                self._health.complain("count", f"{self._key}: {words_of(reply)}")

    async def read(self) -> None:
        """Reads the order of the items. Raises StoreUnavailable."""
        (found,) = await self._store.run([("zrange", (self._key, 0, -1), {})], self._health)
        if isinstance(found, Exception):
            self._health.complain("read", f"{self._key}: {words_of(found)}")
            return
        self._state.rank([item.decode(errors="replace") for item in reversed(found)])

    async def follow(self) -> None:
        """Reads again and again, until it is cancelled."""
        while True:
            try:
                await self.read()
            except StoreUnavailable:  # the health has logged it
                pass
            except Exception:  # a bug must not end the task
                log.exception("popular items were not read because of a bug")
            await asyncio.sleep(READ_SECONDS)
