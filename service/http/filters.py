"""The filter of a request: its shape, its limits, and its check against the bundle's attributes."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.ids import MAX_ID_LENGTH
from model.kinds import Kind
from service.errors import FieldError, Invalid
from service.recall.filters.form import GROUPS, canonical_form

MAX_CONDITIONS = 16
MAX_VALUES = 256

Value = Annotated[str, Field(max_length=MAX_ID_LENGTH)] | bool | float
Bound = Annotated[float, Field(allow_inf_nan=False)] | datetime | date | None
VALUES: dict[Kind, tuple[type, str]] = {
    "category": (str, "strings"),
    "categories": (str, "strings"),
    "number": (float, "numbers"),
    "flag": (bool, "true or false"),
}
"""The type of the values of each kind of attribute, and its name; times have none."""
BOUNDS = ("gt", "gte", "lt", "lte")


class Condition(BaseModel):
    """A condition on one attribute. An item without a value does not match."""

    model_config = ConfigDict(extra="forbid", strict=True, serialize_by_alias=True)

    field: str = Field(max_length=MAX_ID_LENGTH, description="name of an attribute of the items")
    among: list[Value] | None = Field(
        None,
        alias="in",
        min_length=1,
        max_length=MAX_VALUES,
        description="the item has one of these values: strings, numbers, or true and false",
    )
    gt: Bound = Field(None, description="the value is above this number or time (ISO 8601)")
    gte: Bound = Field(None, description="… at least this")
    lt: Bound = Field(None, description="… below this")
    lte: Bound = Field(None, description="… at most this")

    @model_validator(mode="after")
    def _says_something(self) -> "Condition":
        if self.among is None and not self.bounds():
            raise ValueError("a condition needs `in` or a bound: gt, gte, lt or lte")
        return self

    def bounds(self) -> dict[str, float | date]:
        """Returns the bounds that are given."""
        return {name: bound for name in BOUNDS if (bound := getattr(self, name)) is not None}


class Filter(BaseModel):
    """Conditions that an item must meet to be returned."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"all": [{"field": "genres", "in": ["Comedy"]}]}},
    )

    all: list[Condition] = Field([], max_length=MAX_CONDITIONS, description="it meets all of them")
    any: list[Condition] = Field(
        [], max_length=MAX_CONDITIONS, description="it meets at least one of them"
    )
    none: list[Condition] = Field(
        [], max_length=MAX_CONDITIONS, description="it meets none of them"
    )

    @model_validator(mode="after")
    def _bounded(self) -> "Filter":
        if not 1 <= len(self.all) + len(self.any) + len(self.none) <= MAX_CONDITIONS:
            raise ValueError(f"a filter has 1 to {MAX_CONDITIONS} conditions")
        return self


class FilterEffect(BaseModel):
    """The effect of the request's filter."""

    matched: int = Field(description="items of the catalogue that the filter allows")
    exhausted: bool = Field(
        description="whether fewer than k items are returned, because no others are left"
    )


def checked_form(given: Filter, attributes: Mapping[str, Kind], where: str = "") -> bytes:
    """Returns the canonical form of a filter of a bundle with these attributes.

    Raises Invalid that names the conditions which do not fit; `where` is the path of the request.
    """
    errors = [
        FieldError(f"{where}filter.{group}.{number}.{part}", problem)
        for group in GROUPS
        for number, condition in enumerate(getattr(given, group))
        for part, problem in problems(condition, attributes)
    ]
    if errors:
        raise Invalid("; ".join(f"{error.where}: {error.problem}" for error in errors), errors)
    return canonical_form({group: [plain(c) for c in getattr(given, group)] for group in GROUPS})


def problems(condition: Condition, attributes: Mapping[str, Kind]) -> Iterator[tuple[str, str]]:
    """Yields the parts of a condition that do not fit the attribute, and what is wrong."""
    kind = attributes.get(condition.field)
    if kind is None:
        known = ", ".join(sorted(attributes)) or "none"
        yield "field", f"no attribute that can be filtered: this bundle has {known}"
        return
    values, name = VALUES.get(kind, (None, ""))
    if condition.among is not None:
        if values is None:
            yield "in", f"the attribute is a {kind}: give bounds (gt, gte, lt, lte)"
        elif not all(type(value) is values for value in condition.among):
            yield "in", f"the attribute is a {kind}: give {name}"
    ordered = kind in ("number", "time")
    for bound, value in condition.bounds().items():
        if not ordered:
            yield bound, f"the attribute is a {kind}, which has no order: give `in`"
        elif kind == "number" and isinstance(value, date):
            yield bound, "the attribute is a number: give a number"


def plain(condition: Condition) -> dict[str, Any]:
    """Returns a condition in plain values; times in seconds since 1970, UTC if without a zone."""
    bounds = {name: _seconds(bound) for name, bound in condition.bounds().items()}
    return {"field": condition.field, "in": condition.among, **bounds}


def _seconds(bound: float | date) -> float:
    if not isinstance(bound, date):
        return float(bound)
    moment = bound if isinstance(bound, datetime) else datetime.combine(bound, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
