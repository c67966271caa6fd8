"""Events that tests append, and troubles that they make for a Redis."""

from collections.abc import Sequence
from typing import NamedTuple

from service.history.events import HistoryEvent
from service.history.store import HistoryStore, StoreProblem

PATIENT = 10_000  # milliseconds: machines that run tests are busy


async def append(
    store: HistoryStore, events: Sequence[tuple[str, str]]
) -> list[StoreProblem | None]:
    """Appends (user, item) events."""
    return await store.append([HistoryEvent(user, item) for user, item in events])


class Trouble(NamedTuple):
    """Commands that make Redis refuse reads or writes and end that, and its words."""

    begin: list[str]
    end: list[str]
    words: str
