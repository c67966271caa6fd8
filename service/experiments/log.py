"""The log of experiments: what was shown, and what users did, as two streams in the store.

stream       an entry is                    its fields
`exposures`  a recall of an experiment      experiment, arm, user, request, at, version, degraded,
                                            and teams in an interleaved one
`events`     an event that was acknowledged  id, user, item, type, at, request, value

Times are seconds since 1970. A stream keeps its newest entries, as many as MAX_ENTRIES;
`recgpt events export` writes them to Parquet before that. Exposures are written in the background,
so that no answer waits for the store: while it is slow, they are dropped and counted. An event is
in the log before it is in a history, so that a retry can repeat it but no crash loses it; the `id`
tells repetitions.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from service.experiments.assignment import Assignment
from service.experiments.team_draft import INTERLEAVED
from service.history.events import HistoryEvent, event_id
from service.history.health import Health, words_of
from service.history.store import Command, HistoryStore, StoreUnavailable

EXPOSURES, EVENTS = "exposures", "events"
MAX_ENTRIES = 1_000_000
"""Entries that a stream keeps, about: some hundred megabytes, or gigabytes if most are exposures of
interleaved lists with hundreds of items, which are 2 to 3 kB each."""
MAX_WAITING = 10_000
"""Exposures that wait to be written; further ones are dropped."""
FLUSH_SECONDS = 0.2
CHUNK = 500
"""Entries of one round trip."""

Entry = dict[str, str]


class ExperimentLog:
    """Writes exposures and events to the store."""

    def __init__(self, store: HistoryStore, on_loss: Callable[[str, int], None]) -> None:
        """Takes what to call with a stream and the number of entries that were not written."""
        self._store = store
        self._on_loss = on_loss
        self._waiting: deque[Entry] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._exposing = Health("writing exposures")
        self._logging = Health("writing events of experiments")

    def expose(
        self,
        assignments: Sequence[Assignment],
        user: str,
        request_id: str,
        version: str,
        degraded: bool,
        teams: str = "",
    ) -> None:
        """Notes that a user was answered by these arms. Returns at once.

        `teams` is the JSON of the items of each arm, by its name, in an interleaved answer.
        """
        at = f"{time.time():.3f}"
        for one in assignments:
            if len(self._waiting) >= MAX_WAITING:
                self._on_loss(EXPOSURES, 1)
                continue
            self._waiting.append(
                {
                    "experiment": one.experiment,
                    "arm": one.arm,
                    "user": user,
                    "request": request_id,
                    "at": at,
                    "version": version,
                    "degraded": str(int(degraded)),
                }
                | ({"teams": teams} if teams and one.arm == INTERLEAVED else {})
            )

    async def write_events(self, events: Sequence[HistoryEvent]) -> None:
        """Writes events. Raises StoreUnavailable if the store fails."""
        now = time.time()
        entries = [_event_entry(event, now) for event in events]
        for start in range(0, len(entries), CHUNK):
            await self._write(EVENTS, entries[start : start + CHUNK], self._logging)

    async def follow(self) -> None:
        """Writes exposures until it is cancelled, which ends no write that has begun."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._flushing = asyncio.create_task(self._try_to_flush())
            await asyncio.shield(self._flushing)

    async def close(self) -> None:
        """Writes the exposures that still wait; counts those as lost that the store refuses."""
        if self._flushing:
            await asyncio.wait([self._flushing])
        await self._try_to_flush()
        if lost := len(self._waiting):
            self._waiting.clear()
            self._on_loss(EXPOSURES, lost)

    async def flush(self) -> None:
        """Writes the exposures that wait. Raises StoreUnavailable, and drops those it tried."""
        while self._waiting:
            chunk = [self._waiting.popleft() for _ in range(min(CHUNK, len(self._waiting)))]
            try:
                await self._write(EXPOSURES, chunk, self._exposing)
            except StoreUnavailable:
                self._on_loss(EXPOSURES, len(chunk))
                raise

    async def _try_to_flush(self) -> None:
        with suppress(StoreUnavailable):  # the health has logged it
            await self.flush()

    async def _write(self, stream: str, entries: Sequence[Entry], health: Health) -> None:
        commands: list[Command] = [
            ("xadd", (stream, entry), {"maxlen": MAX_ENTRIES}) for entry in entries
        ]
        replies = await self._store.run(commands, health)
        lost = [reply for reply in replies if isinstance(reply, Exception)]
        if lost:
            self._on_loss(stream, len(lost))
            health.complain(stream, f"entries of the stream {stream} are lost: {words_of(lost[0])}")


def _event_entry(event: HistoryEvent, now: float) -> Entry:
    entry = {
        "id": event_id(event),
        "user": event.user_id,
        "item": event.item_id,
        "type": event.type,
        "at": f"{now if event.timestamp is None else event.timestamp:.3f}",
        "request": event.request_id,
        "value": None if event.value is None else repr(event.value),
    }
    return {name: text for name, text in entry.items() if text}
