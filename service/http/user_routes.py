"""The operations on one user: what the store has of them, and its deletion.

The log has the pattern of the path and not the path itself, so it holds no id of a user.
"""

from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import Path, Response
from pydantic import BaseModel, Field

from model.ids import MAX_ID_LENGTH
from service.errors import HistoryUnusable, StoreFailed
from service.history.entries import decode_entry
from service.history.store import HistoryStore, StoreProblem, StoreUnavailable

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, description="id of the user")]

T = TypeVar("T")


class UserEvent(BaseModel):
    """An event of a history; fields that are not known are left out."""

    item_id: str
    type: str | None = None
    timestamp: float | None = Field(None, description="seconds since 1970")
    value: float | None = None
    watch_seconds: float | None = None


class UserHistoryResponse(BaseModel):
    """The stored history of a user, oldest event first; empty if there is none."""

    user_id: str
    events: list[UserEvent]
    offers: list[str] | None = Field(
        None, description="ids of the items shown since and not taken, the newest first, if any"
    )


class DeletedResponse(BaseModel):
    """The outcome of a deletion."""

    deleted: bool = Field(description="false: the store had nothing of this user")


class UserRoutes:
    """The operations on one user."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store

    async def history(self, user_id: UserId) -> Response:
        """Returns all events of a user that the store has, oldest first, and stored offers."""
        (found,), (offers,) = await _asked(self._store.read_with_offers([user_id], [0]))
        if found is StoreProblem.WRONG_TYPE:
            raise HistoryUnusable("the key of this user in the store is not a list: repair it")
        if isinstance(found, StoreProblem):
            raise StoreFailed("the store refuses to read the history: its log says why")
        events = []
        for entry in reversed(found):
            item, kind, *numbers = decode_entry(entry)
            timestamp, value, watch_seconds = numbers
            events.append(
                UserEvent(
                    item_id=item.decode(errors="replace"),
                    type=kind.decode(errors="replace") or None,
                    timestamp=timestamp,
                    value=value,
                    watch_seconds=watch_seconds,
                )
            )
        shown = [item.decode(errors="replace") for item in offers]
        answer = UserHistoryResponse(user_id=user_id, events=events, offers=shown or None)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    async def delete(self, user_id: UserId) -> DeletedResponse:
        """Deletes everything that the store has of a user.

        The next recall knows nothing of them. What a bundle learnt in its training stays in it:
        train without this user to remove that, too.
        """
        return DeletedResponse(deleted=await _asked(self._store.delete(user_id)))


async def _asked(answer: Awaitable[T]) -> T:
    """Returns the answer of the store. Raises StoreFailed if it does not come."""
    try:
        return await answer
    except StoreUnavailable as error:
        raise StoreFailed("the store is unavailable: try again") from error
