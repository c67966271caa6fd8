"""The answers of the service. Fields that a newer service adds are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Json = Mapping[str, Any]

DegradedReason = Literal["no_history", "unknown_items", "store_unavailable", "unreadable_history"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One recalled item. `interest` counts from 0; -1 is a popular item that completes the list.

    `team` is the arm that gave the item, where an experiment interleaves the lists of its arms.
    """

    item_id: str
    score: float
    interest: int
    metadata: Json | None = None
    team: str | None = None


@dataclass(frozen=True, slots=True)
class FilterEffect:
    """The effect of the request's filter."""

    matched: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class VarietyEffect:
    """The effect of caps, diversity and fresh items: sums of scores with and without them."""

    score: float
    plain_score: float
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Arm:
    """The arm of a user in an experiment."""

    experiment: str
    arm: str
    versions: Mapping[str, str] | None = None
    """The version of each team, if two versions are interleaved."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Candidates, best first within each interest."""

    request_id: str
    version: str
    items: tuple[Candidate, ...]
    degraded: bool
    degraded_reason: DegradedReason | None
    unknown_items: int
    cursor: str | None = None
    filter: FilterEffect | None = None
    variety: VarietyEffect | None = None
    experiments: tuple[Arm, ...] = ()

    @property
    def item_ids(self) -> list[str]:
        """The ids of the items, in order."""
        return [item.item_id for item in self.items]

    @classmethod
    def of(cls, answer: Json) -> Self:
        """Returns the recall in an answer. Raises KeyError or TypeError if it is not one."""
        effect, variety = answer.get("filter"), answer.get("variety")
        return cls(
            request_id=answer["request_id"],
            version=answer["version"],
            items=tuple(_candidate(item) for item in answer["items"]),
            degraded=answer["degraded"],
            degraded_reason=answer["degraded_reason"],
            unknown_items=answer["unknown_items"],
            cursor=answer.get("cursor"),
            filter=FilterEffect(effect["matched"], effect["exhausted"]) if effect else None,
            variety=_variety(variety) if variety else None,
            experiments=tuple(
                Arm(arm["experiment"], arm["arm"], arm.get("versions"))
                for arm in answer.get("experiments") or ()
            ),
        )


def _variety(effect: Json) -> VarietyEffect:
    return VarietyEffect(effect["score"], effect["plain_score"], effect["exhausted"])


def _candidate(item: Json) -> Candidate:
    known = item["item_id"], item["score"], item["interest"]
    return Candidate(*known, item.get("metadata"), item.get("team"))


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with a request."""

    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """Events that need not be sent again, and those that were not stored."""

    accepted: int
    stored: int
    errors: tuple[FieldProblem, ...] = ()

    @classmethod
    def of(cls, answer: Json) -> Self:
        """Returns the acknowledgement in an answer; raises KeyError if it is not one."""
        errors = (FieldProblem(e["where"], e["problem"]) for e in answer.get("errors", ()))
        return cls(answer["accepted"], answer["stored"], tuple(errors))


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a stored history; what is not known is None."""

    item_id: str
    type: str | None = None
    timestamp: float | None = None
    value: float | None = None
    watch_seconds: float | None = None

    @classmethod
    def of(cls, answer: Json) -> Self:
        """Returns the event in an answer; raises KeyError if it is not one."""
        names = ("type", "timestamp", "value", "watch_seconds")
        return cls(answer["item_id"], *(answer.get(name) for name in names))


@dataclass(frozen=True, slots=True)
class Item:
    """An item as it is now."""

    item_id: str
    version: str
    hidden: bool
    attributes: Json
    changed: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def of(cls, answer: Json) -> Self:
        """Returns the item in an answer; raises KeyError if it is not one."""
        return cls(
            answer["item_id"],
            answer["version"],
            answer["hidden"],
            answer["attributes"],
            tuple(answer["changed"]),
            tuple(answer["ignored"]),
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """The service answers recalls."""

    ready: bool
    version: str
    store: Literal["available", "unavailable"]

    @classmethod
    def of(cls, answer: Json) -> Self:
        """Returns the readiness in an answer; raises KeyError if it is not one."""
        return cls(answer["ready"], answer["version"], answer["store"])
