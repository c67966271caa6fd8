"""The rules of variety of a request: their shape, and their check against attributes."""

import time
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.ids import MAX_ID_LENGTH
from model.kinds import Kind
from service.errors import FieldError, Invalid
from service.http.filters import Bound, Condition, plain, problems
from service.recall.filters.form import canonical_form
from service.recall.variety.form import Cap, Variety, packed

MAX_CAPS = 8
MAX_PER_VALUE = 2000
CAPPED: tuple[Kind, ...] = ("category", "categories", "flag")
"""The kinds of attributes that caps can read."""
DAY, HOUR = 86_400, 3_600


class CapBody(BaseModel):
    """The most items of an answer that have the same value of an attribute."""

    model_config = ConfigDict(extra="forbid", strict=True)

    field: str = Field(max_length=MAX_ID_LENGTH, description="a category, categories, or a flag")
    per_value: int = Field(ge=1, le=MAX_PER_VALUE, description="items with the same value, at most")


class Fresh(BaseModel):
    """A share of the answer that is for new items."""

    model_config = ConfigDict(extra="forbid", strict=True)

    field: str = Field(max_length=MAX_ID_LENGTH, description="a time or a number")
    share: float = Field(gt=0, le=1, allow_inf_nan=False, description="of the candidates, at least")
    gte: Bound = Field(None, description="new items have at least this number or time (ISO 8601)")
    within_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        allow_inf_nan=False,
        description="new items have a time within these days before now, to the hour",
    )

    @model_validator(mode="after")
    def _has_one_bound(self) -> "Fresh":
        if (self.gte is None) is (self.within_days is None):
            raise ValueError("give either `gte` or `within_days`")
        return self


class VarietyEffect(BaseModel):
    """The effect of caps, diversity and fresh items."""

    score: float = Field(description="sum of the candidates' scores")
    plain_score: float = Field(description="the same sum of the answer without these fields")
    exhausted: bool = Field(
        description="whether fewer than k items are returned, because caps and filter admit no more"
    )


def checked_rules(
    caps: Sequence[CapBody],
    diversity: float,
    fresh: Fresh | None,
    attributes: Mapping[str, Kind],
    where: str = "",
) -> bytes | None:
    """Returns the rules of a query of a bundle with these attributes; None if there are none.

    Raises Invalid that names the fields which do not fit; `where` is the path of the request.
    """
    if not caps and not diversity and fresh is None:
        return None
    wrong = [*_cap_problems(caps, attributes), *_fresh_problems(fresh, attributes)]
    errors = [FieldError(f"{where}{part}", problem) for part, problem in wrong]
    if errors:
        raise Invalid("; ".join(f"{error.where}: {error.problem}" for error in errors), errors)
    form = canonical_form({"all": [plain(_condition(fresh))]}) if fresh else None
    share = fresh.share if fresh else 0.0
    return packed(Variety(tuple(Cap(c.field, c.per_value) for c in caps), diversity, form, share))


def _cap_problems(
    caps: Sequence[CapBody], attributes: Mapping[str, Kind]
) -> Iterator[tuple[str, str]]:
    """Yields the parts of caps that do not fit the attributes, and what is wrong."""
    fields = [cap.field for cap in caps]
    for number, field in enumerate(fields):
        kind = attributes.get(field)
        if kind is None:
            known = ", ".join(sorted(n for n, k in attributes.items() if k in CAPPED)) or "none"
            yield (
                f"caps.{number}.field",
                f"no attribute that a cap can read: this bundle has {known}",
            )
        elif kind not in CAPPED:
            yield (
                f"caps.{number}.field",
                f"the attribute is a {kind}: a cap reads {', '.join(CAPPED)}",
            )
        elif field in fields[:number]:
            yield f"caps.{number}.field", "there is a cap of this field already"


def _fresh_problems(
    fresh: Fresh | None, attributes: Mapping[str, Kind]
) -> Iterator[tuple[str, str]]:
    """Yields the parts of `fresh` that do not fit the attributes, and what is wrong."""
    if fresh is None:
        return
    if fresh.within_days is not None and attributes.get(fresh.field) == "number":
        yield "fresh.within_days", "the attribute is a number: give `gte`"
        return
    for part, problem in problems(_condition(fresh), attributes):
        yield f"fresh.{part}", problem


def _condition(fresh: Fresh) -> Condition:
    """Returns the condition that fresh items meet.

    A time moves on by whole hours, so that requests of one hour share a filter.
    """
    gte = fresh.gte
    if fresh.within_days is not None:
        gte = (time.time() - fresh.within_days * DAY) // HOUR * HOUR
    return Condition(field=fresh.field, gte=gte)
