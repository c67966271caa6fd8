"""The bodies of requests and answers. Every size is bounded; an unknown field is an error."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from model.ids import MAX_ID_LENGTH
from service.history.event_types import NAME
from service.history.events import MAX_EVENTS, HistoryEvent
from service.http.filters import Filter, FilterEffect
from service.http.problems import FieldProblem
from service.http.variety import MAX_CAPS, CapBody, Fresh, VarietyEffect
from service.recall.types import DegradedReason

MAX_ITEMS = 2000
MAX_SEEDS = 50
MAX_CURSOR = 1 << 19
"""Characters of the longest cursor."""
MAX_BATCH = 256
MAX_BATCH_ITEMS = 25_600  # a full batch with the default k

TOO_MANY_ITEMS = f"the sum of k over all requests is above {MAX_BATCH_ITEMS}"

MAX_SECONDS = 1e11
"""A time in the year 5138: a larger number is not in seconds."""
UNITS = ("milliseconds", 3), ("microseconds", 6), ("nanoseconds", 9)
"""Units of large numbers, and the power of ten that makes seconds of each."""

ScenarioName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]


def _in_seconds(timestamp: float | datetime | None) -> float | datetime | None:
    """Refuses a number that is negative or in a smaller unit than seconds."""
    if not isinstance(timestamp, float) or 0 <= timestamp <= MAX_SECONDS:
        return timestamp
    words = "Input is not a time: give seconds since 1970"
    for unit, power in UNITS:
        if MAX_SECONDS < timestamp <= MAX_SECONDS * 10**power:
            words = f"Input looks like {unit}: give seconds since 1970, divide it by 1e{power}"
            break
    raise PydanticCustomError("timestamp", words)


Seconds = Annotated[float, Field(allow_inf_nan=False)]
Timestamp = Annotated[Seconds | datetime | None, AfterValidator(_in_seconds)]


class Body(BaseModel):
    """A request body: without conversions, without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AfterDays(Body):
    """A time after which an item of the history may be returned again."""

    after_days: float = Field(gt=0, le=36_500, allow_inf_nan=False, description="days since then")


class Seed(Body):
    """An item that candidates should be like, and how much it counts beside the others."""

    item_id: Id
    weight: float = Field(1, gt=0, allow_inf_nan=False, description="a heavier seed counts more")


class PastItem(Body):
    """An item of a history in the request, and what the user did with it."""

    item_id: Id
    type: Annotated[str, Field(pattern=NAME)] = Field(
        description="type of the event, which a network that was trained with it reads"
    )


class RecallRequest(Body):
    """A user, a session or seeds, and the number of candidates wanted for them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"user_id": "196", "k": 10, "with_metadata": True},
            "examples": [
                {"user_id": "196", "k": 10, "with_metadata": True},
                {"history": ["302", "286"], "k": 10},
                {"seeds": ["302", {"item_id": "286", "weight": 2}], "k": 10},
                {"user_id": "196", "exclude": ["242"], "repeats": {"after_days": 30}},
                {"user_id": "196", "k": 200, "page_size": 20},
            ],
        }
    )

    user_id: Id | None = Field(
        None,
        description="the caller's own id of the user, a string; may be left out beside `history` "
        "or `seeds`",
    )
    k: int = Field(100, ge=1, le=MAX_ITEMS, description="number of candidates wanted")
    history: list[Id | PastItem] | None = Field(
        None,
        max_length=1000,
        description="item ids, oldest first, used instead of the stored history; {item_id, type} "
        "in place of an id says what the user did with the item",
    )
    seeds: list[Id | Seed] = Field(
        default_factory=list,
        max_length=MAX_SEEDS,
        description="items that candidates should be like, as ids or as {item_id, weight}: the "
        "network reads them as the newest events of the history, the heaviest last",
    )
    offers: list[Id] = Field(
        default_factory=list,
        max_length=1000,
        description="item ids that the user was shown since the newest event and did not take, "
        "oldest first: further interests read the newest of them, behind the history",
    )
    exclude: list[Id] = Field(  # a default that is a list would be copied deeply, for 2 µs
        default_factory=list, max_length=1000, description="item ids that are not to be returned"
    )
    interests: int | None = Field(
        None, ge=1, le=8, description="interests to generate; by default as many as the bundle says"
    )
    popular: bool = Field(
        False,
        description="return popular items in place of those of interests: a baseline for "
        "experiments; the history still excludes its items",
    )
    repeats: Literal["never", "allow"] | AfterDays = Field(
        "never",
        description="whether items of the history may be returned again: never, allow (at once), "
        "or after some days since their latest event. Items in `exclude`, and those that the user "
        "disliked, are never returned",
    )
    outcome: Annotated[str, Field(pattern=NAME)] | None = Field(
        None,
        description="what the user shall do with the items, such as like: a type of events that "
        "the bundle's network can be asked for; by default the one that the bundle says",
    )
    filter: Filter | None = Field(None, description="conditions on the attributes of the items")
    caps: list[CapBody] = Field(
        default_factory=list,
        max_length=MAX_CAPS,
        description="the most items with the same value of an attribute; an item without a value "
        "is held back by none",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="the weight of being unlike the items before, against the score",
    )
    fresh: Fresh | None = Field(None, description="a share of the answer for new items")
    with_metadata: bool = Field(False, description="return title and attributes of every item, too")

    scenario: ScenarioName | None = Field(
        None, description="scenario whose fields apply where this request gives none of its own"
    )

    page_size: int | None = Field(
        None,
        ge=1,
        le=MAX_ITEMS,
        description="candidates of a page: the answer has the first of the k, and a cursor",
    )
    cursor: Annotated[str, Field(max_length=MAX_CURSOR)] | None = Field(
        None,
        description="the cursor of the page before, which stands for all other fields but "
        "`with_metadata`",
    )

    @model_validator(mode="after")
    def _is_about_somebody(self) -> Self:
        if self.cursor is not None:
            if self.model_fields_set - {"cursor", "with_metadata"}:
                raise PydanticCustomError(
                    "cursor", "beside a cursor there is no other field than with_metadata"
                )
            return self
        if self.user_id is None and self.history is None and not self.seeds:
            raise PydanticCustomError("nobody", "give a user_id, a history or seeds")
        return self


class Candidate(BaseModel):
    """One recalled item."""

    item_id: str
    score: float = Field(
        description="inner product with the interest, six decimals; 0: back-filled"
    )
    interest: int = Field(
        description="number of the interest, from 0; -1: a back-filled popular item"
    )
    team: str | None = Field(
        None, description="arm that picked it; present in an interleaved experiment"
    )
    metadata: dict[str, Any] | None = Field(None, description="present if with_metadata was given")


class Arm(BaseModel):
    """The arm of a user in an experiment."""

    experiment: str
    arm: str
    versions: dict[str, str] | None = Field(
        None, description="version of each team; present if two versions are interleaved"
    )


class RecallResponse(BaseModel):
    """Candidates, best first within each interest."""

    request_id: str
    version: str = Field(
        description="version of the bundle that answered; the control's, if two are interleaved"
    )
    items: list[Candidate]
    degraded: bool = Field(description="whether only popular items could be returned")
    degraded_reason: DegradedReason | None
    cursor: str | None = Field(
        None, description="with page_size: asks for the next page; null: there is none"
    )
    unknown_items: int = Field(description="items of the history that the bundle does not hold")
    filter: FilterEffect | None = Field(None, description="present if a filter was given")
    variety: VarietyEffect | None = Field(
        None, description="present if caps, diversity or fresh were given"
    )
    experiments: list[Arm] | None = Field(
        None, description="present if the user takes part in experiments"
    )


class BatchRequest(Body):
    """Several recalls in one request."""

    requests: list[RecallRequest] = Field(min_length=1, max_length=MAX_BATCH)

    @model_validator(mode="after")
    def _bounded(self) -> "BatchRequest":
        if any(request.cursor is not None for request in self.requests):
            raise PydanticCustomError("cursor", "ask for further pages at /recall, one by one")
        if self.is_too_large(self.requests):
            raise ValueError(TOO_MANY_ITEMS)
        return self

    @staticmethod
    def is_too_large(requests: Sequence[RecallRequest]) -> bool:
        """Returns whether requests want more candidates than one batch can give."""
        return sum(request.k for request in requests) > MAX_BATCH_ITEMS


class BatchResponse(BaseModel):
    """Answers in the order of the requests."""

    results: list[RecallResponse]


class Event(Body):
    """An interaction of a user with an item."""

    user_id: Id
    item_id: Id
    type: Annotated[str, Field(pattern=NAME)] = Field(
        "click",
        description="click, view, purchase, like, dislike, skip, impression, or one of your own; "
        "the table of event types says what it does",
    )
    timestamp: Timestamp = Field(
        None,
        description="seconds since 1970, or ISO 8601; orders the events of one request, and tells "
        "an event that is sent again from a new one; without it, the time of arrival is stored",
    )
    request_id: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="request_id of the recall that offered the item"
    )
    value: Annotated[float, Field(ge=-1e12, le=1e12)] | None = Field(
        None, description="price, rating, …: stored with the event"
    )
    watch_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="seconds for which the item was watched or heard: stored with the event"
    )

    def for_history(self) -> HistoryEvent:
        """Returns the event as the store takes it."""
        timestamp = None if self.timestamp is None else self.moment
        return HistoryEvent(
            self.user_id,
            self.item_id,
            self.type,
            timestamp,
            self.request_id,
            self.value,
            self.watch_seconds,
        )

    @property
    def moment(self) -> float:
        """The timestamp in seconds since 1970, 0 without one; UTC if it names no zone."""
        stamp = self.timestamp
        if isinstance(stamp, datetime):
            return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
        return stamp or 0.0


class EventsRequest(Body):
    """Events that are acknowledged together."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"events": [{"user_id": "196", "item_id": "302"}]},
            "examples": [
                {
                    "events": [
                        {"user_id": "196", "item_id": "302", "timestamp": 1764000000},
                        {
                            "user_id": "196",
                            "item_id": "286",
                            "type": "purchase",
                            "timestamp": "2026-01-02T03:04:05Z",
                            "value": 9.99,
                        },
                        {"user_id": "196", "item_id": "242", "type": "dislike"},
                    ]
                },
            ],
        }
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsResponse(BaseModel):
    """Events that need not be sent again, and those that were not stored."""

    accepted: int = Field(description="events that are acknowledged: do not send them again")
    stored: int = Field(
        description="those of them whose type is stored, which impressions are as offers only; an "
        "offer of a user without a history has no effect and is not kept"
    )
    errors: list[FieldProblem] = Field(
        [], description="for 207: the events that were not stored, and what to do with each"
    )


class Ready(BaseModel):
    """This process can answer recalls."""

    ready: bool
    version: str = Field(description="version of the bundle that is served")
    store: Literal["available", "unavailable"] = Field(
        description="unavailable: recalls of stored histories return popular items"
    )
