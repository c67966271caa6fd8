"""Settings of the network and of a recall. Imports no torch: command lines read them."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

MAX_INTERESTS = 8
"""The most interests that any network can generate."""
MAX_OFFERS = MAX_INTERESTS - 1
"""The most offers that a recall makes: one between two interests."""


BEFORE_GROUPS = {"groups": 1}
"""Options of a network whose record is older than they are, and does not name them."""


class GPTConfig(BaseModel, frozen=True):
    """Size and regularisation of the network."""

    network: Literal["gpt", "gru", "two-tower"] = Field(
        "gpt",
        description="gpt, or a peer to compare with, which is not served: the recurrent network of "
        "GRU4Rec, or a two-tower model",
    )
    dim: int = Field(256, ge=1, description="width of an interest vector")
    groups: int = Field(
        2,
        ge=1,
        le=8,
        description="independent networks of width dim / groups whose scores add up; a divisor of "
        "dim, heads and feed_forward",
    )
    layers: int = Field(2, ge=1, description="decoder layers")
    heads: int = Field(4, ge=1, description="attention heads; a divisor of dim")
    feed_forward: int = Field(1024, ge=1, description="width of the feed-forward layers")
    max_history: int = Field(
        50, ge=1, description="newest items of a history that the network reads"
    )
    max_interests: int = Field(
        4,
        ge=1,
        le=MAX_INTERESTS,
        description="largest number of interests that a recall can generate",
    )
    positions: Literal["relative", "absolute"] = Field(
        "relative",
        description="relative: attention has a learned bias per distance; absolute: a learned "
        "vector per position",
    )
    local: int = Field(
        4, ge=0, description="taps of the causal convolution beside attention; 0: no convolution"
    )
    cosine: bool = Field(
        True, description="scores are cosines of items and interests times a learned scale"
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="dropout rate of embeddings and residual branches"
    )
    attention_dropout: float = Field(0.5, ge=0, lt=1, description="dropout rate of attention")
    adapter_rank: int = Field(
        0,
        ge=0,
        description="rank of the adapters that offers pass behind every layer and histories do "
        "not; tuning with offers then trains them alone, and the first interest stays; 0: none",
    )
    feedback: Literal["none", "actions", "outcome"] = Field(
        "none",
        description="actions: the network reads what the user did with each item; outcome: it also "
        "reads the action wanted of the next item, which in training is the true one",
    )
    user_mean: bool = Field(
        False,
        description="interests also depend on the mean of the vectors of all items of the history, "
        "those that are older than max_history, too",
    )
    user_queries: int = Field(
        0,
        ge=0,
        le=8,
        description="user_mean: learned queries; each has a mean of its own, in which the items "
        "that suit it count more; 0: one mean, in which all count the same",
    )
    user_rank: int = Field(0, ge=0, description="rank of the user table; 0: no user module")
    user_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of the samples that train without the user"
    )

    @classmethod
    def single(cls, dim: int, **options: Any) -> Self:
        """Returns one network of this width, without groups."""
        return cls(dim=dim, groups=1, heads=2, feed_forward=4 * dim, **options)

    @model_validator(mode="after")
    def _queries_have_a_mean(self) -> Self:
        if self.user_queries and not (self.user_mean and self.network == "gpt"):
            raise ValueError(
                f"user_queries = {self.user_queries} weigh the items of a mean that this network "
                "does not take: say --model.user-mean with the network gpt, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self

    @model_validator(mode="after")
    def _groups_are_equal(self) -> Self:
        for name in ("dim", "heads", "feed_forward"):
            if getattr(self, name) % self.groups:
                value = f"{name} = {getattr(self, name)}"
                raise ValueError(f"groups = {self.groups} does not divide {value}")
        if self.groups > 1 and not (self.cosine and self.network == "gpt"):
            raise ValueError(
                f"groups = {self.groups} need cosine = true and the network gpt: "
                "say --model.groups 1"
            )
        return self


class RecallConfig(BaseModel, frozen=True):
    """The number of interests of a recall, and how their candidates become one list."""

    interests: int = Field(2, ge=1, le=MAX_INTERESTS, description="interests per recall")
    merge: Literal["quotas", "probability"] = Field(
        "quotas",
        description="quotas: each interest gives its share of the list; probability: the items "
        "with the highest mean probability over the interests",
    )
    first_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="the first interest's share of the list, or its weight in the mean; the others "
        "share the rest equally",
    )
    weights: tuple[float, ...] = Field(
        (),
        max_length=MAX_INTERESTS,
        description="probability: the weight of each interest in the mean, in place of first_share "
        "(default: none)",
    )
    outcome: str | None = Field(
        None,
        description="the action that users shall take, such as like: figures are of the items that "
        "got it, and a network that reads outcomes is asked for it",
    )
    avoid: str | None = Field(
        None, description="the action that users shall not take, such as dislike; see guidance"
    )
    guidance: float = Field(
        0.0,
        ge=0,
        le=4,
        description="networks that read outcomes: an interest is 1 + guidance times the one for "
        "the outcome, less guidance times the one for the action to avoid",
    )

    @model_validator(mode="after")
    def _guidance_has_two_outcomes(self) -> Self:
        if self.guidance and None in (self.outcome, self.avoid):
            raise ValueError(
                f"guidance = {self.guidance:g} needs both an outcome that is wanted and one to "
                "avoid: say --recall.outcome and --recall.avoid"
            )
        return self

    @model_validator(mode="after")
    def _every_interest_has_a_weight(self) -> Self:
        if self.weights and len(self.weights) != self.interests:
            raise ValueError(
                f"weights = {list(self.weights)} are not one for each of the {self.interests} "
                "interests"
            )
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf):
            raise ValueError(
                f"weights = {list(self.weights)}: they may not be negative, nor all of them 0"
            )
        return self
