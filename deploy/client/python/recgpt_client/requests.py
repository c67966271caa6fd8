"""The requests: what goes over the wire for each operation, and what comes of its answer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Required, TypedDict, TypeVar
from urllib.parse import quote

from recgpt_client.answers import Accepted, Item, Ready, Recall, StoredEvent
from recgpt_client.event_queue import Event

Answer = TypeVar("Answer")


class Seed(TypedDict):
    """An item that candidates should be like, and its weight beside the others."""

    item_id: str
    weight: float


class AfterDays(TypedDict):
    """A time after which an item of the history may be returned again."""

    after_days: float


Repeats = Literal["never", "allow"] | AfterDays

Condition = TypedDict(
    "Condition",
    {
        "field": str,
        "in": Sequence[str | float | bool],
        "gt": float | str,
        "gte": float | str,
        "lt": float | str,
        "lte": float | str,
    },
    total=False,
)
"""A condition on one attribute: values (`in`), bounds or both. `field` must be there."""


class Filter(TypedDict, total=False):
    """Conditions that an item must meet: all, at least one, none."""

    all: Sequence[Condition]
    any: Sequence[Condition]
    none: Sequence[Condition]


class Cap(TypedDict):
    """The most items of an answer that have the same value of an attribute."""

    field: str
    per_value: int


class Fresh(TypedDict, total=False):
    """A share of the answer for new items: by a bound (`gte`) or an age (`within_days`)."""

    field: Required[str]
    share: Required[float]
    gte: float | str
    within_days: float


class RecallFields(TypedDict, total=False):
    """The fields of a recall; the guide to the query explains them."""

    user_id: str
    k: int
    history: Sequence[str]
    seeds: Sequence[str | Seed]
    offers: Sequence[str]
    exclude: Sequence[str]
    interests: int
    popular: bool
    repeats: Repeats
    filter: Filter
    outcome: str
    caps: Sequence[Cap]
    diversity: float
    fresh: Fresh
    with_metadata: bool
    scenario: str
    page_size: int
    cursor: str


@dataclass(frozen=True, slots=True)
class Request(Generic[Answer]):
    """A request and the way to read its answer."""

    method: str
    path: str
    read: Callable[[Any], Answer]
    body: Any = None
    can_repeat: bool = True
    """Whether it does no harm to send it twice."""
    can_hedge: bool = False
    """Whether a second copy may be sent while the first is under way."""
    takes_deadline: bool = False

    def content(self) -> bytes | None:
        """Returns the body as it is sent."""
        return None if self.body is None else json.dumps(self.body).encode()


def recall(fields: RecallFields) -> Request[Recall]:
    """Returns the request for candidates."""
    return Request("POST", "/recall", Recall.of, dict(fields), can_hedge=True, takes_deadline=True)


def recall_batch(requests: Sequence[RecallFields]) -> Request[list[Recall]]:
    """Returns the request for candidates of several users."""

    def read(answer: Any) -> list[Recall]:
        return [Recall.of(one) for one in answer["results"]]

    body = {"requests": [dict(fields) for fields in requests]}
    return Request("POST", "/recall/batch", read, body, can_hedge=True, takes_deadline=True)


def events(sent: Sequence[Event]) -> Request[Accepted]:
    """Returns the request that stores events. Each has a time, so it may be sent again."""
    return Request("POST", "/events", Accepted.of, {"events": [one.body() for one in sent]})


def history(user_id: str) -> Request[list[StoredEvent]]:
    """Returns the request for what the store has of a user, oldest event first."""

    def read(answer: Any) -> list[StoredEvent]:
        return [StoredEvent.of(one) for one in answer["events"]]

    return Request("GET", f"/users/{quote(user_id, safe='')}/history", read)


def delete_user(user_id: str) -> Request[bool]:
    """Returns the request that deletes what the store has of a user; its answer: was there any."""
    path = f"/users/{quote(user_id, safe='')}"
    return Request("DELETE", path, lambda answer: bool(answer["deleted"]))


def item(item_id: str) -> Request[Item]:
    """Returns the request for an item as it is now."""
    return Request("GET", _item(item_id), Item.of)


def change_item(item_id: str, attributes: Mapping[str, Any]) -> Request[Item]:
    """Returns the request that changes attributes of an item; None brings the bundle's back."""
    return Request("PATCH", _item(item_id), Item.of, dict(attributes))


def set_hidden(item_id: str, hidden: bool) -> Request[Item]:
    """Returns the request that hides an item, or shows it again."""
    return Request("PUT" if hidden else "DELETE", f"{_item(item_id)}/hidden", Item.of)


def ready() -> Request[Ready]:
    """Returns the request for readiness; one that is not ready is told at once."""
    return Request("GET", "/readyz", Ready.of, can_repeat=False)


def _item(item_id: str) -> str:
    return f"/items/{quote(item_id, safe='')}"
