"""The types of events, and the effect that each has: a table with defaults that a file may change.

A type enters the history, or excludes its item from answers, or both, or is an offer, or none of
these; an event that does nothing is counted and not stored. A type that the table does not name is
treated as `custom`.
"""

import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.history.events import CLICK, ENTERS, EXCLUDES, OFFER

NAME = r"^[a-z][a-z_]{0,31}$"
"""The pattern of a type's name."""
CUSTOM = "custom"
"""The entry of the table for every type that it does not name."""


class EventType(BaseModel):
    """The effect of a type of events."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: bool = Field(True, description="whether events enter the history, which is the input")
    exclude_days: float | None = Field(
        None,
        gt=0,
        description="time for which an event excludes its item from answers; inf: as long as it is "
        "stored",
    )
    weight: float = Field(
        1.0, ge=0, le=1000, description="weight of an event in the count of popular items"
    )

    offer: bool = Field(
        False,
        description="whether events are offers that the user did not take, until the next event "
        "that enters the history",
    )

    @model_validator(mode="after")
    def _an_offer_is_nothing_else(self) -> Self:
        if self.offer and (self.history or self.exclude_days is not None):
            raise ValueError("an offer needs history = false and no exclude_days")
        return self

    @property
    def is_stored(self) -> bool:
        """Whether an event of this type has to be known later."""
        return self.history or self.exclude_days is not None or self.offer

    @property
    def effect(self) -> str:
        """The effect of a stored event of this type on the lists of its user."""
        return OFFER if self.offer else ENTERS if self.history else EXCLUDES

    @property
    def is_plain(self) -> bool:
        """Whether an event does nothing but enter the history."""
        return self.history and self.exclude_days is None


FOREVER = float("inf")
DEFAULTS = {
    "click": EventType(),
    "view": EventType(weight=0.5),
    "purchase": EventType(weight=4),
    "like": EventType(weight=2),
    "dislike": EventType(history=False, exclude_days=FOREVER, weight=0),
    "skip": EventType(history=False, exclude_days=1, weight=0),
    "impression": EventType(history=False, weight=0),
    CUSTOM: EventType(),
}


class EventTypes(BaseModel):
    """The table of event types."""

    model_config = ConfigDict(frozen=True)

    by_name: Mapping[Annotated[str, Field(pattern=NAME)], EventType] = DEFAULTS

    def of(self, name: str) -> EventType:
        """Returns the effect of a type."""
        return self.by_name.get(name) or self.by_name[CUSTOM]

    @cached_property
    def by_bytes(self) -> dict[bytes, EventType]:
        """The named types by the UTF-8 of their names.

        An entry without a type is a click; it is history even if the clicks to come are not.
        """
        named = {name.encode(): kind for name, kind in self.by_name.items()}
        click = self.of(CLICK)
        return named | {b"": click if click.history else EventType()}

    @cached_property
    def has_offers(self) -> bool:
        """Whether events of any type are offers."""
        return any(kind.offer for kind in self.by_name.values())

    @cached_property
    def marks(self) -> tuple[bytes, ...]:
        """Bytes of which an entry holds one unless its event just enters the history."""
        if not self.by_name[CUSTOM].is_plain:
            return (b"\t",)
        return tuple(b"\t" + name for name, kind in self.by_bytes.items() if not kind.is_plain)


DEFAULT_TYPES = EventTypes()


def load_event_types(file: Path | None) -> EventTypes:
    """Returns the default table with the changes of a TOML file, which has a table for each type.

    What a table leaves out is as before; for a new type, as for `custom`. Raises ValueError that
    names the file, the type and the field.
    """
    if file is None:
        return DEFAULT_TYPES
    option = f"--event-types: {file}"
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error
    before: dict[str, Any] = {name: kind.model_dump() for name, kind in DEFAULTS.items()}
    custom = {**before[CUSTOM], **_table(given, CUSTOM)}
    changed = {name: {**before.get(name, custom), **_table(given, name)} for name in given}
    try:
        return EventTypes.model_validate({"by_name": before | changed})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in problem["loc"][1:])
        raise ValueError(f"{option}: {where}: {problem['msg']}") from None


def _table(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns the table of a type; something else in its place becomes a field that is refused."""
    value = given.get(name, {})
    return value if isinstance(value, Mapping) else {"no table": value}
