"""Follows the items in the store, so that a change reaches the engine within a second.

Every front end has a watcher, so that none depends on another. A look is one round trip: it reads
the announcements since the last look and counts the hidden items. After a failure the state is read
as a whole.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from service.catalogue.state import CatalogueState
from service.catalogue.store import (
    BEGINNING,
    MAX_HIDDEN,
    CatalogueStore,
    ItemState,
    Look,
)
from service.history.health import Health
from service.history.store import StoreUnavailable

log = logging.getLogger(__name__)

LOOK_SECONDS, RETRY_SECONDS = 0.2, 0.5
"""Pause between two looks, and after one that failed."""
REREAD_SECONDS = 30.0
"""Time after which hidden items are read again, since one may replace another unannounced."""
START_SECONDS = 1.0
"""Longest wait for the hidden items before the first recall."""
MAX_CHANGED = 100_000
"""Items whose changed attributes are kept."""


class CatalogueWatcher:
    """Keeps a `CatalogueState` as the store has it."""

    def __init__(self, store: CatalogueStore, state: CatalogueState) -> None:
        self.state = state
        self.unusable: dict[str, str] = {}
        """Items whose hash cannot be read, and why."""
        self._store = store
        self._position: bytes | None = None  # None: the state must be read as a whole
        self._patched: set[str] = set()  # that the store is known to remember
        self._reread = 0.0
        self._seen = 0.0  # time of the last look that succeeded
        self._looking = asyncio.Lock()
        self._asked = self._covered = 0
        self._health = Health("changes of items")
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads the hidden items, if the store answers in time, and begins to follow."""
        with suppress(StoreUnavailable, TimeoutError):  # the log says why
            async with asyncio.timeout(START_SECONDS):
                await self._read_hidden()
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Follows no more."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def look(self) -> None:
        """Returns when all that was in the store before the call is in the state.

        Calls that arrive during a look share the next one. Raises StoreUnavailable.
        """
        self._asked += 1
        wanted = self._asked
        async with self._looking:
            if self._covered >= wanted:
                return
            covered = self._asked
            try:
                await self._look()
            except BaseException:
                self._position = None
                raise
            self._covered = covered
            self._seen = time.monotonic()

    @property
    def age_seconds(self) -> float:
        """Seconds since the store was looked at; infinite before the first time."""
        return time.monotonic() - self._seen if self._seen else float("inf")

    async def _run(self) -> None:
        while True:
            pause = RETRY_SECONDS
            try:
                await self.look()
                pause = LOOK_SECONDS
            except StoreUnavailable:  # the store has logged it
                pass
            except Exception:  # a bug must not end the task
                log.exception("items in the store were not followed because of a bug")
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        if self._position is None:
            await self._read_all()
            return
        look = await self._follow(self._position)
        limited = look.hidden is not None and min(look.hidden, len(self.state.hidden)) > MAX_HIDDEN
        differs = look.hidden is not None and look.hidden != len(self.state.hidden)
        if (differs and not limited) or time.monotonic() > self._reread:
            await self._read_hidden()

    async def _read_hidden(self) -> None:
        self._reread = time.monotonic() + REREAD_SECONDS
        hidden = await self._store.hidden()
        if hidden is not None and len(hidden) > MAX_HIDDEN:
            self._health.complain(
                "hidden",
                f"more than {MAX_HIDDEN:,} items are hidden, and only {MAX_HIDDEN:,} can be: take "
                "such items out of the bundle, or filter by an attribute",
            )
        self.state.change(hidden, {})

    async def _read_all(self) -> None:
        """Reads the whole state: hidden items, and every item that may have a hash."""
        await self._read_hidden()
        self._patched = {item async for ids in self._store.patched() for item in ids}
        look = await self._follow(BEGINNING)
        await self._apply(await self._store.states([*(self._patched | self.state.texts.keys())]))
        self._position = look.position

    async def _follow(self, position: bytes) -> Look:
        """Takes all announcements after a position; returns the last look."""
        while True:
            look = await self._store.look(position)
            if look.items:
                await self._apply(await self._store.states(look.items))
            self._position = position = look.position
            if not look.more:
                return look

    async def _apply(self, states: Mapping[str, ItemState]) -> None:
        """Takes the states of items that may have changed."""
        hidden = set(self.state.hidden)
        texts: dict[str, Mapping[str, str]] = {}
        for item, found in states.items():
            if found.hidden is not None:
                (hidden.add if found.hidden else hidden.discard)(item)
            self.unusable.pop(item, None)
            if found.problem:
                self.unusable[item] = found.problem
                self._health.complain("unusable", f"i:{item} is ignored: {found.problem}")
            texts[item] = found.texts
        self.state.change(frozenset(hidden), self._within_limit(texts))
        new = [item for item in texts if texts[item] and item not in self._patched]
        with suppress(StoreUnavailable):  # the next start would not see them; the log says it
            await self._store.note_patched(new)
            self._patched.update(new)

    def _within_limit(
        self, texts: Mapping[str, Mapping[str, str]]
    ) -> Mapping[str, Mapping[str, str]]:
        """Returns the texts without those of items that are too many."""
        known = self.state.texts
        new = [item for item, own in texts.items() if own and item not in known]
        over = new[max(MAX_CHANGED - len(known), 0) :]
        if not over:
            return texts
        self._health.complain(
            "changed",
            f"more than {MAX_CHANGED:,} items have changed attributes, and those of {len(over):,} "
            "are ignored: export a bundle with the new attributes and delete the hashes",
        )
        return {item: own for item, own in texts.items() if item not in set(over)}
