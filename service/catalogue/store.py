"""Items as they change while a bundle lives, in the store.

key              type    content
`hidden`         set     ids of items that no answer may hold
`i:ITEM`         hash    attributes that take the place of the bundle's, as text
`items:changes`  stream  announcements: `XADD items:changes MAXLEN ~ 100000 * item ITEM` says that
                         `hidden` or the hash of this item has changed
`items:patched`  set     ids that may have a hash, so that a start need not search the whole store;
                         the service keeps it

Any job in any language may write: it changes the set or a hash first, and announces it then.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from service.history.health import Health, words_of
from service.history.store import Command, HistoryStore, StoreUnavailable

HIDDEN, CHANGES, PATCHED = "hidden", "items:changes", "items:patched"
MAX_HIDDEN = 100_000
"""Items that can be hidden."""
MAX_ANNOUNCEMENTS = 100_000
"""Length of the stream, about."""
CHUNK = 500
"""Items, or announcements, of one round trip."""
SCAN_CHUNK = 5000
"""Ids of a set in one round trip."""
MAX_FIELDS = 256
"""Fields of a hash that is read."""
BEGINNING = b"0-0"
"""The position before the first announcement."""

Texts = dict[str, str]
"""The fields of a hash."""


class Look(NamedTuple):
    """The announcements after a position."""

    position: bytes
    """The last of them."""
    items: list[str]
    more: bool
    """Whether there may be more of them."""
    hidden: int | None
    """The number of hidden items; None if it is not known."""


class KeyUnusable(Exception):
    """A key of the store has another type than it should have; the message names it."""


class ItemState(NamedTuple):
    """The state of one item in the store."""

    hidden: bool | None
    """None: it is not known, because the key of hidden items is no set."""
    texts: Texts
    problem: str
    """The reason why its hash cannot be read; empty if it can."""


class CatalogueStore:
    """Reads and writes the keys. Every method raises StoreUnavailable if the store fails."""

    def __init__(self, store: HistoryStore) -> None:
        """Takes the store of histories, whose connections it shares."""
        self._store = store
        self._following = Health("following changes of items")
        self._writing = Health("changing items")

    async def hidden(self) -> frozenset[str] | None:
        """Returns the ids of hidden items, a few more than MAX_HIDDEN at most.

        Returns None if the key is no set.
        """
        found: set[str] = set()
        async for ids in self._members(HIDDEN):
            if ids is None:
                return None
            found.update(ids)
            if len(found) > MAX_HIDDEN:
                break
        return frozenset(found)

    async def look(self, position: bytes) -> Look:
        """Returns the announcements after a position, at most CHUNK of them."""
        commands: list[Command] = [("xread", ({CHANGES: position},), {"count": CHUNK})]
        if not self._store.is_embedded:
            commands.append(("scard", (HIDDEN,), {}))
        entries, *counts = await self._read(commands)
        count = counts[0] if counts and isinstance(counts[0], int) else None
        if isinstance(entries, Exception):
            self._following.complain("announcements", f"the key {CHANGES} is no stream: delete it")
        if not entries or isinstance(entries, Exception):
            return Look(position, [], False, count)
        ((_, announced),) = entries
        items = {_text(fields[b"item"]): None for _, fields in announced if b"item" in fields}
        return Look(announced[-1][0], list(items), len(announced) == CHUNK, count)

    async def states(self, items: Sequence[str]) -> dict[str, ItemState]:
        """Returns the state of each item."""
        found = {}
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            commands: list[Command] = [("hgetall", (f"i:{item}",), {}) for item in chunk]
            commands += [("sismember", (HIDDEN, item), {}) for item in chunk]
            replies = await self._read(commands)
            half = len(chunk)
            for item, fields, hidden in zip(chunk, replies[:half], replies[half:], strict=True):
                found[item] = _state(fields, hidden)
        return found

    async def patched(self) -> AsyncIterator[Sequence[str]]:
        """Yields the ids of items that may have a hash, in parts."""
        async for ids in self._members(PATCHED):
            yield ids or ()

    async def note_patched(self, items: Sequence[str]) -> None:
        """Remembers items that have a hash, which a job wrote."""
        if items and not self._store.is_embedded:
            await self._write([("sadd", (PATCHED, *items), {})])

    async def set_hidden(self, item: str, hidden: bool) -> None:
        """Hides an item, or shows it again. Raises KeyUnusable."""
        await self._write([("sadd" if hidden else "srem", (HIDDEN, item), {}), _announcement(item)])

    async def set_texts(self, item: str, texts: Texts, removed: Sequence[str]) -> None:
        """Changes and removes fields of the hash of an item. Raises KeyUnusable."""
        commands: list[Command] = []
        if texts:
            commands.append(("hset", (f"i:{item}",), {"mapping": texts}))
        if removed:
            commands.append(("hdel", (f"i:{item}", *removed), {}))
        await self._write([*commands, ("sadd", (PATCHED, item), {}), _announcement(item)])

    async def _members(self, key: str) -> AsyncIterator[list[str] | None]:
        """Yields the members of a set in parts, or None if the key is no set."""
        if self._store.is_embedded:
            (found,) = await self._read([("smembers", (key,), {})])
            yield self._ids(key, found)
            return
        cursor = -1
        while cursor:
            options = {"cursor": max(cursor, 0), "count": SCAN_CHUNK}
            (found,) = await self._read([("sscan", (key,), options)])
            cursor, ids = (0, found) if isinstance(found, Exception) else found
            yield self._ids(key, ids)

    def _ids(self, key: str, ids: Any) -> list[str] | None:
        if isinstance(ids, Exception):
            self._following.complain(key, f"the key {key} is no set: delete it")
            return None
        return [_text(one) for one in ids]

    async def _read(self, commands: Sequence[Command]) -> list[Any]:
        return await self._store.run(commands, self._following)

    async def _write(self, commands: Sequence[Command]) -> None:
        replies = await self._store.run(commands, self._writing)
        for (_, arguments, _), reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                words = words_of(reply)
                if "WRONGTYPE" in words:
                    raise KeyUnusable(f"the key {arguments[0]} has another type: delete it")
                raise StoreUnavailable(words)


def _announcement(item: str) -> Command:
    return "xadd", (CHANGES, {"item": item}), {"maxlen": MAX_ANNOUNCEMENTS}


def _state(fields: Any, hidden: Any) -> ItemState:
    problem = ""
    if isinstance(fields, Exception):
        problem = "the key is no hash"
    elif len(fields) > MAX_FIELDS:
        problem = f"the hash has more than {MAX_FIELDS} fields"
    texts = {} if problem else {_text(name): _text(text) for name, text in fields.items()}
    return ItemState(None if isinstance(hidden, Exception) else bool(hidden), texts, problem)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
