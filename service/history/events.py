"""Events on their way into histories, each of which is stored once however often it is sent.

A client that gets no answer, or a 503, cannot know whether its events were stored, so it sends
them again. Beside a history `h:USER` the store keeps the ids of the user's latest events in the
list `e:{h:USER}`, newest first. A script appends the events whose ids are not in that list, and
adds their ids to it. Redis runs a script as a whole, so no crash comes between the two steps, and
two tries of the same event at the same time store it once.

An event of a type that is an offer, such as an impression, does not enter the history. Its item's
id is put at the head of the list `o:{h:USER}`: the items that the user was shown since the newest
event of the history, each once, the newest first. An event that enters the history deletes the
list, and without a history there is none, because nothing would read it.

The braces in the keys make a cluster keep all lists of a user on the same node.
"""

import math
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha1
from itertools import count
from typing import Any, NamedTuple

from redis.crc import key_slot

from model.network.config import MAX_OFFERS

CLICK = "click"
"""The type of an event that names none, and of an entry that is only an item's id."""
DAY_SECONDS = 86_400
RETRY_SECONDS = 3600
"""Time for which the ids of a user's events are kept after their latest event."""
MAX_EVENTS = 1000
"""Events of one call, and ids that are kept for a user."""
MAX_PENDING = 100_000
"""Events without timestamp and request_id that are remembered while their outcome is unknown."""
ID_BYTES = 12
ENTERS, EXCLUDES, OFFER = "enters", "excludes", "offer"
"""Effects of an event: it enters the history, only excludes its item, or is an offer."""

APPEND = f"""
local history, ids, offers = KEYS[1], KEYS[2], KEYS[3]
local limit, max_known, seconds = ARGV[1], ARGV[2], ARGV[3]
local kept, oldest = ARGV[4], tonumber(ARGV[5])
if offers then
  redis.call('LLEN', history)
  redis.call('LLEN', offers)
end
local known = {{}}
for _, id in ipairs(redis.call('LRANGE', ids, 0, -1)) do known[id] = true end
for i = 6, #ARGV, 3 do
  local id, effect, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if not known[id] then
    if effect ~= '{OFFER}' then
      redis.call('LPUSH', history, entry)
      if offers and effect == '{ENTERS}' then redis.call('DEL', offers) end
    elseif redis.call('LLEN', history) > 0 then
      redis.call('LREM', offers, 0, entry)
      local is_first = redis.call('LPUSH', offers, entry) == 1
      if is_first and kept ~= '' then redis.call('EXPIRE', offers, kept) end
      redis.call('LTRIM', offers, 0, {MAX_OFFERS - 1})
    end
    redis.call('LPUSH', ids, id)
  end
end
redis.call('LTRIM', history, 0, limit - 1)
redis.call('LTRIM', ids, 0, max_known - 1)
redis.call('EXPIRE', ids, seconds)
if kept ~= '' then
  while true do
    local entry = redis.call('LINDEX', history, -1)
    local time = entry and string.match(entry, '^[^\\t]*\\t[^\\t]*\\t([%d.]+)')
    if not (time and tonumber(time) and tonumber(time) < oldest) then break end
    redis.call('RPOP', history)
  end
  redis.call('EXPIRE', history, kept)
end
return 1
"""
"""Appends events of one user. KEYS: history, ids, and offers if any type of events is one.

ARGV: limit of the history, limit of the ids, their seconds; seconds for which the history is kept,
empty for ever; the time before which events at its end are dropped; then id, effect, entry, id, …
The entry of an offer is the id of its item.

A key of another type fails the first command that meets it, before anything is written.
"""
APPENDED = 1
"""The reply of the script."""
APPEND_SHA = sha1(APPEND.encode()).hexdigest()


class HistoryEvent(NamedTuple):
    """An event as far as it is stored, or told from others."""

    user_id: str
    item_id: str
    type: str = CLICK
    timestamp: float | None = None
    """Seconds since 1970."""
    request_id: str | None = None
    value: float | None = None
    """A price, a rating, …: the type says which."""
    watch_seconds: float | None = None

    @property
    def is_bare(self) -> bool:
        """Whether nothing is known of the event but that a user clicked an item."""
        return self.type == CLICK and self.timestamp is self.value is self.watch_seconds is None

    @property
    def identity(self) -> tuple[Any, ...]:
        """The fields that tell the event from others."""
        return self[:5]

    @property
    def is_unique(self) -> bool:
        """Whether another event with the same identity is the same event."""
        return self.timestamp is not None or self.request_id is not None


class Retention(NamedTuple):
    """The time for which events are kept."""

    days: float | None = None
    """None: as long as there is room for them."""

    @property
    def expiry(self) -> str:
        """Whole seconds after its latest event after which a history expires; empty for never."""
        return "" if self.days is None else str(math.ceil(self.days * DAY_SECONDS))

    def since(self, now: float) -> float:
        """Returns the time before which events are not read any more."""
        return 0.0 if self.days is None else now - self.days * DAY_SECONDS


class EventIds:
    """The ids by which the store tells an event that is sent again from a new one.

    The id of an event that has a timestamp or a request_id is a digest of its fields, in every
    process. An event without them may happen twice, so it gets a new id, and keeps it in this
    process until it is known to be stored.
    """

    def __init__(self) -> None:
        self._pending: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()  # by digest

    def assign(self, events: Sequence[HistoryEvent]) -> list[bytes]:
        """Returns the id of each event. Equal events of one call get different ids."""
        self._forget_old()
        ids = []
        for event, digest in zip(events, _digests(events), strict=True):
            if not event.is_unique:
                now = time.monotonic(), os.urandom(ID_BYTES)
                digest = self._pending.setdefault(digest, now)[1]
            ids.append(digest)
        return ids

    def settle(self, events: Sequence[HistoryEvent]) -> None:
        """Notes that the events of a call were stored: equal ones from now on are new."""
        for event, digest in zip(events, _digests(events), strict=True):
            if not event.is_unique:
                self._pending.pop(digest, None)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - RETRY_SECONDS
        while self._pending:
            since, _ = next(iter(self._pending.values()))
            if since > oldest and len(self._pending) <= MAX_PENDING:
                return
            self._pending.popitem(last=False)


def event_id(event: HistoryEvent) -> str | None:
    """Returns a text that is the same whenever the event is sent; None if it is not unique."""
    return _digests([event])[0].hex() if event.is_unique else None


def ids_key(history_key: str) -> str:
    """Returns the key of the ids beside a history."""
    return _beside("e", history_key)


def offers_key(history_key: str) -> str:
    """Returns the key of the offers beside a history."""
    return _beside("o", history_key)


def _beside(kind: str, history_key: str) -> str:
    """Returns a key that a cluster keeps on the same node as a history.

    A cluster looks at the text in the first pair of braces of a key, and at all of it if there is
    none. So a history's key stands in braces, unless it has a closing one: such a key needs a text
    that leads to the same slot.
    """
    if "}" in history_key:
        return f"{kind}:{{{_tag(key_slot(history_key.encode()))}}}{history_key}"
    return f"{kind}:{{{history_key}}}"


@lru_cache(maxsize=1 << 14)
def _tag(slot: int) -> int:
    """Returns the first number that leads to a slot of a cluster."""
    return next(number for number in count() if key_slot(b"%d" % number) == slot)


def append_arguments(
    limit: int, keep: Retention, now: float, events: Sequence[tuple[bytes, str, bytes]]
) -> list[str | bytes]:
    """Returns ARGV of the script for (id, effect, entry) events of one user, in their order."""
    words = [word for event in events for word in event]
    limits = [str(limit), str(MAX_EVENTS), str(RETRY_SECONDS)]
    return [*limits, keep.expiry, f"{keep.since(now):.3f}", *words]


def _digests(events: Sequence[HistoryEvent]) -> list[bytes]:
    """Returns a digest of each event's identity, and of the number of equal events before it."""
    before: dict[tuple[Any, ...], int] = {}
    digests = []
    for event in events:
        number = before[event.identity] = before.get(event.identity, -1) + 1
        text = repr((*event.identity, number)).encode()
        digests.append(blake2b(text, digest_size=ID_BYTES).digest())
    return digests
