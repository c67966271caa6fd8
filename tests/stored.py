"""Histories as tests compare them: ids of items, oldest first."""

from collections.abc import Sequence

from service.history.entries import decode_entry
from service.history.store import HistoryStore, StoreProblem


async def items_of(store: HistoryStore, users: Sequence[str]) -> list[list[str] | StoreProblem]:
    """The items of each user's entries, whatever their types, or why they cannot be read."""
    return [
        found
        if isinstance(found, StoreProblem)
        else [decode_entry(entry).item.decode() for entry in reversed(found)]
        for found in await store.read(users)
    ]
