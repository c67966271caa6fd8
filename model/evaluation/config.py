"""Settings of an evaluation. Imports no torch and no numpy: command lines read them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

EventSet = Annotated[str, StringConstraints(pattern=r"^(next|day|session|[1-9][0-9]*)$")]
"""Events that belong together: one event (next), those of a day or of a session by their times, or
this number of events in a row."""

Metric = Annotated[str, StringConstraints(pattern=r"^((HR|NDCG)@(5|10|20)|recall@[1-9][0-9]*)$")]
"""A metric that a choice can be made by."""


class ProtocolConfig(BaseModel, frozen=True):
    """The events that train a model, and those that it has to recall."""

    split: Literal["leave-one-out", "next-set", "temporal"] = Field(
        "leave-one-out",
        description="leave-one-out: the last event of each user is the test target, the one before "
        "it the validation target; next-set: the same with sets of events; temporal: all events "
        "after a point in time are test targets, those in a period before it validation targets",
    )
    targets: EventSet = Field(
        "next",
        description="targets of a case, for next-set and temporal: next (one event), day, session, "
        "or a number of events",
    )
    test_share: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="temporal: share of all events that are test targets; as many are validation "
        "targets",
    )
    test_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="temporal: length of the test period, up to the newest event, in place of the "
        "share; the period of the same length before it has the validation targets",
    )

    @model_validator(mode="after")
    def _one_target_is_left_out(self) -> Self:
        if self.split == "leave-one-out" and self.targets != "next":
            raise ValueError(
                f"leave-one-out has one target per user, not targets = {self.targets}: "
                "choose split = next-set"
            )
        return self
