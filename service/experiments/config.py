"""Experiments: which arms there are, and which users take part. The file is TOML:

    [interests]                     # the experiment's name
    layer = "recall"                # experiments of one layer share no user
    slice = [0.0, 0.5]              # the part of the layer's users that takes part
    users = { "qa-1" = "four" }     # users with a fixed arm, for tests

    [interests.arms.one]            # the first arm is the control
    recall = { interests = 1 }      # fields of a recall, as in a scenario

    [interests.arms.four]
    weight = 2                      # twice as many users as an arm of weight 1
    recall = { interests = 4 }

    [network.arms.narrow]
    version = "shop-20261101-…"     # a version of the artifact store, served beside `current`

Front ends load this module, so it imports no library that computes.
"""

import tomllib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.experiments.team_draft import INTERLEAVED

MAX_EXPERIMENTS = 100
MAX_ARMS = 20
MAX_VERSIONS = 4
"""Versions that arms can name, each of which takes an engine."""

SHARED_FIELDS = {"k", "page_size", "with_metadata"}
"""Fields of a recall that belong to the whole answer, so that interleaved arms cannot set them."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[^/.\x00][^/\x00]{0,254}$")]
Position = Annotated[float, Field(ge=0, le=1)]


class Checked(BaseModel):
    """A part of the file: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Checked):
    """One of the settings that an experiment compares; what is not set is as without it."""

    weight: float = Field(1.0, gt=0, description="its users, in proportion to the other arms'")
    recall: dict[str, Any] = Field(
        default_factory=dict, description="fields of a recall that the arm sets"
    )
    version: Version | None = Field(
        None, description="version that answers its users (default: the served one)"
    )


class Experiment(Checked):
    """An experiment on some of the users."""

    layer: Name = Field("default", description="experiments of one layer share no user")
    slice: tuple[Position, Position] = Field(
        (0.0, 1.0), description="part of the layer's users that takes part: from, to"
    )
    salt: str = Field(
        "", max_length=128, description="changes who gets which arm (default: the name)"
    )
    users: dict[str, Name] = Field(
        default_factory=dict, max_length=10_000, description="users with a fixed arm"
    )
    interleave: bool = Field(
        False, description="every answer is a draft of both arms' lists: two arms, no weights"
    )
    arms: dict[Name, Arm] = Field(
        min_length=2, max_length=MAX_ARMS, description="what is compared; the first is the control"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if INTERLEAVED in self.arms:
            raise ValueError(f"arms: {INTERLEAVED} names drafts of two arms: rename this arm")
        begin, end = self.slice
        if begin >= end:
            raise ValueError(f"slice = [{begin}, {end}] holds no user: the second must be larger")
        unknown = sorted(set(self.users.values()) - set(self.arms))
        if unknown:
            raise ValueError(f"users: {unknown[0]} is no arm; the arms are {', '.join(self.arms)}")
        without = [name for name, arm in self.arms.items() if arm.version is None]
        if without and self.versions:
            raise ValueError(
                f"arms: {without[0]} names no version, and others do: a publication would change "
                "this arm only. Name the version of every arm"
            )
        return self

    @model_validator(mode="after")
    def _two_equal_teams(self) -> Self:
        if not self.interleave:
            return self
        if len(self.arms) != 2 or len({arm.weight for arm in self.arms.values()}) > 1:
            raise ValueError("interleave: two arms are drafted, and have no weights")
        for name, arm in self.arms.items():
            if fields := SHARED_FIELDS & arm.recall.keys():
                raise ValueError(f"interleave: both arms share {min(fields)}, which {name} sets")
        return self

    @property
    def versions(self) -> frozenset[str]:
        """The versions that its arms name."""
        return frozenset(arm.version for arm in self.arms.values() if arm.version is not None)

    @property
    def control(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))


class Experiments(RootModel[Annotated[dict[Name, Experiment], Field(max_length=MAX_EXPERIMENTS)]]):
    """All experiments that run, by name."""

    @property
    def versions(self) -> frozenset[str]:
        """The versions that arms name."""
        return frozenset[str]().union(*(one.versions for one in self.root.values()))

    @model_validator(mode="after")
    def _bounded_versions(self) -> Self:
        if len(self.versions) > MAX_VERSIONS:
            raise ValueError(
                f"arms name {len(self.versions)} versions, and {MAX_VERSIONS} are allowed: each of "
                "them takes the memory of an engine"
            )
        layers = sorted({one.layer for one in self.root.values() if one.versions})
        if len(layers) > 1:
            raise ValueError(
                f"arms name versions in the layers {' and '.join(layers)}: a user of both would "
                "need two versions, so put these experiments into one layer"
            )
        return self

    @model_validator(mode="after")
    def _one_draft_at_a_time(self) -> Self:
        layers = sorted({one.layer for one in self.root.values() if one.interleave})
        if len(layers) > 1:
            raise ValueError(
                f"interleaved experiments in the layers {' and '.join(layers)} would share users: "
                "put them into one layer"
            )
        return self

    @model_validator(mode="after")
    def _disjoint_in_layers(self) -> Self:
        layers = defaultdict(list)
        fixed: dict[tuple[str, str], str] = {}
        for name, experiment in self.root.items():
            layers[experiment.layer].append((*experiment.slice, name))
            for user in experiment.users:
                other = fixed.setdefault((experiment.layer, user), name)
                if other != name:
                    raise ValueError(
                        f"{other} and {name} fix arms of the same user in the layer "
                        f"{experiment.layer}: leave them in one of the two"
                    )
        for layer, slices in layers.items():
            slices.sort()
            for (_, end, name), (begin, _, following) in pairwise(slices):
                if begin < end:
                    raise ValueError(
                        f"{name} and {following} share users of the layer {layer}: give them "
                        "slices that do not overlap, or layers of their own"
                    )
        return self


def read_experiments(path: Path) -> Experiments:
    """Reads the file. Raises ValueError that names the key at fault, OSError if it is not there."""
    try:
        return Experiments.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{path}: {where}: {problem['msg']}".replace(": : ", ": ")) from error
